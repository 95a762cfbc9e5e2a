//! The service manager's watchdog (sd_watchdog_enabled(3)): it hears from us only while the VM makes progress.

use std::time::{Duration, Instant};

/// How long the VMM process may take to put a machine together, in which it answers nobody.
const START: Duration = Duration::from_secs(60);

/// When it is to be fed, and by whom.
#[derive(Debug)]
pub struct Watchdog {
    /// Half of what the service manager waits for, as it recommends.
    every: Duration,
    next: Instant,
    /// While the VMM process cannot answer, because there is none or because it makes its machine, this one's own
    /// progress counts; of one that makes its machine until then.
    alone: Option<Option<Instant>>,
}

/// What is due.
#[derive(Debug, PartialEq, Eq)]
pub enum Due {
    /// Nothing.
    Nothing,
    /// To ask the VMM whether it makes progress.
    Ask,
    /// To feed the watchdog.
    Feed,
}

impl Watchdog {
    /// The one that is asked for by `WATCHDOG_USEC`, unless `WATCHDOG_PID` means another process.
    pub fn from_environment(now: Instant) -> Option<Self> {
        let number = |name| {
            let value = std::env::var(name).ok()?;
            value.parse::<u64>().ok()
        };
        let named = std::env::var_os("WATCHDOG_PID").is_some();
        if named && number("WATCHDOG_PID") != Some(std::process::id().into()) {
            return None;
        }
        let usec = number("WATCHDOG_USEC").filter(|usec| *usec > 0 && *usec < u64::MAX)?;
        Some(Self::new(Duration::from_micros(usec), now))
    }

    /// One that has to be fed within each `interval`.
    pub fn new(interval: Duration, now: Instant) -> Self {
        Self {
            every: (interval / 2).max(Duration::from_millis(1)),
            next: now,
            alone: Some(None),
        }
    }

    /// A VMM process was started, which makes its machine.
    pub fn vmm_starts(&mut self, now: Instant) {
        self.alone = Some(Some(now + START));
    }

    /// It runs its machine, and answers.
    pub fn vmm_runs(&mut self) {
        self.alone = None;
    }

    /// It is about to end, or has.
    pub fn vmm_ends(&mut self) {
        self.alone = Some(None);
    }

    /// What is due at `now`.
    pub fn due(&mut self, now: Instant) -> Due {
        if now < self.next {
            return Due::Nothing;
        }
        // Behind time it does not hurry to make up for it.
        self.next = now + self.every;
        match self.alone {
            None => Due::Ask,
            Some(Some(until)) if now >= until => Due::Nothing,
            Some(_) => Due::Feed,
        }
    }

    /// When to look again.
    pub fn next(&self) -> Instant {
        self.next
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn it_asks_twice_an_interval_and_hurries_for_nobody() {
        let start = Instant::now();
        let mut watchdog = Watchdog::new(10 * SECOND, start);
        watchdog.vmm_runs();
        assert_eq!(watchdog.due(start), Due::Ask);
        assert_eq!(watchdog.due(start + 4 * SECOND), Due::Nothing);
        assert_eq!(watchdog.next(), start + 5 * SECOND);
        assert_eq!(watchdog.due(start + 60 * SECOND), Due::Ask);
        assert_eq!(watchdog.due(start + 60 * SECOND), Due::Nothing);
    }

    #[test]
    fn without_a_vmm_that_answers_it_feeds_by_itself_but_a_start_does_not_last_for_ever() {
        let start = Instant::now();
        let mut watchdog = Watchdog::new(10 * SECOND, start);
        assert_eq!(watchdog.due(start), Due::Feed);
        watchdog.vmm_starts(start);
        assert_eq!(watchdog.due(start + 5 * SECOND), Due::Feed);
        assert_eq!(watchdog.due(start + START), Due::Nothing);
        watchdog.vmm_ends();
        assert_eq!(watchdog.due(start + START + 5 * SECOND), Due::Feed);
    }
}
