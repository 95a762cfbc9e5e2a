//! The supervisor: the process that owns a VM's life.
//!
//! It opens everything ([`opened`]), starts a virtiofsd for each share and the VMM process ([`spawn`]),
//! turns signals into the guest's shutdown ([`stop`]) and tidies up in order: the guest, then its
//! virtiofsds. It never touches guest memory.

mod opened;
mod spawn;
mod stop;

use std::{
    io::{ErrorKind, Read},
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd},
        unix::{net::UnixStream, process::ExitStatusExt},
    },
    path::PathBuf,
    process::ExitStatus,
    time::{Duration, Instant},
};

use event_manager::{EventManager, EventOps, EventSet, Events, MutEventSubscriber, SubscriberOps};
use minivmm_fs::Virtiofsd;
use minivmm_vmm::{End, VmConfig};
use rustix::process::{Signal, WaitId, WaitIdOptions, pidfd_send_signal, waitid};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

pub use opened::Opened;

use crate::{
    failure::{Failure, one_line},
    protocol::{Channel, FromVmm, Role, ToVmm, send_config},
};
use spawn::Child;
use stop::{Action, Stop};

/// How long a virtiofsd may take to end by itself after its VM has ended.
const VIRTIOFSD_PATIENCE: Duration = Duration::from_secs(5);

/// Runs the VM of `config` until it ends, and tidies up.
pub fn run(config: &VmConfig, log_level: &str) -> Result<End, Failure> {
    // From here on a signal is a wish that is obeyed in order, also while starting.
    let signals = Signals::new()?;
    let opened = Opened::open(config)?;
    let (virtiofsds, shares) = start_shares(config, &opened)?;
    let (channel, theirs) = Channel::pair().map_err(Failure::vmm)?;
    let child = spawn::spawn(theirs, log_level).map_err(|error| {
        let hint = match error.kind() {
            ErrorKind::PermissionDenied | ErrorKind::StorageFull => {
                ": let users make user namespaces (sysctl kernel.unprivileged_userns_clone=1, user.max_user_namespaces above 0), or run as root"
            }
            _ => "",
        };
        Failure::host(format!(
            "cannot start the VMM process in a PID namespace: {error}{hint}"
        ))
    })?;
    let supervisor = Supervisor {
        signals,
        channel,
        child,
        virtiofsds,
        stop: Stop::new(config.lifecycle.stop_timeout),
        outcome: None,
        ended: None,
    };
    match supervisor.send_start(config, opened, shares) {
        Ok(()) => {}
        // The process ended before it took the message; why is found below.
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
    supervisor.run()
}

/// A virtiofsd for each share, and the connections for the VMM.
fn start_shares(
    config: &VmConfig,
    opened: &Opened,
) -> Result<(Vec<Virtiofsd>, Vec<UnixStream>), Failure> {
    let mut virtiofsds = Vec::new();
    let mut streams = Vec::new();
    if let Some(program) = &opened.virtiofsd {
        let runtime = runtime_dir();
        for share in &config.shares {
            let share = opened::served(share);
            let (virtiofsd, stream) =
                Virtiofsd::spawn(&share, program, &runtime).map_err(|error| {
                    match error.is_host_unable() {
                        true => Failure::host(error),
                        false => Failure::config(error),
                    }
                })?;
            virtiofsds.push(virtiofsd);
            streams.push(stream);
        }
    }
    Ok((virtiofsds, streams))
}

/// A directory for sockets, which exist there for a moment only.
fn runtime_dir() -> PathBuf {
    match std::env::var_os("XDG_RUNTIME_DIR") {
        Some(dir) if !dir.is_empty() => dir.into(),
        _ if rustix::process::geteuid().is_root() => "/run".into(),
        _ => std::env::temp_dir(),
    }
}

/// SIGTERM, SIGINT and SIGHUP as bytes on a socket.
struct Signals(UnixStream);

impl Signals {
    fn new() -> Result<Self, Failure> {
        let failed = |error| Failure::vmm(format!("cannot listen for signals: {error}"));
        let (reader, writer) = UnixStream::pair().map_err(failed)?;
        reader.set_nonblocking(true).map_err(failed)?;
        let ignored = ignored_signals();
        for signal in [SIGTERM, SIGINT, SIGHUP] {
            // Started by nohup, or in the background by a script: somebody wants it so.
            if ignored & 1 << (signal - 1) != 0 {
                continue;
            }
            let writer = writer.try_clone().map_err(failed)?;
            signal_hook::low_level::pipe::register(signal, writer).map_err(failed)?;
        }
        Ok(Self(reader))
    }

    /// How many have come.
    fn take(&mut self) -> usize {
        self.0.read(&mut [0; 16]).unwrap_or(0)
    }
}

/// The signals that this process was started to ignore, a bit for each (proc(5), `SigIgn`).
fn ignored_signals() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .unwrap_or(0)
}

struct Supervisor {
    signals: Signals,
    channel: Channel,
    child: Child,
    virtiofsds: Vec<Virtiofsd>,
    stop: Stop,
    /// What the VMM said of its end or its failure.
    outcome: Option<Result<End, Failure>>,
    /// How the VMM process ended.
    ended: Option<String>,
}

/// What an event is about. The virtiofsds, of which there are few, are counted from theirs on.
mod token {
    pub const SIGNAL: u32 = 0;
    pub const CHANNEL: u32 = 1;
    pub const CHILD: u32 = 2;
    pub const VIRTIOFSD_OUTPUT: u32 = 0x100;
    pub const VIRTIOFSD_END: u32 = 0x200;
}

impl Supervisor {
    fn send_start(
        &self,
        config: &VmConfig,
        opened: Opened,
        shares: Vec<UnixStream>,
    ) -> std::io::Result<()> {
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
        for tap in &opened.taps {
            roles.push(Role::Tap);
            fds.push(tap.as_fd());
        }
        for share in &shares {
            roles.push(Role::Share);
            fds.push(share.as_fd());
        }
        self.channel.send(&ToVmm::Start { roles }, &fds)
    }

    fn run(self) -> Result<End, Failure> {
        let failed =
            |error: event_manager::Error| Failure::vmm(format!("the event loop failed: {error}"));
        let mut events = EventManager::new().map_err(failed)?;
        let id = events.add_subscriber(self);
        loop {
            let supervisor = events.subscriber_mut(id).map_err(failed)?;
            if supervisor.ended.is_some() {
                break;
            }
            let wait = supervisor.act(Instant::now());
            events.run_with_timeout(wait).map_err(failed)?;
        }
        events.remove_subscriber(id).map_err(failed)?.finish()
    }

    /// Does what is due of a stop, and says in how many milliseconds to look again (-1: never).
    fn act(&mut self, now: Instant) -> i32 {
        loop {
            match self.stop.due(now) {
                Action::Wait(None) => return -1,
                Action::Wait(Some(left)) => {
                    // Rounded up, or the loop would turn idly for the last part of a millisecond.
                    return i32::try_from(left.as_millis() + 1).unwrap_or(i32::MAX);
                }
                Action::PressPowerButton => self.tell(&ToVmm::PowerButton),
                Action::End => {
                    tracing::warn!("ending the VM without the guest's doing");
                    self.tell(&ToVmm::Kill);
                }
                Action::KillProcess => {
                    tracing::warn!("the VMM process does not end: killing it");
                    // It can only have ended already.
                    let _ = pidfd_send_signal(&self.child.pidfd, Signal::KILL);
                }
            }
        }
    }

    fn tell(&self, message: &ToVmm) {
        if let Err(error) = self.channel.send(message, &[]) {
            tracing::debug!(%error, "the VMM process takes no message");
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
        loop {
            match self.channel.try_receive::<FromVmm>() {
                Ok(Some(FromVmm::Running)) => tracing::info!("the VM runs"),
                Ok(Some(FromVmm::Failed { blame, message })) => {
                    self.outcome
                        .get_or_insert(Err(Failure::new(blame, message)));
                }
                Ok(Some(FromVmm::Ended(end))) => {
                    self.outcome.get_or_insert(Ok(end));
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
    }

    /// Ends a VM that cannot be looked after any more.
    fn fail(&mut self, why: String) {
        self.outcome.get_or_insert(Err(Failure::vmm(why)));
        self.stop.kill_now();
    }

    /// A virtiofsd has ended. It does so by itself when its VM has; before that its share is lost, also
    /// one that the guest does not use at the moment.
    fn lost(&mut self, n: usize, ops: &mut EventOps) {
        if let Some(virtiofsd) = self.virtiofsds.get(n) {
            let _ = ops.remove(Events::empty_raw(virtiofsd.pidfd().as_raw_fd()));
            let tag = virtiofsd.tag().to_string();
            self.tell(&ToVmm::ShareLost { tag });
        }
    }

    fn reap(&mut self) {
        // What it said last may still be unread.
        self.hear();
        let status = waitid(
            WaitId::PidFd(self.child.pidfd.as_fd()),
            WaitIdOptions::EXITED,
        );
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
    fn finish(self) -> Result<End, Failure> {
        for virtiofsd in self.virtiofsds {
            let tag = virtiofsd.tag().clone();
            match virtiofsd.stop(VIRTIOFSD_PATIENCE) {
                Ok(status) if status.success() => {}
                Ok(status) => tracing::info!(share = %tag, "virtiofsd ended: {}", describe(status)),
                Err(error) => tracing::error!(share = %tag, "virtiofsd cannot be ended: {error}"),
            }
        }
        let end = match self.outcome {
            Some(outcome) => outcome?,
            None if self.stop.is_killing() => End::Killed,
            None => {
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
        Ok(end)
    }
}

impl MutEventSubscriber for Supervisor {
    fn init(&mut self, ops: &mut EventOps) {
        let mut sources = vec![
            (self.signals.0.as_raw_fd(), token::SIGNAL),
            (self.channel.as_raw_fd(), token::CHANNEL),
            (self.child.pidfd.as_raw_fd(), token::CHILD),
        ];
        for (n, virtiofsd) in (0u32..).zip(&self.virtiofsds) {
            sources.push((virtiofsd.output().as_raw_fd(), token::VIRTIOFSD_OUTPUT + n));
            sources.push((virtiofsd.pidfd().as_raw_fd(), token::VIRTIOFSD_END + n));
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
            token::SIGNAL => {
                for _ in 0..self.signals.take() {
                    self.stop.asked(Instant::now());
                }
            }
            token::CHANNEL => self.listen(ops),
            token::CHILD => self.reap(),
            n if n >= token::VIRTIOFSD_END => self.lost((n - token::VIRTIOFSD_END) as usize, ops),
            n => {
                let n = n.saturating_sub(token::VIRTIOFSD_OUTPUT) as usize;
                if let Some(virtiofsd) = self.virtiofsds.get_mut(n)
                    && !virtiofsd.log_output()
                {
                    let _ = ops.remove(Events::empty_raw(virtiofsd.output().as_raw_fd()));
                }
            }
        }
    }
}

fn describe(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit code {code}"),
        (_, Some(signal)) => format!("signal {signal}"),
        _ => status.to_string(),
    }
}
