//! When a VM counts as started.

use std::time::{Duration, Instant};

use minivmm_vmm::config::{Lifecycle, Ready};

/// How far the start has come. A restart in place keeps what was reached.
#[derive(Debug)]
pub struct Readiness {
    by: Ready,
    timeout: Duration,
    state: State,
    /// The guest has said something.
    spoke: bool,
}

#[derive(Debug, PartialEq, Eq)]
enum State {
    Starting,
    /// The guest runs and is to say that it is ready, or at least something, by then.
    Waiting {
        until: Instant,
    },
    /// The same, and it cannot say anything because it does not run: this much of its time was left.
    Paused {
        left: Duration,
    },
    Ready,
    Failed,
}

impl Readiness {
    /// A VM that has not started.
    pub fn new(lifecycle: &Lifecycle) -> Self {
        Self {
            by: lifecycle.ready,
            timeout: lifecycle.ready_timeout,
            state: State::Starting,
            spoke: false,
        }
    }

    /// Every vCPU thread runs; says whether that makes the VM ready.
    pub fn vcpus_run(&mut self, now: Instant) -> bool {
        match (&self.state, self.by) {
            (State::Ready | State::Failed, _) => false,
            (_, Ready::Vcpus) => {
                self.state = State::Ready;
                true
            }
            (_, Ready::Guest) => {
                self.wait(now);
                false
            }
        }
    }

    /// The guest has said something, and whether it is ready; says whether that makes the VM ready.
    pub fn guest_says(&mut self, ready: bool, now: Instant) -> bool {
        self.spoke = true;
        match (&self.state, ready) {
            (State::Waiting { .. } | State::Paused { .. }, true) => {
                self.state = State::Ready;
                true
            }
            (State::Waiting { .. }, false) => {
                self.wait(now);
                false
            }
            // On its way when the guest was stopped.
            (State::Paused { .. }, false) => {
                self.state = State::Paused { left: self.timeout };
                false
            }
            _ => false,
        }
    }

    /// The guest does not run; says whether it is waited for.
    pub fn paused(&mut self, now: Instant) -> bool {
        if let State::Waiting { until } = self.state {
            self.state = State::Paused {
                left: until.saturating_duration_since(now),
            };
        }
        matches!(self.state, State::Paused { .. })
    }

    /// The guest runs again, and has what was left of its time.
    pub fn resumed(&mut self, now: Instant) {
        if let State::Paused { left } = self.state {
            self.wait_for(left, now);
        }
    }

    fn wait(&mut self, now: Instant) {
        self.wait_for(self.timeout, now);
    }

    fn wait_for(&mut self, time: Duration, now: Instant) {
        let until = now.checked_add(time);
        self.state = State::Waiting {
            // A time-out beyond the clock's end is none.
            until: until.unwrap_or(now + Duration::from_secs(u32::MAX.into())),
        };
    }

    /// The VM is to end: nobody waits for it any more.
    pub fn give_up(&mut self) {
        if self.state != State::Ready {
            self.state = State::Failed;
        }
    }

    /// Whether the VM counts as started.
    pub fn is_ready(&self) -> bool {
        self.state == State::Ready
    }

    /// How long the guest may be silent, while it is waited for.
    pub fn patience(&self) -> Option<Duration> {
        matches!(self.state, State::Waiting { .. }).then_some(self.timeout)
    }

    /// When the start has failed, unless the guest says something before.
    pub fn deadline(&self) -> Option<Instant> {
        match self.state {
            State::Waiting { until } => Some(until),
            _ => None,
        }
    }

    /// Whether the start fails at `now`: the words for a person, once.
    pub fn fails(&mut self, now: Instant) -> Option<String> {
        if now < self.deadline()? {
            return None;
        }
        self.state = State::Failed;
        let timeout = self.timeout;
        Some(match self.spoke {
            false => format!(
                "the guest never spoke: lifecycle.ready = \"guest\", and no notification came over vsock within {timeout:?} \
                 (lifecycle.ready_timeout); it takes systemd 254 or newer as the guest's init and its vsock driver \
                 (vmw_vsock_virtio_transport) before that starts"
            ),
            true => format!(
                "the guest has not become ready: it began to say what it starts, and then nothing for {timeout:?} \
                 (lifecycle.ready_timeout)"
            ),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn readiness(by: Ready) -> Readiness {
        Readiness::new(&Lifecycle {
            ready: by,
            ready_timeout: 10 * SECOND,
            ..Lifecycle::default()
        })
    }

    #[test]
    fn by_vcpus_it_is_ready_once_and_whatever_the_guest_says() {
        let now = Instant::now();
        let mut readiness = readiness(Ready::Vcpus);
        assert!(!readiness.guest_says(true, now), "before it runs");
        assert!(readiness.vcpus_run(now));
        assert!(!readiness.vcpus_run(now), "a restart in place");
        assert!(!readiness.guest_says(true, now));
        assert_eq!(readiness.fails(now + 1000 * SECOND), None);
    }

    #[test]
    fn by_the_guest_each_of_its_words_gives_it_more_time() {
        let start = Instant::now();
        let mut readiness = readiness(Ready::Guest);
        assert_eq!(
            readiness.fails(start + 1000 * SECOND),
            None,
            "before it runs"
        );
        assert!(!readiness.vcpus_run(start));
        assert_eq!(readiness.deadline(), Some(start + 10 * SECOND));
        assert!(!readiness.guest_says(false, start + 9 * SECOND));
        assert_eq!(readiness.fails(start + 18 * SECOND), None);
        assert!(readiness.guest_says(true, start + 18 * SECOND));
        assert!(!readiness.guest_says(true, start + 18 * SECOND));
        assert_eq!(readiness.deadline(), None);
    }

    #[test]
    fn a_guest_that_does_not_run_has_all_the_time_and_afterwards_what_was_left() {
        let start = Instant::now();
        let mut readiness = readiness(Ready::Guest);
        assert!(!readiness.paused(start), "it does not run yet");
        readiness.vcpus_run(start);
        assert!(readiness.paused(start + 7 * SECOND));
        assert!(readiness.paused(start + 8 * SECOND), "twice");
        assert_eq!(readiness.deadline(), None);
        assert_eq!(readiness.fails(start + 1000 * SECOND), None);
        readiness.resumed(start + 1000 * SECOND);
        assert_eq!(readiness.deadline(), Some(start + 1003 * SECOND));

        readiness.paused(start + 1001 * SECOND);
        assert!(!readiness.guest_says(false, start + 1001 * SECOND));
        readiness.resumed(start + 2000 * SECOND);
        assert_eq!(readiness.deadline(), Some(start + 2010 * SECOND));
        readiness.paused(start + 2001 * SECOND);
        assert!(readiness.guest_says(true, start + 2001 * SECOND));
        assert!(!readiness.paused(start + 2002 * SECOND));
        readiness.resumed(start + 2003 * SECOND);
        assert!(readiness.is_ready());
    }

    #[test]
    fn a_silent_guest_fails_once_and_the_words_tell_whether_it_ever_spoke() {
        let start = Instant::now();
        let mut silent = readiness(Ready::Guest);
        silent.vcpus_run(start);
        let words = silent.fails(start + 10 * SECOND).unwrap_or_default();
        assert!(words.starts_with("the guest never spoke"), "{words}");
        assert_eq!(silent.fails(start + 20 * SECOND), None);
        assert!(!silent.guest_says(true, start + 20 * SECOND), "too late");
        let mut stuck = readiness(Ready::Guest);
        stuck.vcpus_run(start);
        stuck.guest_says(false, start);
        let words = stuck.fails(start + 10 * SECOND).unwrap_or_default();
        assert!(words.contains("then nothing for 10s"), "{words}");
    }
}
