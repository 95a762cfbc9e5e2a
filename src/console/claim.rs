//! Who may look at a console, and which one of them may type.

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// Those who look on, at most.
pub const VIEWERS: usize = 16;

/// Why somebody may not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refused {
    /// Somebody else types.
    Taken {
        /// Who.
        by: String,
    },
    /// There are [`VIEWERS`] already.
    TooMany,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Taken { by } => write!(
                f,
                "{by} types on this console already: look on with --read-only, or take it over with --force"
            ),
            Self::TooMany => write!(f, "{VIEWERS} look at this console already"),
        }
    }
}

#[derive(Debug, Default)]
struct State {
    next: u64,
    viewers: usize,
    /// Who may type, and who that is for a person.
    writer: Option<(u64, String)>,
}

/// All who look on.
#[derive(Clone, Debug, Default)]
pub struct Claims(Arc<Mutex<State>>);

/// A place among them; dropped, it is free again.
#[derive(Debug)]
pub struct Claim {
    all: Claims,
    number: u64,
    /// May type, unless somebody else has taken that over.
    types: bool,
}

impl Claims {
    /// A place to look on.
    pub fn viewer(&self) -> Result<Claim, Refused> {
        self.claim(None)
    }

    /// A place to look on and type for `who`; with `force` whoever types has to look on from now on.
    pub fn writer(&self, who: &str, force: bool) -> Result<Claim, Refused> {
        self.claim(Some((who, force)))
    }

    fn claim(&self, writer: Option<(&str, bool)>) -> Result<Claim, Refused> {
        let mut state = self.lock();
        if state.viewers >= VIEWERS {
            return Err(Refused::TooMany);
        }
        let number = state.next;
        if let Some((who, force)) = writer {
            if let (false, Some((_, by))) = (force, &state.writer) {
                return Err(Refused::Taken { by: by.clone() });
            }
            state.writer = Some((number, who.to_owned()));
        }
        state.next += 1;
        state.viewers += 1;
        Ok(Claim {
            all: self.clone(),
            number,
            types: writer.is_some(),
        })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Claim {
    /// Whether this one may type.
    pub fn types(&self) -> bool {
        let state = self.all.lock();
        (state.writer.as_ref()).is_some_and(|(number, _)| *number == self.number)
    }

    /// Who has taken the typing over from this one; said once.
    pub fn lost_to(&mut self) -> Option<String> {
        if !self.types {
            return None;
        }
        let state = self.all.lock();
        match &state.writer {
            Some((number, _)) if *number == self.number => None,
            Some((_, who)) => {
                self.types = false;
                Some(who.clone())
            }
            // They have gone again.
            None => {
                self.types = false;
                Some("somebody".to_owned())
            }
        }
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        let mut state = self.all.lock();
        state.viewers -= 1;
        state.writer.take_if(|(number, _)| *number == self.number);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn one_types_and_another_one_only_by_force_or_when_the_first_has_gone() {
        let claims = Claims::default();
        let mut first = claims.writer("process 1", false).unwrap();
        let looking = claims.viewer().unwrap();
        assert!(first.types() && !looking.types());
        let refused = claims.writer("process 2", false).unwrap_err();
        assert!(
            refused.to_string().starts_with("process 1 types"),
            "{refused}"
        );
        assert_eq!(first.lost_to(), None);

        let forced = claims.writer("process 2", true).unwrap();
        assert!(forced.types() && !first.types());
        assert_eq!(first.lost_to().as_deref(), Some("process 2"));
        assert_eq!(first.lost_to(), None, "said once");
        drop(first);
        assert!(forced.types(), "the one who lost it takes nothing along");
        drop(forced);
        assert!(claims.writer("process 3", false).unwrap().types());
    }

    #[test]
    fn there_are_no_more_than_there_is_room_for() {
        let claims = Claims::default();
        let mut all: Vec<_> = (0..VIEWERS).map(|_| claims.viewer().unwrap()).collect();
        assert_eq!(claims.viewer().unwrap_err(), Refused::TooMany);
        assert_eq!(claims.writer("a", true).unwrap_err(), Refused::TooMany);
        all.pop();
        assert!(claims.writer("a", true).is_ok());
    }
}
