//! One run of a VM, from the start of its VMM process to that process' end.
//!
//! * [`balloon`]: who wants something of the balloon
//! * [`events`]: what it waits for
//! * [`heard`]: what the VMM says
//! * [`metrics`]: what it has counted, and for whom
//! * [`pausing`]: a guest that is kept from running
//! * [`requested`]: what clients of the control socket want
//! * [`streams`]: connections that the guest wants
//! * [`shares_lost`]: virtiofsds that end, shares that are lost

mod balloon;
mod events;
mod heard;
mod metrics;
mod pausing;
mod requested;
mod shares_lost;
mod streams;

use std::{
    io::ErrorKind,
    os::{
        fd::{AsFd, OwnedFd},
        unix::net::UnixStream,
    },
    time::{Duration, Instant},
};

use event_manager::{EventManager, SubscriberOps};
use minivmm_vmm::{End, VmConfig, one_line};
use rustix::process::{Signal, WaitId, WaitIdOptions, pidfd_send_signal, waitid};

use super::{
    backends::Backends,
    liveness::Liveness,
    losses::Losses,
    notify::Notify,
    opened::Opened,
    outcome::Outcome,
    signals::Signals,
    spawn::{self, Child},
    start_message,
    stop::{Action, Stop},
    streams::Streams,
};
use metrics::Asked;
use pausing::Pausing;

use crate::{
    board::Board,
    failure::Failure,
    metrics::textfile::Textfile,
    protocol::{Channel, ToVmm},
};

/// What somebody wants of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Intent {
    /// That it goes on.
    Run,
    /// That it ends and another one begins.
    Reboot,
    /// That it ends.
    Stop,
}

/// How a run was over.
pub struct Over {
    /// How the VM ended, and by what.
    pub outcome: Outcome,
    /// What was wanted of it in the end.
    pub intent: Intent,
    /// How long its guest ran.
    pub ran: Duration,
}

/// Why there is nothing to say of a VM's end.
#[derive(Debug)]
pub struct Broken {
    /// What has failed.
    pub failure: Failure,
    /// Whether the guest has run.
    pub ran: bool,
}

impl From<Failure> for Broken {
    fn from(failure: Failure) -> Self {
        let ran = false;
        Self { failure, ran }
    }
}

/// A run of a VM. It has a VMM process and back ends of its own; all else outlives it.
pub struct Session<'a> {
    config: &'a VmConfig,
    signals: &'a mut Signals,
    board: &'a Board,
    streams: Option<&'a Streams>,
    notify: &'a mut Notify,
    channel: Channel,
    vmm: Child,
    backends: Backends,
    stop: Stop,
    intent: Intent,
    /// When the guest has begun to run.
    running: Option<Instant>,
    pausing: Pausing,
    liveness: Liveness,
    questions: Asked,
    balloon_questions: balloon::Questions,
    losses: Losses,
    /// Why the VM is ended, if that is because its guest has not become ready.
    not_ready: Option<String>,
    /// What the VMM said of its end or its failure.
    outcome: Option<Result<End, Failure>>,
    /// How the VMM process ended.
    ended: Option<String>,
}

impl<'a> Session<'a> {
    /// Starts the VMM process and tells it what to run; `last` is how the run before this one ended.
    pub fn start(
        config: &'a VmConfig,
        opened: &'a Opened,
        (backends, shares, console): (Backends, Vec<UnixStream>, OwnedFd),
        signals: &'a mut Signals,
        board: &'a Board,
        notify: &'a mut Notify,
        (log_level, last): (&str, Option<&End>),
    ) -> Result<Self, Failure> {
        notify.vmm_starts(Instant::now());
        let (channel, theirs) = Channel::pair().map_err(Failure::vmm)?;
        let vmm = spawn::spawn(theirs, log_level).map_err(|error| spawn::failure(&error))?;
        match start_message::send(&channel, config, opened, console.as_fd(), &shares, last) {
            Ok(()) => {}
            // The process ended before it took the message; why is found by `run`.
            Err(error)
                if matches!(
                    error.kind(),
                    ErrorKind::BrokenPipe | ErrorKind::ConnectionReset
                ) => {}
            Err(error) => {
                return Err(Failure::vmm(format!(
                    "the VMM process cannot be told what to run: {error}"
                )));
            }
        }
        board.update(|status| {
            status.vmm_pid = Some(vmm.pid);
            status.virtiofsd_pids = backends.pids();
            status.volumes.iter_mut().for_each(|v| v.full = false);
        });
        Ok(Self {
            config,
            signals,
            board,
            streams: opened.streams.as_ref(),
            notify,
            channel,
            vmm,
            backends,
            stop: Stop::new(config.lifecycle.stop_timeout),
            intent: Intent::Run,
            running: None,
            pausing: Pausing::default(),
            liveness: Liveness::default(),
            questions: Asked::new(Textfile::new(&config.metrics, Instant::now())),
            balloon_questions: balloon::Questions::default(),
            losses: Losses::default(),
            not_ready: None,
            outcome: None,
            ended: None,
        })
    }

    /// Looks after the VM until it has ended, and tidies up.
    pub fn run(self) -> Result<Over, Broken> {
        let failed =
            |error: event_manager::Error| Failure::vmm(format!("the event loop failed: {error}"));
        let mut events = EventManager::new().map_err(failed)?;
        let id = events.add_subscriber(self);
        loop {
            let session = events.subscriber_mut(id).map_err(failed)?;
            if session.ended.is_some() {
                break;
            }
            let wait = session.act(Instant::now());
            session.note();
            events.run_with_timeout(wait).map_err(failed)?;
        }
        events.remove_subscriber(id).map_err(failed)?.finish()
    }

    /// Does what is due, and says in how many milliseconds to look again (-1: never).
    fn act(&mut self, now: Instant) -> i32 {
        let mut next = [
            self.backends.due(now),
            self.notify_due(now),
            self.textfile_due(now),
        ]
        .into_iter()
        .flatten()
        .min();
        loop {
            match self.stop.due(now) {
                Action::Wait(left) => {
                    next = [next, left.map(|left| now + left)]
                        .into_iter()
                        .flatten()
                        .min();
                    break;
                }
                Action::PressPowerButton => {
                    // A guest that is paused hears nothing.
                    self.resume();
                    self.tell(&ToVmm::PowerButton);
                }
                Action::End => {
                    tracing::warn!("ending the VM without the guest's doing");
                    self.notify
                        .status("ending the VM without the guest's doing");
                    self.notify.vmm_ends();
                    self.tell(&ToVmm::Kill);
                }
                Action::KillProcess => {
                    tracing::warn!("the VMM process does not end: killing it");
                    // It can only have ended already.
                    let _ = pidfd_send_signal(&self.vmm.pidfd, Signal::KILL);
                }
            }
        }
        next.map_or(-1, |next| {
            // Rounded up, or the loop would turn idly for the last part of a millisecond.
            i32::try_from((next - now).as_millis() + 1).unwrap_or(i32::MAX)
        })
    }

    fn tell(&self, message: &ToVmm) {
        if let Err(error) = self.channel.send(message, &[]) {
            tracing::debug!(%error, "the VMM process takes no message");
        }
    }

    /// A signal asks for the VM's end. If that has begun for another reason, it goes on; asked a second
    /// time, it is over at once.
    fn asked(&mut self) {
        let before = std::mem::replace(&mut self.intent, Intent::Stop);
        if before == Intent::Stop || !self.stop.has_begun() {
            self.stop.asked(Instant::now());
        }
        // It may have begun for a reboot, of which the service manager was told nothing.
        let how = match self.stop.is_killing() {
            true => "ending the VM at once",
            false => "asking the guest to shut down",
        };
        self.notify.stopping(how, None);
    }

    /// Does what is due for the service manager, and says when to look again.
    fn notify_due(&mut self, now: Instant) -> Option<Instant> {
        let wanted = self.notify.due(now);
        if wanted.ping {
            let question = self.liveness.ask();
            self.tell(&question);
        }
        if let Some(why) = wanted.failed
            && !self.stop.has_begun()
        {
            tracing::error!("{why}");
            self.stop.shut_down(now, None);
            self.notify.stopping(&why, None);
            self.not_ready = Some(why);
        }
        wanted.next
    }

    /// The terminal has gone. A shell and the kernel both say so, and that is one wish.
    fn hung_up(&mut self) {
        if self.intent != Intent::Stop {
            self.asked();
        }
    }

    /// Ends a VM that cannot be looked after any more.
    fn fail(&mut self, why: String) {
        self.outcome.get_or_insert(Err(Failure::vmm(why)));
        self.stop.kill_now();
    }

    fn reap(&mut self) {
        // What it said last may still be unread.
        self.hear();
        let status = waitid(WaitId::PidFd(self.vmm.pidfd.as_fd()), WaitIdOptions::EXITED);
        self.ended = Some(match status {
            Ok(Some(status)) => match (status.exit_status(), status.terminating_signal()) {
                (Some(code), _) => format!("exit code {code}"),
                (_, Some(signal)) => format!("signal {signal}"),
                _ => "an unknown end".to_owned(),
            },
            Ok(None) => "an unknown end".to_owned(),
            Err(error) => error.to_string(),
        });
    }

    /// Tidies up after the VMM process: the virtiofsds, which end by themselves when it is gone.
    fn finish(self) -> Result<Over, Broken> {
        let now = Instant::now();
        self.backends.finish();
        let ran = self.running;
        let broken = |failure| Broken {
            failure,
            ran: ran.is_some(),
        };
        let said = self.outcome.as_ref().and_then(|said| said.as_ref().ok());
        let stopped = self.intent == Intent::Stop;
        let not_ready = self.not_ready.filter(|_| !stopped);
        let end = match (self.losses.end(said, stopped), self.outcome) {
            (Some(lost), _) => lost,
            (None, Some(Ok(_)) | None) if not_ready.is_some() => End::NotReady {
                why: not_ready.unwrap_or_default(),
            },
            (None, Some(outcome)) => outcome.map_err(broken)?,
            (None, None) if self.stop.is_killing() => End::Killed,
            (None, None) => {
                let how = self.ended.unwrap_or_default();
                let why = format!("the VMM process ended unexpectedly: {how}");
                return Err(broken(Failure::vmm(why)));
            }
        };
        let way = self.stop.way(now);
        let outcome = Outcome { end, way };
        let what = one_line(&outcome.to_string());
        match outcome.is_orderly() {
            true => tracing::info!("{what}"),
            false => tracing::error!("{what}"),
        }
        Ok(Over {
            outcome,
            intent: self.intent,
            ran: ran.map_or(Duration::ZERO, |began| now - began),
        })
    }
}

#[cfg(test)]
mod tests;
