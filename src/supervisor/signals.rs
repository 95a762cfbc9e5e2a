//! Signals, as bytes on sockets.

use std::{
    io::Read,
    os::{
        fd::{AsRawFd, RawFd},
        unix::net::UnixStream,
    },
    time::Duration,
};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use signal_hook::consts::{SIGCHLD, SIGHUP, SIGINT, SIGTERM};

use crate::failure::Failure;

/// Signals of interest. They are for the supervisor as a whole, however many runs its VM has.
pub struct Signals {
    wishes: UnixStream,
    children: UnixStream,
}

impl Signals {
    /// From here on a signal is a wish that is obeyed in order, also while starting.
    pub fn new() -> Result<Self, Failure> {
        let ignored = ignored();
        // Started by nohup, or in the background by a script: somebody wants it so.
        let heeded = [SIGTERM, SIGINT, SIGHUP].map(|s| (ignored & 1 << (s - 1) == 0).then_some(s));
        Ok(Self {
            wishes: register(heeded.into_iter().flatten())?,
            children: register([SIGCHLD])?,
        })
    }

    /// How many times somebody has asked for the VM's end.
    pub fn wishes(&mut self) -> usize {
        self.wishes.read(&mut [0; 16]).unwrap_or(0)
    }

    /// Readable when [`wishes`](Self::wishes) has something to say.
    pub fn wishes_fd(&self) -> RawFd {
        self.wishes.as_raw_fd()
    }

    /// Forgets that children have changed their states, before they are asked.
    pub fn forget_children(&mut self) {
        // However many there were: all children are asked.
        while self.children.read(&mut [0; 64]).is_ok_and(|n| n > 0) {}
    }

    /// Readable when a child was stopped, continued or has ended.
    pub fn children_fd(&self) -> RawFd {
        self.children.as_raw_fd()
    }

    /// Waits for somebody's wish, which stays to be taken; says whether there is one.
    pub fn wait(&self, patience: Duration) -> bool {
        let timeout = Timespec::try_from(patience).ok();
        let mut fds = [PollFd::new(&self.wishes, PollFlags::IN)];
        // Interrupted by another signal it is just shorter.
        poll(&mut fds, timeout.as_ref()).is_ok_and(|ready| ready > 0)
    }
}

/// A socket that has a byte for each of `signals` that came.
fn register(signals: impl IntoIterator<Item = i32>) -> Result<UnixStream, Failure> {
    let failed = |error| Failure::vmm(format!("cannot listen for signals: {error}"));
    let (reader, writer) = UnixStream::pair().map_err(failed)?;
    reader.set_nonblocking(true).map_err(failed)?;
    for signal in signals {
        let writer = writer.try_clone().map_err(failed)?;
        signal_hook::low_level::pipe::register(signal, writer).map_err(failed)?;
    }
    Ok(reader)
}

/// The signals that this process was started to ignore, a bit for each (proc(5), `SigIgn`).
fn ignored() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .unwrap_or(0)
}
