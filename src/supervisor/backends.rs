//! The back ends of a run's shares: virtiofsds of its own, and connections to those of others.

use std::{
    os::{
        fd::{AsRawFd, RawFd},
        unix::net::UnixStream,
    },
    path::PathBuf,
    process::ExitStatus,
    thread,
    time::{Duration, Instant},
};

use minivmm_fs::{
    Tag, Virtiofsd,
    virtiofsd::{StateChange, describe, signal_name},
};
use minivmm_vmm::VmConfig;

use super::{
    external,
    notify::Notify,
    opened::Opened,
    shares::{Server, server},
    signals::Signals,
};
use crate::failure::Failure;

/// How long a virtiofsd may take to end by itself after its VM has ended.
const END_PATIENCE: Duration = Duration::from_secs(5);
/// How long one may be stopped by a signal before it counts as lost.
const STOPPED_PATIENCE: Duration = Duration::from_secs(5);
/// How long the end of one that the VMM has lost is waited for: it says more than that it was killed.
const LOST_PATIENCE: Duration = Duration::from_secs(1);

/// The virtiofsds of one run.
#[derive(Default)]
pub struct Backends(Vec<Backend>);

struct Backend {
    virtiofsd: Virtiofsd,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Serving,
    /// Stopped by a signal; if it is not continued by then, it is killed.
    Stopped {
        kill: Instant,
    },
    /// Nobody hears it any more; if it has not ended by then, it is killed.
    Condemned {
        kill: Instant,
    },
    Killed,
    Ended,
}

impl State {
    fn kill(self) -> Option<Instant> {
        match self {
            Self::Stopped { kill } | Self::Condemned { kill } => Some(kill),
            Self::Serving | Self::Killed | Self::Ended => None,
        }
    }
}

impl Backends {
    /// Has a connection to a back end for each share of `config`; `None` if a signal came first.
    pub fn start(
        config: &VmConfig,
        opened: &Opened,
        signals: &Signals,
        notify: &mut Notify,
    ) -> Result<Option<(Self, Vec<UnixStream>)>, Failure> {
        if signals.wait(Duration::ZERO) {
            return Ok(None);
        }
        let servers: Vec<Server> = config.shares.iter().map(server).collect();
        // Those that others start may take their time, so ours are started behind them.
        let deadline = external::deadline();
        let mut connected = Vec::new();
        for server in &servers {
            if let Server::External(external) = server {
                match external::connect(external, deadline, signals, notify)? {
                    Some(stream) => connected.push(stream),
                    None => return Ok(None),
                }
            }
        }
        let mut connected = connected.into_iter();
        let own = servers.iter().filter(|s| matches!(s, Server::Own(_)));
        match own.count() {
            0 => {}
            1 => notify.status("starting virtiofsd for 1 share"),
            n => notify.status(&format!("starting virtiofsd for {n} shares")),
        }
        let runtime = runtime_dir();
        let mut own = Vec::new();
        let mut streams = Vec::new();
        for server in &servers {
            match (server, &opened.virtiofsd) {
                (Server::Own(share), Some(program)) => {
                    let (virtiofsd, stream) =
                        Virtiofsd::spawn(share, program, &runtime).map_err(|error| match error
                            .is_host_unable()
                        {
                            true => Failure::host(error),
                            false => Failure::config(error),
                        })?;
                    own.push(Backend {
                        virtiofsd,
                        state: State::Serving,
                    });
                    streams.push(stream);
                }
                _ => streams.extend(connected.next()),
            }
        }
        Ok(Some((Self(own), streams)))
    }

    /// What they print, and their ends, as descriptors that become readable; in the same order each time.
    pub fn descriptors(&self) -> impl Iterator<Item = (RawFd, RawFd)> {
        self.0.iter().map(|backend| {
            let virtiofsd = &backend.virtiofsd;
            (
                virtiofsd.output().as_raw_fd(),
                virtiofsd.pidfd().as_raw_fd(),
            )
        })
    }

    /// Their process ids.
    pub fn pids(&self) -> Vec<u32> {
        let pids = self.0.iter().map(|backend| backend.virtiofsd.pid());
        pids.collect()
    }

    /// Logs what the `n`th has printed; says whether it can print more.
    pub fn log_output(&mut self, n: usize) -> bool {
        let backend = self.0.get_mut(n);
        backend.is_some_and(|backend| backend.virtiofsd.log_output())
    }

    /// The `n`th has ended; gives its share if the guest has lost it by that.
    pub fn ended(&mut self, n: usize, vm_runs: bool) -> Option<Tag> {
        let backend = self.0.get_mut(n)?;
        backend.virtiofsd.log_output();
        let before = std::mem::replace(&mut backend.state, State::Ended);
        let status = backend.virtiofsd.try_wait().ok()??;
        // One that finds its connection closed ends like this: then the VMM knows why, or is gone.
        if status.success() || (!vm_runs && before == State::Serving) {
            return None;
        }
        log_end(&backend.virtiofsd, status);
        Some(backend.virtiofsd.tag().clone())
    }

    /// A child was stopped or continued, maybe one of these.
    pub fn look(&mut self, now: Instant) {
        for Backend { virtiofsd, state } in &mut self.0 {
            let (share, pid) = (virtiofsd.tag(), virtiofsd.pid());
            while let Some(change) = virtiofsd.state_change() {
                match (change, *state) {
                    (StateChange::Stopped { signal }, State::Serving) => {
                        let (signal, patience) = (signal_name(signal), STOPPED_PATIENCE.as_secs());
                        tracing::error!(
                            %share, pid,
                            "virtiofsd was stopped by signal {signal}: it is lost if it is not continued within {patience} s"
                        );
                        *state = State::Stopped {
                            kill: now + STOPPED_PATIENCE,
                        };
                    }
                    (StateChange::Continued, State::Stopped { .. }) => {
                        tracing::info!(%share, pid, "virtiofsd was continued");
                        *state = State::Serving;
                    }
                    _ => {}
                }
            }
        }
    }

    /// The VMM has lost the back end of a share: no more is expected of it.
    pub fn condemn(&mut self, tag: &Tag, now: Instant) {
        let backend = self.0.iter_mut().find(|b| b.virtiofsd.tag() == tag);
        let Some(Backend { virtiofsd, state }) = backend else {
            return;
        };
        if matches!(
            state,
            State::Condemned { .. } | State::Killed | State::Ended
        ) {
            return;
        }
        for pid in virtiofsd.stopped_processes() {
            tracing::error!(share = %tag, pid, "virtiofsd is stopped, as by signal {}", signal_name(libc::SIGSTOP));
        }
        *state = State::Condemned {
            kill: now + LOST_PATIENCE,
        };
    }

    /// Kills those that are to be killed by now, and says when the next one is.
    pub fn due(&mut self, now: Instant) -> Option<Instant> {
        for Backend { virtiofsd, state } in &mut self.0 {
            if state.kill().is_some_and(|kill| now >= kill) {
                tracing::error!(share = %virtiofsd.tag(), pid = virtiofsd.pid(), "killing a lost virtiofsd");
                virtiofsd.kill();
                *state = State::Killed;
            }
        }
        let kills = self.0.iter().filter_map(|backend| backend.state.kill());
        kills.min()
    }

    /// Waits for their ends, now that the VMM process is gone: they end with their connections.
    pub fn finish(self) {
        // Side by side: all that hang take as long as one.
        thread::scope(|scope| {
            for backend in self.0 {
                let finish = move || backend.finish();
                // What is not called is dropped, and so the virtiofsd is killed.
                if let Err(error) = thread::Builder::new().spawn_scoped(scope, finish) {
                    tracing::error!(
                        "a virtiofsd is killed because it cannot be waited for: {error}"
                    );
                }
            }
        });
    }
}

impl Backend {
    fn finish(self) {
        let Self { virtiofsd, state } = self;
        let tag = virtiofsd.tag().clone();
        let pid = virtiofsd.pid();
        let done = match state {
            State::Serving => virtiofsd.stop(END_PATIENCE),
            _ => virtiofsd.finish_off(LOST_PATIENCE),
        };
        match done {
            Ok(status) if status.success() || state == State::Ended => {}
            Ok(status) if state == State::Serving => {
                tracing::info!(share = %tag, pid, "virtiofsd {}", describe(status));
            }
            Ok(status) => tracing::error!(share = %tag, pid, "virtiofsd {}", describe(status)),
            Err(error) => tracing::error!(share = %tag, pid, "virtiofsd cannot be ended: {error}"),
        }
    }
}

fn log_end(virtiofsd: &Virtiofsd, status: ExitStatus) {
    let (share, pid) = (virtiofsd.tag(), virtiofsd.pid());
    tracing::error!(%share, pid, "virtiofsd {}", describe(status));
}

/// A directory for sockets, which exist there for a moment only.
fn runtime_dir() -> PathBuf {
    match std::env::var_os("XDG_RUNTIME_DIR") {
        Some(dir) if !dir.is_empty() => dir.into(),
        _ if rustix::process::geteuid().is_root() => "/run".into(),
        _ => std::env::temp_dir(),
    }
}
