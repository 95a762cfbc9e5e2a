//! The virtiofsd of one share: started with its connection made, stopped after the guest.
//!
//! virtiofsd serves one connection and ends with it. What it prints goes to our log.

mod arguments;
mod error;
mod log;
mod share;
mod socket;
mod spawn;
mod status;

use std::{
    io,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
        unix::{net::UnixStream, process::CommandExt},
    },
    path::Path,
    process::{Child, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    process::{Pid, PidfdFlags, Signal, geteuid},
};

pub use self::{
    error::Error,
    share::{Cache, Ids, IdsNeedRoot, Options, Share, check_source},
    status::{StateChange, describe, signal_name},
};
use self::{log::Log, spawn::Namespace};
use crate::{program::Program, tag::Tag};

/// How long a virtiofsd that was asked to end by a signal may take before the next, harder signal.
const SIGNAL_GRACE: Duration = Duration::from_secs(1);

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
    /// As root it runs in a user namespace of its own, whose ids are the host's or those that
    /// [`Ids::Shifted`] says; a user's is in one where only that user exists. `runtime_dir` is a directory
    /// that exists; nothing is left in it.
    pub fn spawn(
        share: &Share,
        program: &Program,
        runtime_dir: &Path,
    ) -> Result<(Self, UnixStream), Error> {
        let root = geteuid().is_root();
        let ids = Ids::resolve(share.options.ids, root).map_err(|source| Error::Ids {
            tag: share.tag.clone(),
            source,
        })?;
        let source = check_source(share)?;
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
            .args(arguments::arguments(
                &source,
                listener.as_raw_fd(),
                &share.options,
                ids,
            ))
            .args(if root {
                vec![]
            } else {
                arguments::users_own().to_vec()
            })
            .env_clear()
            .envs(std::env::var_os("PATH").map(|path| ("PATH", path)))
            .stdin(Stdio::null())
            .stdout(writer.try_clone().map_err(Error::Start)?)
            .stderr(writer)
            // A Ctrl-C at the terminal is for the supervisor alone: the guest needs its files to stop.
            .process_group(0);
        let namespace = match ids {
            Ids::Shifted { base } => Namespace::Shifted { base },
            _ if root => Namespace::Identity,
            // virtiofsd makes it itself.
            _ => Namespace::Inherited,
        };
        let child = spawn::confined(command, listener, namespace)?;
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
        self.log_output();
        self.status_of_killed()
    }

    /// Waits up to `patience` for it to end by itself, and kills one that has been given up.
    pub fn finish_off(mut self, patience: Duration) -> io::Result<ExitStatus> {
        if !self.wait(patience)? {
            self.kill();
            self.wait(SIGNAL_GRACE)?;
        }
        self.log_output();
        self.status_of_killed()
    }

    /// How it ended, now that SIGKILL, if nothing else, has had its time.
    fn status_of_killed(&mut self) -> io::Result<ExitStatus> {
        // A disk or a file server that does not answer keeps it, and is not to keep us.
        let stays = "SIGKILL does not end it, as when the source's file system hangs";
        let status = self.child.try_wait()?;
        status.ok_or_else(|| io::Error::new(io::ErrorKind::TimedOut, stays))
    }

    /// Kills it, with the process in its sandbox, also when they are stopped.
    pub fn kill(&self) {
        self.signal(Signal::KILL);
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
            // One that prints without pause is always ready.
            if left.is_zero() {
                return Ok(ended && !printing);
            }
        }
    }
}

impl Drop for Virtiofsd {
    fn drop(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            self.signal(Signal::KILL);
            // There is nobody to tell of a failure here.
            let grace = Timespec::try_from(SIGNAL_GRACE).ok();
            let mut end = [PollFd::new(&self.pidfd, PollFlags::IN)];
            let _ = rustix::io::retry_on_intr(|| poll(&mut end, grace.as_ref()));
            let _ = self.child.try_wait();
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::io::{PipeReader, Write};

    use super::*;

    #[test]
    fn one_that_prints_without_pause_is_waited_for_no_longer_than_others() {
        let (mut printing, log) = UnixStream::pair().unwrap();
        printing.set_nonblocking(true).unwrap();
        // More than is read in one turn.
        while printing.write(&[b'x'; 4096]).is_ok() {}
        let tag: Tag = "data".parse().unwrap();
        let child = Command::new("sleep").arg("1000").spawn().unwrap();
        let mut virtiofsd = Virtiofsd {
            pidfd: open_pidfd(&child).unwrap(),
            log: Log::new(tag.clone(), PipeReader::from(OwnedFd::from(log))).unwrap(),
            tag,
            child,
        };
        assert!(!virtiofsd.wait(Duration::ZERO).unwrap());
        let mut output = [PollFd::new(&virtiofsd.log, PollFlags::IN)];
        assert_eq!(poll(&mut output, Some(&Timespec::default())), Ok(1));
    }
}
