//! From the first signal to a VM's end: the power button, pressed again until the guest ends, then force.

use std::time::{Duration, Instant};

use super::outcome::{Force, Way};

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
    ShuttingDown {
        deadline: Instant,
        timeout: Duration,
        /// None when the guest has said that it shuts down.
        press: Option<Instant>,
    },
    Ending,
    Waiting {
        kill: Instant,
    },
    Killed,
}

/// The course of a stop.
#[derive(Debug)]
pub struct Stop {
    timeout: Duration,
    state: State,
    /// When the guest was asked first.
    asked: Option<Instant>,
    force: Option<Force>,
}

impl Stop {
    /// Nobody has asked yet; `timeout` is what the guest has for its shutdown.
    pub fn new(timeout: Duration) -> Self {
        Self {
            timeout,
            state: State::Running,
            asked: None,
            force: None,
        }
    }

    /// A signal asks for the VM's end: the first time the guest is to shut down, the second time it is
    /// ended at once.
    pub fn asked(&mut self, now: Instant) {
        match self.state {
            State::ShuttingDown { .. } => self.force(Force::SecondSignal),
            _ => self.shut_down(now, None),
        }
    }

    /// Asks the guest to shut down, within `timeout` if it is given. If it is shutting down already, an earlier
    /// deadline counts and a later one does not.
    pub fn shut_down(&mut self, now: Instant, timeout: Option<Duration>) {
        let patience = timeout.unwrap_or(self.timeout);
        // A timeout beyond the clock's end is none.
        let end = now
            .checked_add(patience)
            .unwrap_or(now + Duration::from_secs(u32::MAX.into()));
        match &mut self.state {
            State::Running => {
                tracing::info!("asking the guest to shut down");
                self.asked = Some(now);
                self.state = State::ShuttingDown {
                    deadline: end,
                    timeout: patience,
                    press: Some(now),
                };
            }
            State::ShuttingDown {
                deadline, timeout, ..
            } if end < *deadline => (*deadline, *timeout) = (end, patience),
            _ => {}
        }
    }

    /// Ends the VM without the guest's doing, at once.
    pub fn force(&mut self, why: Force) {
        if let State::Running | State::ShuttingDown { .. } = self.state {
            self.force = Some(why);
            self.state = State::Ending;
        }
    }

    /// The guest says that it shuts down: the button has done its work.
    pub fn guest_shuts_down(&mut self) {
        if let State::ShuttingDown { press, .. } = &mut self.state {
            *press = None;
        }
    }

    /// The guest says that it is up: after a restart of its own (`systemctl soft-reboot`) it listens to the button again.
    pub fn guest_runs(&mut self, now: Instant) {
        if let State::ShuttingDown { press, .. } = &mut self.state {
            press.get_or_insert(now);
        }
    }

    /// Whether the end of the VM has begun, of whosever wish.
    pub fn has_begun(&self) -> bool {
        !matches!(self.state, State::Running)
    }

    /// What has led to the VM's end at `now`.
    pub fn way(&self, now: Instant) -> Way {
        match (self.force, self.asked) {
            (Some(force), _) => Way::Forced(force),
            (None, Some(asked)) => Way::Asked(now.saturating_duration_since(asked)),
            (None, None) => Way::ByItself,
        }
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
            State::ShuttingDown {
                deadline, timeout, ..
            } if now >= *deadline => {
                let timeout = *timeout;
                tracing::warn!("the guest has not shut down within {timeout:?}");
                self.force(Force::Deadline(timeout));
                self.due(now)
            }
            State::ShuttingDown {
                deadline, press, ..
            } => {
                if press.is_some_and(|press| now >= press) {
                    *press = Some(now + PRESS_EVERY);
                    return Action::PressPowerButton;
                }
                let next = press.map_or(*deadline, |press| press.min(*deadline));
                Action::Wait(Some(next - now))
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

    #[test]
    fn a_guest_that_says_that_it_shuts_down_is_left_alone_until_the_deadline() {
        let start = Instant::now();
        let mut stop = Stop::new(7 * SECOND);
        stop.guest_shuts_down();
        stop.asked(start);
        assert_eq!(stop.due(start), Action::PressPowerButton);
        stop.guest_shuts_down();
        assert_eq!(stop.due(start + SECOND), Action::Wait(Some(6 * SECOND)));
        assert_eq!(stop.due(start + 7 * SECOND), Action::End);
        let way = Way::Forced(Force::Deadline(7 * SECOND));
        assert_eq!(stop.way(start + 8 * SECOND), way);
    }

    #[test]
    fn a_further_request_moves_the_deadline_forward_only() {
        let start = Instant::now();
        let mut stop = Stop::new(100 * SECOND);
        stop.shut_down(start, Some(10 * SECOND));
        assert_eq!(stop.due(start), Action::PressPowerButton);
        stop.shut_down(start + SECOND, Some(60 * SECOND));
        stop.shut_down(start + SECOND, Some(SECOND));
        assert_eq!(stop.due(start + SECOND), Action::Wait(Some(SECOND)));
        assert_eq!(stop.due(start + 2 * SECOND), Action::End);
        let way = Way::Forced(Force::Deadline(SECOND));
        assert_eq!(stop.way(start + 3 * SECOND), way);
    }

    #[test]
    fn what_has_led_to_the_end_is_remembered() {
        let start = Instant::now();
        let mut stop = Stop::new(100 * SECOND);
        assert_eq!(stop.way(start), Way::ByItself);
        stop.asked(start);
        stop.ending(start + 3 * SECOND);
        assert_eq!(stop.way(start + 3 * SECOND), Way::Asked(3 * SECOND));
        // Too late to make a difference.
        stop.force(Force::Order);
        assert_eq!(stop.way(start + 3 * SECOND), Way::Asked(3 * SECOND));

        let mut stop = Stop::new(100 * SECOND);
        stop.force(Force::Order);
        assert_eq!(stop.due(start), Action::End);
        assert_eq!(stop.way(start), Way::Forced(Force::Order));
    }

    #[test]
    fn a_timeout_of_zero_ends_it_at_once() {
        let start = Instant::now();
        let mut stop = Stop::new(100 * SECOND);
        stop.shut_down(start, Some(Duration::ZERO));
        assert_eq!(stop.due(start), Action::End);
    }
}
