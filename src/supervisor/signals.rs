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
    hangups: UnixStream,
    children: UnixStream,
    /// A socket without a writer would be readable for ever, and a signal that is ignored has none.
    _writers: [UnixStream; 3],
}

impl Signals {
    /// From here on a signal is a wish that is obeyed in order, also while starting.
    pub fn new() -> Result<Self, Failure> {
        let ignored = ignored();
        // Started by nohup, or in the background by a script: somebody wants it so.
        let heeded = |signal: &i32| ignored & 1 << (signal - 1) == 0;
        let (wishes, wishes_writer) = register([SIGTERM, SIGINT].into_iter().filter(heeded))?;
        let (hangups, hangups_writer) = register([SIGHUP].into_iter().filter(heeded))?;
        let (children, children_writer) = register([SIGCHLD])?;
        Ok(Self {
            wishes,
            hangups,
            children,
            _writers: [wishes_writer, hangups_writer, children_writer],
        })
    }

    /// How many times somebody has asked for the VM's end, beside [hangups](Self::hangups_fd).
    pub fn wishes(&mut self) -> usize {
        self.wishes.read(&mut [0; 16]).unwrap_or(0)
    }

    /// Readable when [`wishes`](Self::wishes) has something to say.
    pub fn wishes_fd(&self) -> RawFd {
        self.wishes.as_raw_fd()
    }

    /// Readable when the terminal has gone away (SIGHUP).
    pub fn hangups_fd(&self) -> RawFd {
        self.hangups.as_raw_fd()
    }

    /// Forgets hangups, before one is obeyed.
    pub fn forget_hangups(&mut self) {
        forget(&mut self.hangups);
    }

    /// Forgets that children have changed their states, before they are asked.
    pub fn forget_children(&mut self) {
        // However many there were: all children are asked.
        forget(&mut self.children);
    }

    /// Readable when a child was stopped, continued or has ended.
    pub fn children_fd(&self) -> RawFd {
        self.children.as_raw_fd()
    }

    /// Waits for somebody's wish, a hangup among them, which stays to be taken; says whether there is one.
    pub fn wait(&self, patience: Duration) -> bool {
        let timeout = Timespec::try_from(patience).ok();
        let mut fds = [&self.wishes, &self.hangups].map(|fd| PollFd::new(fd, PollFlags::IN));
        // Interrupted by another signal it is just shorter.
        poll(&mut fds, timeout.as_ref()).is_ok_and(|ready| ready > 0)
    }
}

fn forget(socket: &mut UnixStream) {
    while socket.read(&mut [0; 64]).is_ok_and(|n| n > 0) {}
}

/// A socket that has a byte for each of `signals` that came, and its other end.
fn register(signals: impl IntoIterator<Item = i32>) -> Result<(UnixStream, UnixStream), Failure> {
    let failed = |error| Failure::vmm(format!("cannot listen for signals: {error}"));
    let (reader, writer) = UnixStream::pair().map_err(failed)?;
    reader.set_nonblocking(true).map_err(failed)?;
    for signal in signals {
        let writer = writer.try_clone().map_err(failed)?;
        signal_hook::low_level::pipe::register(signal, writer).map_err(failed)?;
    }
    Ok((reader, writer))
}

/// The signals that this process was started to ignore, a bit for each (proc(5), `SigIgn`).
fn ignored() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn where_every_signal_is_ignored_nobody_has_a_wish() {
        let (wishes, wishes_writer) = register([]).unwrap();
        let (hangups, hangups_writer) = register([]).unwrap();
        let (children, children_writer) = register([]).unwrap();
        let signals = Signals {
            wishes,
            hangups,
            children,
            _writers: [wishes_writer, hangups_writer, children_writer],
        };
        assert!(!signals.wait(Duration::ZERO));
    }

    #[test]
    fn a_hangup_is_a_wish_to_those_who_wait_and_is_told_from_others() {
        // SIGURG, which nobody minds, in the place of SIGHUP.
        let mut signals = Signals::new().unwrap();
        let (hangups, _writer) = register([signal_hook::consts::SIGURG]).unwrap();
        signals.hangups = hangups;
        signal_hook::low_level::raise(signal_hook::consts::SIGURG).unwrap();
        assert!(signals.wait(Duration::from_secs(10)));
        assert_eq!(signals.wishes(), 0);
        signals.forget_hangups();
        assert!(!signals.wait(Duration::ZERO));
    }
}
