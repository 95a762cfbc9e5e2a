//! From the first signal to a VM's end: the power button, pressed again until the guest ends, then force.

use std::time::{Duration, Instant};

/// A press before the guest listens is lost, so it is pressed again.
const PRESS_EVERY: Duration = Duration::from_secs(3);
/// How long the VMM process may take to end its VM before it is killed.
const END_PATIENCE: Duration = Duration::from_secs(15);

/// What is to be done.
#[derive(Debug, PartialEq, Eq)]
pub enum Action {
    /// Nothing yet, for this long at the most; without a time, until something happens.
    Wait(Option<Duration>),
    /// Ask the guest to shut down.
    PressPowerButton,
    /// Tell the VMM to end the VM.
    End,
    /// Kill the VMM process.
    KillProcess,
}

#[derive(Debug)]
enum State {
    Running,
    ShuttingDown { deadline: Instant, press: Instant },
    Ending,
    Waiting { kill: Instant },
    Killed,
}

/// The course of a stop.
#[derive(Debug)]
pub struct Stop {
    timeout: Duration,
    state: State,
}

impl Stop {
    /// Nobody has asked yet; `timeout` is what the guest has for its shutdown.
    pub fn new(timeout: Duration) -> Self {
        Self {
            timeout,
            state: State::Running,
        }
    }

    /// Somebody asks for the VM's end: the first time the guest is to shut down, the second time it is
    /// ended at once.
    pub fn asked(&mut self, now: Instant) {
        self.state = match self.state {
            State::Running => {
                tracing::info!("asking the guest to shut down");
                State::ShuttingDown {
                    // A timeout beyond the clock's end is none.
                    deadline: now
                        .checked_add(self.timeout)
                        .unwrap_or(now + Duration::from_secs(u32::MAX.into())),
                    press: now,
                }
            }
            State::ShuttingDown { .. } => State::Ending,
            State::Ending => State::Ending,
            State::Waiting { kill } => State::Waiting { kill },
            State::Killed => State::Killed,
        };
    }

    /// Whether the end of the VM has begun, of whosever wish.
    pub fn has_begun(&self) -> bool {
        !matches!(self.state, State::Running)
    }

    /// The VMM ends its VM; it is killed if it takes too long.
    pub fn ending(&mut self, now: Instant) {
        if !matches!(self.state, State::Waiting { .. } | State::Killed) {
            self.state = State::Waiting {
                kill: now + END_PATIENCE,
            };
        }
    }

    /// The VMM process cannot be trusted to end its VM.
    pub fn kill_now(&mut self) {
        if !matches!(self.state, State::Killed) {
            self.state = State::Waiting {
                kill: Instant::now(),
            };
        }
    }

    /// Whether the VM is being ended by force.
    pub fn is_killing(&self) -> bool {
        !matches!(self.state, State::Running | State::ShuttingDown { .. })
    }

    /// Whether the VMM process was killed.
    pub fn has_killed(&self) -> bool {
        matches!(self.state, State::Killed)
    }

    /// What is due at `now`; to be called until it says to wait.
    pub fn due(&mut self, now: Instant) -> Action {
        match &mut self.state {
            State::Running | State::Killed => Action::Wait(None),
            State::ShuttingDown { deadline, .. } if now >= *deadline => {
                tracing::warn!("the guest has not shut down within {:?}", self.timeout);
                self.state = State::Ending;
                self.due(now)
            }
            State::ShuttingDown { deadline, press } => {
                if now >= *press {
                    *press = now + PRESS_EVERY;
                    return Action::PressPowerButton;
                }
                Action::Wait(Some((*press).min(*deadline) - now))
            }
            State::Ending => {
                self.state = State::Waiting {
                    kill: now + END_PATIENCE,
                };
                Action::End
            }
            State::Waiting { kill } if now >= *kill => {
                self.state = State::Killed;
                Action::KillProcess
            }
            State::Waiting { kill } => Action::Wait(Some(*kill - now)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn the_button_is_pressed_every_three_seconds_until_the_deadline() {
        let start = Instant::now();
        let mut stop = Stop::new(7 * SECOND);
        assert_eq!(stop.due(start), Action::Wait(None));
        stop.asked(start);
        for at in [0, 3, 6] {
            assert_eq!(stop.due(start + at * SECOND), Action::PressPowerButton);
        }
        assert_eq!(stop.due(start + 6 * SECOND), Action::Wait(Some(SECOND)));
        assert!(!stop.is_killing());
        assert_eq!(stop.due(start + 7 * SECOND), Action::End);
        assert!(stop.is_killing());
        assert_eq!(
            stop.due(start + 7 * SECOND),
            Action::Wait(Some(END_PATIENCE))
        );
        let late = start + 7 * SECOND + END_PATIENCE;
        assert!(!stop.has_killed());
        assert_eq!(stop.due(late), Action::KillProcess);
        assert!(stop.has_killed());
        assert_eq!(stop.due(late), Action::Wait(None));
    }

    #[test]
    fn a_vmm_that_is_ending_its_vm_is_asked_nothing_more() {
        let start = Instant::now();
        let mut stop = Stop::new(100 * SECOND);
        assert!(!stop.has_begun());
        stop.ending(start);
        assert!(stop.has_begun() && stop.is_killing());
        stop.asked(start);
        stop.ending(start + SECOND);
        assert_eq!(stop.due(start), Action::Wait(Some(END_PATIENCE)));
        assert_eq!(stop.due(start + END_PATIENCE), Action::KillProcess);
    }

    #[test]
    fn a_second_wish_ends_it_at_once_and_further_ones_change_nothing() {
        let start = Instant::now();
        let mut stop = Stop::new(100 * SECOND);
        stop.asked(start);
        stop.asked(start);
        stop.asked(start);
        assert_eq!(stop.due(start), Action::End);
        stop.asked(start + SECOND);
        assert_eq!(
            stop.due(start + SECOND),
            Action::Wait(Some(END_PATIENCE - SECOND))
        );
    }
}
