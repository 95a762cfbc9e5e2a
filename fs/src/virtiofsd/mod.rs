//! The virtiofsd of one share: started with its connection made, stopped after the guest.
//!
//! virtiofsd serves one connection and ends with it. What it prints goes to our log.

mod log;
mod socket;
mod spawn;

use std::{
    ffi::OsString,
    fs, io,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
        unix::{net::UnixStream, process::CommandExt},
    },
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    process::{Pid, PidfdFlags, Resource, Signal, getegid, geteuid, getrlimit},
};

use self::log::Log;
use crate::{program::Program, tag::Tag};

/// How long a virtiofsd that was asked to end by a signal may take before the next, harder signal.
const SIGNAL_GRACE: Duration = Duration::from_secs(1);

/// What is shared, and under which name.
#[derive(Clone, Debug)]
pub struct Share {
    /// The name that the guest mounts.
    pub tag: Tag,
    /// A directory of the host; a relative path is relative to the working directory.
    pub source: PathBuf,
}

/// Why a virtiofsd could not be started.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The directory is not there, or not to be read.
    #[error("share `{tag}`: cannot read the source directory {path:?}: {source}")]
    Source {
        /// The share.
        tag: Tag,
        /// Its source.
        path: PathBuf,
        /// What happened.
        source: io::Error,
    },
    /// The source is a file.
    #[error("share `{tag}`: the source {path:?} is not a directory")]
    NotADirectory {
        /// The share.
        tag: Tag,
        /// Its source.
        path: PathBuf,
    },
    /// virtiofsd's options are UTF-8.
    #[error("share `{tag}`: the source {path:?} is not UTF-8: rename it")]
    NotUtf8 {
        /// The share.
        tag: Tag,
        /// Its source.
        path: PathBuf,
    },
    /// Ids cannot be translated.
    #[error(
        "{program:?} has version {}.{}: to run it as a user, 1.13 or newer is needed",
        version.0, version.1
    )]
    TooOld {
        /// The program.
        program: PathBuf,
        /// Its version.
        version: (u32, u32),
    },
    /// The socket needs a directory.
    #[error("cannot make a socket for virtiofsd in {directory:?}: {source}")]
    Socket {
        /// The VM's runtime directory.
        directory: PathBuf,
        /// What happened.
        source: io::Error,
    },
    /// The host has switched user namespaces off, or used them up.
    #[error(
        "cannot make a user namespace for virtiofsd: {0}; is user.max_user_namespaces 0? \
         (`sysctl user.max_user_namespaces`)"
    )]
    UserNamespace(io::Error),
    /// The supervisor lacks capabilities.
    #[error(
        "cannot map the ids of virtiofsd's user namespace: {0}; \
         root needs CAP_SETUID, CAP_SETGID and CAP_SETFCAP"
    )]
    IdMap(io::Error),
    /// The program does not run.
    #[error("cannot run {program:?}: {source}")]
    Exec {
        /// The program.
        program: PathBuf,
        /// What happened.
        source: io::Error,
    },
    /// Descriptors or threads are used up.
    #[error("cannot start virtiofsd: {0}")]
    Start(io::Error),
}

impl Error {
    /// Whether the host is at fault and not the configuration.
    pub fn is_host_unable(&self) -> bool {
        !matches!(
            self,
            Self::Source { .. } | Self::NotADirectory { .. } | Self::NotUtf8 { .. }
        )
    }
}

/// A running virtiofsd.
///
/// It is killed when this is dropped, and by the kernel when the *thread* that started it ends: start it
/// on a thread that lives as long as the VM.
#[derive(Debug)]
pub struct Virtiofsd {
    tag: Tag,
    child: Child,
    pidfd: OwnedFd,
    log: Log,
}

impl Virtiofsd {
    /// Starts `program` for `share` and gives the socket on which it will answer, connected already.
    ///
    /// As root it runs in a user namespace of its own whose ids are the host's; as a user, every id of the
    /// guest is squashed to that user's. `runtime_dir` is a directory that exists; nothing is left in it.
    pub fn spawn(
        share: &Share,
        program: &Program,
        runtime_dir: &Path,
    ) -> Result<(Self, UnixStream), Error> {
        let source = check_source(share)?;
        let root = geteuid().is_root();
        if !root && program.version() < (1, 13) {
            return Err(Error::TooOld {
                program: program.path().to_owned(),
                version: program.version(),
            });
        }
        let (listener, stream) =
            socket::listening_pair(runtime_dir).map_err(|source| Error::Socket {
                directory: runtime_dir.to_owned(),
                source,
            })?;
        let (reader, writer) = io::pipe().map_err(Error::Start)?;
        let log = Log::new(share.tag.clone(), reader).map_err(Error::Start)?;
        let mut command = Command::new(program.path());
        command
            .args(arguments(&source, listener.as_raw_fd()))
            .args(if root { vec![] } else { squash() })
            .env_clear()
            .envs(std::env::var_os("PATH").map(|path| ("PATH", path)))
            .stdin(Stdio::null())
            .stdout(writer.try_clone().map_err(Error::Start)?)
            .stderr(writer)
            // A Ctrl-C at the terminal is for the supervisor alone: the guest needs its files to stop.
            .process_group(0);
        let child = spawn::confined(command, listener, root)?;
        let pidfd = match open_pidfd(&child) {
            Ok(pidfd) => pidfd,
            Err(error) => {
                abandon(child);
                return Err(Error::Start(error));
            }
        };
        let virtiofsd = Self {
            tag: share.tag.clone(),
            child,
            pidfd,
            log,
        };
        Ok((virtiofsd, stream))
    }

    /// The share that it serves.
    pub fn tag(&self) -> &Tag {
        &self.tag
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Becomes readable when it has ended (pidfd_open(2)).
    pub fn pidfd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }

    /// Becomes readable when it has printed something: then call [`log_output`](Self::log_output).
    pub fn output(&self) -> BorrowedFd<'_> {
        self.log.as_fd()
    }

    /// Writes what it has printed to our log, with the share's tag. Never waits. Says whether more can
    /// come: after `false`, [`output`](Self::output) is not to be watched any longer.
    pub fn log_output(&mut self) -> bool {
        self.log.drain()
    }

    /// How it ended, if it has.
    pub fn try_wait(&mut self) -> io::Result<Option<ExitStatus>> {
        self.child.try_wait()
    }

    /// Waits up to `patience` for it to end by itself, as it does when its connection is closed, and ends
    /// it by SIGTERM, then SIGKILL, if it does not.
    pub fn stop(mut self, patience: Duration) -> io::Result<ExitStatus> {
        let mut ended = self.wait(patience)?;
        for signal in [Signal::TERM, Signal::KILL] {
            if !ended {
                tracing::warn!(
                    share = %self.tag,
                    "virtiofsd has not ended with its connection: sending {signal:?}"
                );
                self.signal(signal);
                ended = self.wait(SIGNAL_GRACE)?;
            }
        }
        let status = self.child.wait()?;
        self.log_output();
        Ok(status)
    }

    fn signal(&self, signal: Signal) {
        // It fails only if the process has ended, which is what the signal is for.
        let _ = rustix::process::pidfd_send_signal(&self.pidfd, signal);
    }

    /// Waits for the process and for whoever else holds its output (its child in the sandbox), and logs
    /// what they print, so that a full pipe keeps nobody from ending.
    fn wait(&mut self, patience: Duration) -> io::Result<bool> {
        let end = Instant::now() + patience;
        let mut ended = false;
        let mut printing = true;
        loop {
            let mut watched = Vec::with_capacity(2);
            if !ended {
                watched.push(PollFd::new(&self.pidfd, PollFlags::IN));
            }
            if printing {
                watched.push(PollFd::new(&self.log, PollFlags::IN));
            }
            if watched.is_empty() {
                return Ok(true);
            }
            let left = end.saturating_duration_since(Instant::now());
            let timeout = Timespec::try_from(left).map_err(io::Error::other)?;
            match poll(&mut watched, Some(&timeout)) {
                Ok(0) => return Ok(false),
                Ok(_) => {}
                Err(rustix::io::Errno::INTR) => continue,
                Err(error) => return Err(error.into()),
            }
            ended = self.child.try_wait()?.is_some();
            printing = printing && self.log.drain();
        }
    }
}

impl Drop for Virtiofsd {
    fn drop(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            self.signal(Signal::KILL);
            // SIGKILL needs no answer; there is nobody to tell of a failure here.
            let _ = self.child.wait();
        }
    }
}

fn open_pidfd(child: &Child) -> io::Result<OwnedFd> {
    let pid = i32::try_from(child.id())
        .ok()
        .and_then(Pid::from_raw)
        .ok_or(io::ErrorKind::InvalidData)?;
    Ok(rustix::process::pidfd_open(pid, PidfdFlags::empty())?)
}

fn abandon(mut child: Child) {
    // Killing and waiting fail only for a child that has been waited for.
    let _ = child.kill();
    let _ = child.wait();
}

/// The absolute path of a source that is a directory which we can read; [`Virtiofsd::spawn`] asks for it too.
pub fn check_source(share: &Share) -> Result<String, Error> {
    let (tag, path) = (share.tag.clone(), share.source.clone());
    let unreadable = |source| Error::Source {
        tag: tag.clone(),
        path: path.clone(),
        source,
    };
    let absolute = fs::canonicalize(&path).map_err(unreadable)?;
    if !absolute.is_dir() {
        return Err(Error::NotADirectory { tag, path });
    }
    fs::read_dir(&absolute).map_err(unreadable)?;
    absolute
        .into_os_string()
        .into_string()
        .map_err(|_| Error::NotUtf8 { tag, path })
}

/// The options that every virtiofsd gets. `--tag` is not among them: the configuration space is ours.
fn arguments(source: &str, listener: i32) -> Vec<OsString> {
    let listener = listener.to_string();
    [
        "--fd",
        &listener,
        "--shared-dir",
        source,
        "--sandbox",
        "namespace",
        "--seccomp",
        "kill",
        "--cache",
        "auto",
        // open_by_handle_at(2) needs a capability of the initial user namespace.
        "--inode-file-handles=never",
    ]
    .map(OsString::from)
    .to_vec()
}

/// The options that a user's virtiofsd gets besides: it is root of a user namespace in which only that
/// user exists, and every id of the guest is that one.
fn squash() -> Vec<OsString> {
    // virtiofsd cannot raise the hard limit and would complain that it tried.
    let files = getrlimit(Resource::Nofile).maximum.unwrap_or(u64::MAX);
    vec![
        format!("--uid-map=:0:{}:1:", geteuid().as_raw()).into(),
        format!("--gid-map=:0:{}:1:", getegid().as_raw()).into(),
        "--translate-uid=squash-guest:0:0:4294967295".into(),
        "--translate-gid=squash-guest:0:0:4294967295".into(),
        format!("--rlimit-nofile={}", files.min(1_000_000)).into(),
    ]
}
