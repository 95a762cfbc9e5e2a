//! The shares that a run has lost, and what that makes of its end.

use minivmm_fs::Tag;
use minivmm_vmm::{
    End,
    config::{OnFailure, Share},
};

/// The losses of one run.
#[derive(Debug, Default)]
pub struct Losses {
    known: Vec<Tag>,
    /// The share whose loss ends the run.
    ends: Option<(Tag, OnFailure)>,
}

impl Losses {
    /// The guest has lost `share`. Says what is to follow, the first time: a loss may be noticed in several ways.
    pub fn add(&mut self, share: &Share) -> Option<OnFailure> {
        if self.known.contains(&share.tag) {
            return None;
        }
        self.known.push(share.tag.clone());
        let policy = share.on_failure;
        // Of two that are lost at once, one that wants no other run has its way.
        let counts = match policy {
            OnFailure::Ignore => false,
            OnFailure::RestartVm => self.ends.is_none(),
            OnFailure::Stop => !matches!(self.ends, Some((_, OnFailure::Stop))),
        };
        if counts {
            self.ends = Some((share.tag.clone(), policy));
        }
        Some(policy)
    }

    /// Whether the run is over by one of them.
    pub fn end_the_run(&self) -> bool {
        self.ends.is_some()
    }

    /// The end of a run that was over by a loss; `said` is how the VM ended, and `asked` whether somebody wanted it to.
    pub fn end(self, said: Option<&End>, asked: bool) -> Option<End> {
        let (tag, policy) = self.ends?;
        // It had shut down by itself before it could be ended.
        if policy == OnFailure::RestartVm && !asked && said == Some(&End::PowerOff) {
            return None;
        }
        let tag = tag.to_string();
        Some(End::BackendLost { tag })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use minivmm_vmm::VmConfig;

    use super::*;

    fn share(tag: &str, policy: OnFailure) -> Share {
        let mut config = VmConfig::from_toml(
            "name = \"a\"\n[kernel]\npath = \"k\"\n[[shares]]\ntag = \"a\"\nsource = \"/srv\"\n",
        )
        .unwrap();
        let mut share = config.shares.remove(0);
        share.tag = tag.parse().unwrap();
        share.on_failure = policy;
        share
    }

    fn end(shares: &[Share]) -> Option<End> {
        let mut losses = Losses::default();
        for share in shares {
            assert_eq!(losses.add(share), Some(share.on_failure));
        }
        losses.end(None, false)
    }

    fn lost(tag: &str) -> Option<End> {
        let tag = tag.into();
        Some(End::BackendLost { tag })
    }

    #[test]
    fn the_first_loss_counts_and_one_that_wants_no_restart_before_it() {
        let restart = |tag| share(tag, OnFailure::RestartVm);
        let stop = |tag| share(tag, OnFailure::Stop);
        let ignore = share("i", OnFailure::Ignore);
        assert_eq!(end(std::slice::from_ref(&ignore)), None);
        assert_eq!(end(&[ignore, restart("a"), restart("b")]), lost("a"));
        assert_eq!(end(&[stop("a"), restart("b"), stop("c")]), lost("a"));
        assert_eq!(end(&[restart("a"), stop("b"), stop("c")]), lost("b"));
    }

    #[test]
    fn a_loss_that_is_noticed_twice_is_one() {
        let mut losses = Losses::default();
        let share = share("a", OnFailure::Ignore);
        assert_eq!(losses.add(&share), Some(OnFailure::Ignore));
        assert_eq!(losses.add(&share), None);
    }

    #[test]
    fn a_guest_that_had_powered_off_before_it_could_be_restarted_stays_off() {
        let end = |policy, said, asked| {
            let mut losses = Losses::default();
            losses.add(&share("a", policy));
            losses.end(said, asked)
        };
        let off = Some(&End::PowerOff);
        assert_eq!(end(OnFailure::RestartVm, off, false), None);
        assert_eq!(end(OnFailure::RestartVm, off, true), lost("a"));
        assert_eq!(end(OnFailure::Stop, off, false), lost("a"));
        assert_eq!(
            end(OnFailure::RestartVm, Some(&End::Reset), false),
            lost("a")
        );
    }
}
