//! One run of a VM after the other.

use std::time::{Duration, Instant};

use minivmm_vmm::{End, VmConfig, one_line};

use super::{
    backends::Backends,
    notify::Notify,
    opened::Opened,
    outcome::{Outcome, Way},
    restarts::{Cause, Next, Restarts, wanted},
    session::{Broken, Intent, Over, Session},
    signals::Signals,
};
use crate::{
    board::{Board, State},
    console::Hub,
    failure::Failure,
};

/// What all runs have in common.
pub struct Life<'a> {
    /// The VM.
    pub config: &'a VmConfig,
    /// What it works on.
    pub opened: &'a Opened,
    /// Who asks for its end.
    pub signals: &'a mut Signals,
    /// Where it is said how it goes.
    pub board: &'a Board,
    /// Who is told how it goes.
    pub notify: &'a mut Notify,
    /// What its guests print and are typed to.
    pub console: &'a Hub,
    /// What its VMM processes log.
    pub log_level: &'a str,
}

impl Life<'_> {
    /// Runs the VM until it ends for good.
    pub fn live(mut self) -> Result<Outcome, Failure> {
        let mut restarts = Restarts::default();
        let mut last: Option<End> = None;
        loop {
            let ended = self.run_once(last.as_ref());
            self.console.end_run();
            self.note_end(&ended);
            let (cause, ran, failure) = match ended {
                Ok(None) => return Ok(stopped(last)),
                Ok(Some(over)) => match self.cause(&over) {
                    None => return Ok(over.outcome),
                    Some(cause) => {
                        last = Some(over.outcome.end);
                        (cause, over.ran, None)
                    }
                },
                // One that was never well is the caller's matter, and so is a defect.
                Err(broken) if broken.ran || last.is_none() => return Err(broken.failure),
                Err(Broken { failure, .. }) => {
                    tracing::error!("the VM could not be started again: {failure}");
                    (Cause::Failure, Duration::ZERO, Some(failure))
                }
            };
            // A stop may also have come while the last run was tidied up.
            if self.signals.wait(Duration::ZERO) {
                return Ok(stopped(last));
            }
            let next = restarts.next(cause, ran, Instant::now());
            match next {
                Next::Start { delay, count } => {
                    self.board.update(|status| {
                        status.state = State::Restarting;
                        status.detail = next.to_string();
                        status.restarts += 1;
                    });
                    self.console.say(&next.to_string());
                    match count {
                        None => tracing::info!("{next}"),
                        Some(_) => tracing::warn!("{next}"),
                    }
                    self.notify.status(&next.to_string());
                    if self.notify.wait(self.signals, delay) {
                        return Ok(stopped(last));
                    }
                }
                Next::GiveUp => {
                    tracing::error!("{next}");
                    let outcome = last.map(|end| Outcome {
                        end,
                        way: Way::ByItself,
                    });
                    return match (failure, outcome) {
                        (None, Some(outcome)) => Ok(outcome),
                        (failure, _) => Err(failure.unwrap_or_else(|| Failure::vmm("no run"))),
                    };
                }
            }
        }
    }

    /// A run, or `None` if somebody wanted its end before it was started.
    fn run_once(&mut self, last: Option<&End>) -> Result<Option<Over>, Broken> {
        let Some((backends, shares)) =
            Backends::start(self.config, self.opened, self.signals, self.notify)?
        else {
            return Ok(None);
        };
        let console = self.console.begin_run().map_err(Failure::vmm)?;
        let session = Session::start(
            self.config,
            self.opened,
            (backends, shares, console),
            self.signals,
            self.board,
            self.notify,
            (self.log_level, last),
        )?;
        session.run().map(Some)
    }

    /// Says on the board that a run is over, and in the log what a guest that panicked has said last.
    fn note_end(&self, ended: &Result<Option<Over>, Broken>) {
        if let Ok(Some(over)) = ended
            && over.outcome.end == End::Panic
        {
            for line in self.console.last_words() {
                tracing::error!("the guest's last words: {line}");
            }
        }
        self.board.update(|status| {
            status.vmm_pid = None;
            status.running_usec = None;
            status.virtiofsd_pids.clear();
            match ended {
                Ok(Some(over)) => status.last_end = Some(one_line(&over.outcome.to_string())),
                Err(broken) => status.last_end = Some(broken.failure.to_string()),
                Ok(None) => {}
            }
        });
    }

    /// Why another run follows, if one does.
    fn cause(&self, over: &Over) -> Option<Cause> {
        let end = &over.outcome.end;
        match over.intent {
            Intent::Stop => None,
            // What KVM cannot run is no better after a reboot.
            Intent::Reboot if matches!(end, End::Fault { .. }) => None,
            Intent::Reboot => Some(Cause::Asked),
            Intent::Run => wanted(self.config, end),
        }
    }
}

/// Somebody wanted the end while no guest ran; `last` is how the last one ended.
fn stopped(last: Option<End>) -> Outcome {
    let outcome = match last {
        None => Outcome::before_the_start(),
        Some(end) => Outcome {
            end,
            way: Way::BetweenRuns,
        },
    };
    tracing::info!("{outcome}");
    outcome
}
