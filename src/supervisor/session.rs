//! One run of a VM, from the start of its VMM process to that process' end.

use std::{
    io::{self, ErrorKind},
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd},
        unix::net::UnixStream,
    },
    time::Instant,
};

use event_manager::{EventManager, EventOps, EventSet, Events, MutEventSubscriber, SubscriberOps};
use minivmm_fs::Tag;
use minivmm_vmm::{End, VmConfig, config::OnFailure};
use rustix::process::{Signal, WaitId, WaitIdOptions, pidfd_send_signal, waitid};

use super::{
    backends::Backends,
    losses::Losses,
    opened::Opened,
    signals::Signals,
    spawn::{self, Child},
    stop::{Action, Stop},
};
use crate::{
    failure::{Failure, one_line},
    protocol::{Channel, FromVmm, Role, ToVmm, send_config},
};

/// What an event is about. The virtiofsds, of which there are few, are counted from theirs on.
mod token {
    pub const WISH: u32 = 0;
    pub const HANGUP: u32 = 1;
    pub const CHANNEL: u32 = 2;
    pub const VMM: u32 = 3;
    pub const CHILDREN: u32 = 4;
    pub const VIRTIOFSD_OUTPUT: u32 = 0x100;
    pub const VIRTIOFSD_END: u32 = 0x200;
}

/// Messages that are heard before it is anybody else's turn: a VMM that its guest has taken over may never pause.
const HEARD: usize = 32;

/// How a run was over.
pub struct Over {
    /// How the VM ended.
    pub end: End,
    /// Somebody had asked for its end.
    pub asked: bool,
}

/// A run of a VM. It has a VMM process and back ends of its own; all else outlives it.
pub struct Session<'a> {
    config: &'a VmConfig,
    signals: &'a mut Signals,
    channel: Channel,
    vmm: Child,
    backends: Backends,
    stop: Stop,
    /// Somebody has asked for the VM's end.
    asked: bool,
    /// The guest has begun to run.
    running: bool,
    losses: Losses,
    /// What the VMM said of its end or its failure.
    outcome: Option<Result<End, Failure>>,
    /// How the VMM process ended.
    ended: Option<String>,
}

impl<'a> Session<'a> {
    /// Starts the VMM process and tells it what to run.
    pub fn start(
        config: &'a VmConfig,
        opened: &Opened,
        (backends, shares): (Backends, Vec<UnixStream>),
        signals: &'a mut Signals,
        log_level: &str,
    ) -> Result<Self, Failure> {
        let (channel, theirs) = Channel::pair().map_err(Failure::vmm)?;
        let vmm = spawn::spawn(theirs, log_level).map_err(|error| spawn::failure(&error))?;
        match send_start(&channel, config, opened, &shares) {
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
        Ok(Self {
            config,
            signals,
            channel,
            vmm,
            backends,
            stop: Stop::new(config.lifecycle.stop_timeout),
            asked: false,
            running: false,
            losses: Losses::default(),
            outcome: None,
            ended: None,
        })
    }

    /// Looks after the VM until it has ended, and tidies up.
    pub fn run(self) -> Result<Over, Failure> {
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
            events.run_with_timeout(wait).map_err(failed)?;
        }
        events.remove_subscriber(id).map_err(failed)?.finish()
    }

    /// Does what is due, and says in how many milliseconds to look again (-1: never).
    fn act(&mut self, now: Instant) -> i32 {
        let mut next = self.backends.due(now);
        loop {
            match self.stop.due(now) {
                Action::Wait(left) => {
                    next = [next, left.map(|left| now + left)]
                        .into_iter()
                        .flatten()
                        .min();
                    break;
                }
                Action::PressPowerButton => self.tell(&ToVmm::PowerButton),
                Action::End => {
                    tracing::warn!("ending the VM without the guest's doing");
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

    /// Somebody asks for the VM's end. If that has begun for another reason, it goes on; asked a second
    /// time, it is over at once.
    fn asked(&mut self) {
        if std::mem::replace(&mut self.asked, true) || !self.stop.has_begun() {
            self.stop.asked(Instant::now());
        }
    }

    /// The terminal has gone. A shell and the kernel both say so, and that is one wish.
    fn hung_up(&mut self) {
        if !self.asked {
            self.asked();
        }
    }

    fn listen(&mut self, ops: &mut EventOps) {
        if !self.hear() {
            // Its end is seen by the pidfd.
            let _ = ops.remove(Events::empty(&self.channel));
        }
    }

    /// Takes the messages that have come; says whether more can.
    fn hear(&mut self) -> bool {
        for _ in 0..HEARD {
            match self.channel.try_receive::<FromVmm>() {
                Ok(Some(FromVmm::Running)) => {
                    if !std::mem::replace(&mut self.running, true) {
                        tracing::info!("the VM runs");
                    }
                }
                Ok(Some(FromVmm::Failed { blame, message })) => {
                    self.outcome
                        .get_or_insert(Err(Failure::new(blame, message)));
                    self.stop.ending(Instant::now());
                }
                Ok(Some(FromVmm::ShareLost { tag })) => {
                    let shares = &self.config.shares;
                    if let Some(share) = shares.iter().find(|s| s.tag.as_str() == tag) {
                        self.backends.condemn(&share.tag, Instant::now());
                        self.share_lost(&share.tag.clone());
                    }
                }
                Ok(Some(FromVmm::Ended(end))) => {
                    self.outcome.get_or_insert(Ok(end));
                    self.stop.ending(Instant::now());
                }
                Ok(None) => return false,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return true,
                Err(error) => {
                    self.fail(format!(
                        "the VMM process said something that is no message: {error}"
                    ));
                    return false;
                }
            }
        }
        true
    }

    /// Ends a VM that cannot be looked after any more.
    fn fail(&mut self, why: String) {
        self.outcome.get_or_insert(Err(Failure::vmm(why)));
        self.stop.kill_now();
    }

    /// A virtiofsd has ended, as it does by itself when its VM has.
    fn virtiofsd_ended(&mut self, n: usize, ops: &mut EventOps) {
        // An end of the VM that came first is to be known first.
        self.hear();
        if let Some((_, pidfd)) = self.backends.descriptors().nth(n) {
            let _ = ops.remove(Events::empty_raw(pidfd));
        }
        let vm_runs = self.outcome.is_none() && !self.stop.has_killed();
        if let Some(tag) = self.backends.ended(n, vm_runs) {
            self.share_lost(&tag);
        }
    }

    /// The guest has lost a share: what follows is the configuration's to say.
    fn share_lost(&mut self, tag: &Tag) {
        // Before the guest runs, the VMM finds it out itself and fails. Afterwards nobody misses it.
        if !self.running || self.outcome.is_some() {
            return;
        }
        // The end that somebody has forced stays theirs.
        if self.stop.is_killing() && !self.losses.end_the_run() {
            return;
        }
        let share = self.config.shares.iter().find(|s| s.tag == *tag);
        match share.and_then(|share| self.losses.add(share)) {
            Some(OnFailure::Ignore) => {
                tracing::warn!(share = %tag, "the guest goes on without the share (on_failure = \"ignore\")");
            }
            // A guest that is shutting down is not kept from it.
            _ if self.stop.has_begun() => {}
            Some(OnFailure::Stop) => self.stop.asked(Instant::now()),
            Some(OnFailure::RestartVm) => {
                let tag = tag.to_string();
                self.tell(&ToVmm::EndForShare { tag });
                self.stop.ending(Instant::now());
            }
            None => {}
        }
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
    fn finish(self) -> Result<Over, Failure> {
        self.backends.finish();
        let said = self.outcome.as_ref().and_then(|said| said.as_ref().ok());
        let end = match (self.losses.end(said, self.asked), self.outcome) {
            (Some(lost), _) => lost,
            (None, Some(outcome)) => outcome?,
            (None, None) if self.stop.is_killing() => End::Killed,
            (None, None) => {
                let how = self.ended.unwrap_or_default();
                return Err(Failure::vmm(format!(
                    "the VMM process ended unexpectedly: {how}"
                )));
            }
        };
        let what = one_line(&end.to_string());
        match end {
            End::PowerOff | End::Reset => tracing::info!("{what}"),
            _ => tracing::error!("{what}"),
        }
        Ok(Over {
            end,
            asked: self.asked,
        })
    }
}

fn send_start(
    channel: &Channel,
    config: &VmConfig,
    opened: &Opened,
    shares: &[UnixStream],
) -> io::Result<()> {
    let config = send_config(config)?;
    let mut roles = vec![
        Role::Config,
        Role::Kvm,
        Role::Kernel,
        Role::Entropy,
        Role::Console,
    ];
    let mut fds: Vec<BorrowedFd<'_>> = vec![
        config.as_fd(),
        opened.kvm.as_fd(),
        opened.kernel.as_fd(),
        opened.entropy.as_fd(),
        opened.console.as_fd(),
    ];
    if let Some(initrd) = &opened.initrd {
        roles.push(Role::Initrd);
        fds.push(initrd.as_fd());
    }
    for (interface, tap) in (0..).zip(&opened.taps) {
        for queue in tap.fds() {
            roles.push(Role::Tap(interface));
            fds.push(queue);
        }
    }
    for share in shares {
        roles.push(Role::Share);
        fds.push(share.as_fd());
    }
    channel.send(&ToVmm::Start { roles }, &fds)
}

impl MutEventSubscriber for Session<'_> {
    fn init(&mut self, ops: &mut EventOps) {
        let mut sources = vec![
            (self.signals.wishes_fd(), token::WISH),
            (self.signals.hangups_fd(), token::HANGUP),
            (self.signals.children_fd(), token::CHILDREN),
            (self.channel.as_raw_fd(), token::CHANNEL),
            (self.vmm.pidfd.as_raw_fd(), token::VMM),
        ];
        for (n, (output, end)) in (0..).zip(self.backends.descriptors()) {
            sources.push((output, token::VIRTIOFSD_OUTPUT + n));
            sources.push((end, token::VIRTIOFSD_END + n));
        }
        for (fd, token) in sources {
            if let Err(error) = ops.add(Events::with_data_raw(fd, token, EventSet::IN)) {
                // A VM that nobody could stop does not run.
                self.fail(format!("cannot watch a descriptor: {error}"));
            }
        }
    }

    fn process(&mut self, events: Events, ops: &mut EventOps) {
        match events.data() {
            token::WISH => {
                for _ in 0..self.signals.wishes() {
                    self.asked();
                }
            }
            token::HANGUP => {
                self.signals.forget_hangups();
                self.hung_up();
            }
            token::CHILDREN => {
                self.signals.forget_children();
                self.backends.look(Instant::now());
            }
            token::CHANNEL => self.listen(ops),
            token::VMM => self.reap(),
            n if n >= token::VIRTIOFSD_END => {
                self.virtiofsd_ended((n - token::VIRTIOFSD_END) as usize, ops);
            }
            n => {
                if !self
                    .backends
                    .log_output(n.saturating_sub(token::VIRTIOFSD_OUTPUT) as usize)
                {
                    let _ = ops.remove(Events::empty_raw(events.fd()));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
