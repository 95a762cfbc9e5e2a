//! Whether a VM that has ended is started again.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use minivmm_vmm::{End, VmConfig, config::OnFailure};

/// Restarts that are possible within [`WITHIN`].
pub const MOST: usize = 5;
/// How long a restart counts.
pub const WITHIN: Duration = Duration::from_secs(600);

/// Whether the configuration wants a new run after this end.
pub fn wanted(config: &VmConfig, end: &End) -> bool {
    match end {
        End::BackendLost { tag } => config
            .shares
            .iter()
            .any(|s| s.tag.as_str() == tag && s.on_failure == OnFailure::RestartVm),
        _ => false,
    }
}

/// Counts restarts, so that what cannot work is not tried for ever.
#[derive(Debug, Default)]
pub struct Restarts(VecDeque<Instant>);

impl Restarts {
    /// Takes one at `now`, and says which of [`MOST`] it is; `None` if all are used up.
    pub fn take(&mut self, now: Instant) -> Option<usize> {
        while self
            .0
            .front()
            .is_some_and(|first| now.duration_since(*first) >= WITHIN)
        {
            self.0.pop_front();
        }
        if self.0.len() >= MOST {
            return None;
        }
        self.0.push_back(now);
        Some(self.0.len())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn five_restarts_in_ten_minutes_are_possible() {
        let start = Instant::now();
        let minute = Duration::from_secs(60);
        let mut restarts = Restarts::default();
        for n in 1..=5_u32 {
            assert_eq!(restarts.take(start + n * minute), Some(n as usize));
        }
        assert_eq!(restarts.take(start + 6 * minute), None);
        // The first counts no longer; what was refused never did.
        assert_eq!(restarts.take(start + 11 * minute), Some(5));
        assert_eq!(restarts.take(start + 11 * minute), None);
        assert_eq!(restarts.take(start + 60 * minute), Some(1));
    }

    #[test]
    fn only_a_lost_share_whose_policy_it_is_restarts_the_vm() {
        let config = VmConfig::from_toml(
            "name = \"a\"\n[kernel]\npath = \"k\"\n\
             [[shares]]\ntag = \"default\"\nsource = \"/srv\"\n\
             [[shares]]\ntag = \"stop\"\nsource = \"/srv\"\non_failure = \"stop\"\n",
        )
        .unwrap();
        let lost = |tag: &str| End::BackendLost { tag: tag.into() };
        assert!(wanted(&config, &lost("default")));
        assert!(!wanted(&config, &lost("stop")));
        for end in [End::PowerOff, End::Reset, End::TripleFault, End::Killed] {
            assert!(!wanted(&config, &end), "{end:?}");
        }
    }
}
