//! Whether a VM that has ended is started again, and when.
//!
//! What fails, and what is over too soon, is counted: so a VM that cannot work is given up, and one that reboots itself
//! for good reasons may do so as often as it likes.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use minivmm_vmm::{
    End, VmConfig,
    config::{AfterEnd, OnFailure},
};

/// Restarts that count and are possible within [`WITHIN`].
pub const MOST: usize = 5;
/// How long a restart counts.
pub const WITHIN: Duration = Duration::from_secs(600);
/// A run that lasted so long has worked: what came before it slows nothing down, and if the guest itself ended it,
/// the restart does not count.
pub const STEADY: Duration = Duration::from_secs(120);
/// The wait before the second restart after runs that were shorter; it doubles with each further one.
const FIRST_DELAY: Duration = Duration::from_secs(1);
/// The longest wait.
const MOST_DELAY: Duration = Duration::from_secs(30);

/// Why a VM is started again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// Something failed: the guest's kernel, a share, a start.
    Failure,
    /// The guest wanted it: it powered off or asked for a reset.
    Guest,
    /// Somebody asked for it.
    Asked,
}

/// Whether the configuration wants a new run after this end of a VM that nobody had asked for, and why.
pub fn wanted(config: &VmConfig, end: &End) -> Option<Cause> {
    let lifecycle = &config.lifecycle;
    let (after, cause) = match end {
        End::PowerOff => (lifecycle.on_poweroff, Cause::Guest),
        End::Reset => (lifecycle.on_reboot, Cause::Guest),
        End::Panic | End::TripleFault => (lifecycle.on_panic, Cause::Failure),
        End::Watchdog => (lifecycle.on_watchdog, Cause::Failure),
        End::BackendLost { tag } => {
            let share = config.shares.iter().find(|s| s.tag.as_str() == tag);
            let restarts = share.is_some_and(|s| s.on_failure == OnFailure::RestartVm);
            return restarts.then_some(Cause::Failure);
        }
        End::Killed | End::NotReady { .. } | End::Fault { .. } => return None,
    };
    (after == AfterEnd::Restart).then_some(cause)
}

/// What follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Another run, after a wait.
    Start {
        /// How long to wait.
        delay: Duration,
        /// Which of [`MOST`] it is, if it counts.
        count: Option<usize>,
    },
    /// None: all that are possible are used up.
    GiveUp,
}

impl std::fmt::Display for Next {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let minutes = WITHIN.as_secs() / 60;
        match self {
            Self::Start { delay, count } => {
                f.write_str("starting the VM again")?;
                if let Some(n) = count {
                    write!(f, ": {n} of at most {MOST} restarts in {minutes} minutes")?;
                }
                if !delay.is_zero() {
                    write!(f, ", in {} s", delay.as_secs())?;
                }
                Ok(())
            }
            Self::GiveUp => write!(
                f,
                "the VM is not started again: it was {MOST} times in {minutes} minutes"
            ),
        }
    }
}

/// Counts restarts, so that what cannot work is not tried for ever.
#[derive(Debug, Default)]
pub struct Restarts {
    counted: VecDeque<Instant>,
    /// Runs in a row that were shorter than [`STEADY`].
    short: u32,
}

impl Restarts {
    /// Says what follows a run that lasted for `ran`, and counts it.
    pub fn next(&mut self, cause: Cause, ran: Duration, now: Instant) -> Next {
        let steady = ran >= STEADY;
        if steady {
            self.short = 0;
        }
        if cause == Cause::Asked || (cause == Cause::Guest && steady) {
            return Next::Start {
                delay: Duration::ZERO,
                count: None,
            };
        }
        let old = |first: &Instant| now.saturating_duration_since(*first) >= WITHIN;
        while self.counted.front().is_some_and(old) {
            self.counted.pop_front();
        }
        if self.counted.len() >= MOST {
            return Next::GiveUp;
        }
        self.counted.push_back(now);
        let delay = match self.short {
            0 => Duration::ZERO,
            n => FIRST_DELAY
                .saturating_mul(1 << (n - 1).min(16))
                .min(MOST_DELAY),
        };
        if !steady {
            self.short += 1;
        }
        Next::Start {
            delay,
            count: Some(self.counted.len()),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const MINUTE: Duration = Duration::from_secs(60);

    fn count(next: Next) -> Option<usize> {
        match next {
            Next::Start { count, .. } => count,
            Next::GiveUp => None,
        }
    }

    #[test]
    fn five_failures_in_ten_minutes_are_possible() {
        let start = Instant::now();
        let mut restarts = Restarts::default();
        let mut fail = |at: u32| restarts.next(Cause::Failure, 3 * MINUTE, start + at * MINUTE);
        for n in 1..=5_u32 {
            assert_eq!(count(fail(n)), Some(n as usize));
        }
        assert_eq!(fail(6), Next::GiveUp);
        // The first counts no longer; what was refused never did.
        assert_eq!(count(fail(11)), Some(5));
        assert_eq!(fail(11), Next::GiveUp);
        assert_eq!(count(fail(60)), Some(1));
    }

    #[test]
    fn a_guest_that_reboots_after_it_has_worked_may_do_so_for_ever() {
        let start = Instant::now();
        let mut restarts = Restarts::default();
        for n in 1..=1000 {
            let next = restarts.next(Cause::Guest, STEADY, start + n * STEADY);
            let delay = Duration::ZERO;
            assert_eq!(next, Next::Start { delay, count: None });
        }
    }

    #[test]
    fn a_boot_loop_slows_down_and_is_ended() {
        let mut now = Instant::now();
        let mut restarts = Restarts::default();
        let mut delays = Vec::new();
        loop {
            now += 2 * SECOND;
            match restarts.next(Cause::Guest, 2 * SECOND, now) {
                Next::Start { delay, .. } => {
                    delays.push(delay.as_secs());
                    now += delay;
                }
                Next::GiveUp => break,
            }
        }
        assert_eq!(delays, [0, 1, 2, 4, 8]);
    }

    #[test]
    fn a_run_that_worked_takes_the_wait_away() {
        let start = Instant::now();
        let mut restarts = Restarts::default();
        let delay = |next| match next {
            Next::Start { delay, .. } => delay,
            Next::GiveUp => Duration::MAX,
        };
        let short = SECOND;
        assert_eq!(
            delay(restarts.next(Cause::Failure, short, start)),
            Duration::ZERO
        );
        assert_eq!(delay(restarts.next(Cause::Failure, short, start)), SECOND);
        assert_eq!(
            delay(restarts.next(Cause::Failure, STEADY, start)),
            Duration::ZERO
        );
        assert_eq!(
            delay(restarts.next(Cause::Failure, short, start)),
            Duration::ZERO
        );
        assert_eq!(delay(restarts.next(Cause::Failure, short, start)), SECOND);
    }

    #[test]
    fn waits_end_where_they_are_long_enough() {
        let mut restarts = Restarts::default();
        let start = Instant::now();
        for n in 1..200 {
            // So rarely that the count is never reached.
            let next = restarts.next(Cause::Failure, SECOND, start + n * 3 * MINUTE);
            assert!(
                matches!(next, Next::Start { delay, .. } if delay <= MOST_DELAY),
                "{next:?}"
            );
        }
    }

    #[test]
    fn what_somebody_asks_for_is_neither_counted_nor_slow() {
        let mut restarts = Restarts::default();
        for _ in 0..100 {
            let next = restarts.next(Cause::Asked, Duration::ZERO, Instant::now());
            assert_eq!(next.to_string(), "starting the VM again");
        }
    }

    #[test]
    fn what_follows_an_end_is_what_the_configuration_says() {
        let config = |lifecycle: &str| {
            VmConfig::from_toml(&format!(
                "name = \"a\"\n[kernel]\npath = \"k\"\n[lifecycle]\n{lifecycle}\n\
                 [[shares]]\ntag = \"default\"\nsource = \"/srv\"\n\
                 [[shares]]\ntag = \"stop\"\nsource = \"/srv\"\non_failure = \"stop\"\n",
            ))
            .unwrap()
        };
        let lost = |tag: &str| End::BackendLost { tag: tag.into() };
        let fault = End::Fault {
            what: String::new(),
        };
        let default = config("");
        assert_eq!(wanted(&default, &lost("default")), Some(Cause::Failure));
        assert_eq!(wanted(&default, &lost("stop")), None);
        assert_eq!(wanted(&default, &lost("unknown")), None);
        let guests = [
            End::PowerOff,
            End::Reset,
            End::Panic,
            End::TripleFault,
            End::Watchdog,
        ];
        for end in guests.iter().chain([&End::Killed, &fault]) {
            assert_eq!(wanted(&default, end), None, "{end:?}");
        }
        for (key, ends, cause) in [
            ("on_poweroff", &guests[..1], Cause::Guest),
            ("on_reboot", &guests[1..2], Cause::Guest),
            ("on_panic", &guests[2..4], Cause::Failure),
            ("on_watchdog", &guests[4..], Cause::Failure),
        ] {
            let config = config(&format!("{key} = \"restart\""));
            for end in guests.iter().chain([&End::Killed, &fault]) {
                let expected = ends.contains(end).then_some(cause);
                assert_eq!(wanted(&config, end), expected, "{key}: {end:?}");
            }
        }
    }
}
