//! How a run of a VM, or the whole of it, was over: in words and as an exit code.

use std::{
    fmt::{self, Display},
    time::Duration,
};

use minivmm_vmm::{End, config::ExitStatus};

use crate::failure::code;

/// Why the guest was not given more time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Force {
    /// It had not shut down within this time.
    Deadline(Duration),
    /// A second signal came.
    SecondSignal,
    /// Somebody asked for it.
    Order,
}

/// What led to an end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// The guest's own doing, or a failure.
    ByItself,
    /// The guest was asked, and has ended after this time.
    Asked(Duration),
    /// The VM was ended from outside.
    Forced(Force),
    /// Somebody asked for the end before the guest was started.
    BeforeTheStart,
    /// Somebody asked for the end while no guest ran: it had ended like this, and was to start again.
    BetweenRuns,
}

/// An end, and what led to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// How the guest has ended.
    pub end: End,
    /// What led to it.
    pub way: Way,
}

impl Outcome {
    /// Nothing was started.
    pub fn before_the_start() -> Self {
        Self {
            end: End::Killed,
            way: Way::BeforeTheStart,
        }
    }

    /// The exit code of `minivmm run` (docs/exit-codes.md).
    pub fn exit_code(&self, status: ExitStatus) -> u8 {
        let guest_asked = matches!(self.end, End::PowerOff | End::Reset);
        // The guest had gone down in order, and whoever wanted it to be off has that.
        if guest_asked && (self.way == Way::BetweenRuns || status == ExitStatus::Simple) {
            return code::POWER_OFF;
        }
        match &self.end {
            End::PowerOff => code::POWER_OFF,
            End::Reset => code::RESET,
            End::TripleFault => code::TRIPLE_FAULT,
            End::Panic => code::PANIC,
            End::Killed => code::KILLED,
            End::BackendLost { .. } => code::BACKEND_LOST,
            End::Watchdog => code::WATCHDOG,
            End::NotReady { .. } => code::NOT_READY,
            End::Fault { .. } => code::VMM,
        }
    }

    /// Whether all is as somebody, or the guest, wanted it.
    pub fn is_orderly(&self) -> bool {
        matches!(self.end, End::PowerOff | End::Reset)
    }
}

/// The one line that says what happened, in the log and to systemd.
impl Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let end = &self.end;
        match (end, self.way) {
            (End::Killed, Way::Forced(Force::Deadline(timeout))) => {
                write!(f, "{end}: it had not shut down within {timeout:?}")
            }
            (End::Killed, Way::Forced(Force::SecondSignal)) => {
                write!(f, "{end}: a second signal came")
            }
            (End::Killed, Way::Forced(Force::Order)) => write!(f, "{end}: somebody asked for that"),
            (_, Way::BeforeTheStart) => {
                f.write_str("the VM was stopped before its guest was started")
            }
            (_, Way::BetweenRuns) => {
                write!(
                    f,
                    "the VM was stopped while no guest ran: {end} before that"
                )
            }
            (End::PowerOff | End::Reset, Way::Asked(time)) => {
                write!(
                    f,
                    "{end}, {:.1} s after it was asked to",
                    time.as_secs_f64()
                )
            }
            _ => write!(f, "{end}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ends() -> [End; 9] {
        [
            End::PowerOff,
            End::Reset,
            End::TripleFault,
            End::Panic,
            End::Watchdog,
            End::Killed,
            End::BackendLost { tag: "a".into() },
            End::NotReady { why: "b".into() },
            End::Fault { what: "c".into() },
        ]
    }

    fn codes(way: Way, status: ExitStatus) -> [u8; 9] {
        ends().map(|end| Outcome { end, way }.exit_code(status))
    }

    #[test]
    fn every_end_has_its_code() {
        let contract = [0, 10, 11, 12, 15, 13, 14, 16, 70];
        for way in [
            Way::ByItself,
            Way::Asked(Duration::ZERO),
            Way::Forced(Force::Order),
        ] {
            assert_eq!(codes(way, ExitStatus::Contract), contract);
            assert_eq!(
                codes(way, ExitStatus::Simple),
                [0, 0, 11, 12, 15, 13, 14, 16, 70]
            );
        }
        // Off is what was wanted; a failure stays one.
        let between = [0, 0, 11, 12, 15, 13, 14, 16, 70];
        assert_eq!(codes(Way::BetweenRuns, ExitStatus::Contract), between);
        let nothing = Outcome::before_the_start();
        assert_eq!(nothing.exit_code(ExitStatus::Simple), 13);
    }

    #[test]
    fn every_way_to_an_end_is_said_in_other_words() {
        let ways = [
            (End::PowerOff, Way::ByItself),
            (End::PowerOff, Way::Asked(Duration::from_millis(2340))),
            (End::PowerOff, Way::BetweenRuns),
            (End::Reset, Way::ByItself),
            (End::Killed, Way::ByItself),
            (End::Killed, Way::BeforeTheStart),
            (
                End::Killed,
                Way::Forced(Force::Deadline(Duration::from_secs(4))),
            ),
            (End::Killed, Way::Forced(Force::SecondSignal)),
            (End::Killed, Way::Forced(Force::Order)),
        ];
        let said = ways.map(|(end, way)| Outcome { end, way }.to_string());
        let mut different = said.to_vec();
        different.sort();
        different.dedup();
        assert_eq!(different.len(), said.len(), "{said:?}");
        assert_eq!(
            said[1],
            "the guest powered off, 2.3 s after it was asked to"
        );
        assert_eq!(
            said[6],
            "the VM was ended without the guest's doing: it had not shut down within 4s"
        );
    }
}
