//! How a VM ends, and the one place where its parts report it.

use std::{
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd},
    sync::{Mutex, PoisonError},
};

use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

/// How a VM ended.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum End {
    /// The guest powered itself off.
    PowerOff,
    /// The guest asked for a reset.
    Reset,
    /// A triple fault that was not a way to restart.
    TripleFault,
    /// It was ended from outside, without the guest's doing.
    Killed,
    /// The back end of a share was lost.
    BackendLost {
        /// The share's tag.
        tag: String,
    },
    /// The VM could not go on: KVM refused to run it.
    Fault {
        /// What happened, for a person.
        what: String,
    },
}

impl std::fmt::Display for End {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::PowerOff => f.write_str("the guest powered off"),
            Self::Reset => f.write_str("the guest asked for a reset"),
            Self::TripleFault => f.write_str("the guest ended in a triple fault"),
            Self::Killed => f.write_str("the VM was ended without the guest's doing"),
            Self::BackendLost { tag } => write!(f, "virtiofsd of share `{tag}` was lost"),
            Self::Fault { what } => f.write_str(what),
        }
    }
}

/// Takes the first end that any part of the VM reports; later ones are consequences of it.
pub struct EndReport {
    first: Mutex<Option<End>>,
    event: EventFd,
}

impl EndReport {
    /// Nothing reported yet.
    pub fn new() -> io::Result<Self> {
        Ok(Self {
            first: Mutex::default(),
            event: EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC)?,
        })
    }

    /// Reports an end; only the first one counts.
    pub fn report(&self, end: End) {
        let mut first = self.first.lock().unwrap_or_else(PoisonError::into_inner);
        if first.is_none() {
            *first = Some(end);
            // One write to an empty eventfd cannot fail.
            let _ = self.event.write(1);
        }
    }

    /// What was reported.
    pub fn get(&self) -> Option<End> {
        self.first
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

/// Becomes readable, and stays so, when an end was reported.
impl AsFd for EndReport {
    #[allow(unsafe_code)]
    fn as_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the descriptor is the eventfd's, open for as long as `self` is borrowed.
        unsafe { BorrowedFd::borrow_raw(self.event.as_raw_fd()) }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_first_end_counts() {
        let report = EndReport::new().unwrap();
        assert_eq!(report.get(), None);
        report.report(End::Reset);
        report.report(End::Killed);
        assert_eq!(report.get(), Some(End::Reset));
    }
}
