//! Signals, as bytes on sockets.

use std::{
    cell::Cell,
    io::Read,
    os::{
        fd::{AsRawFd, RawFd},
        unix::net::UnixStream,
    },
    sync::Arc,
    time::Duration,
};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use signal_hook::consts::{SIGCHLD, SIGHUP, SIGINT, SIGTERM};

use crate::{failure::Failure, requests::Requests};

/// Signals of interest. They are for the supervisor as a whole, however many runs its VM has.
pub struct Signals {
    wishes: UnixStream,
    hangups: UnixStream,
    children: UnixStream,
    /// What clients of the control socket want.
    requests: Arc<Requests>,
    /// One of them, taken while no guest ran, was the VM's end.
    end_wanted: Cell<bool>,
    /// A socket without a writer would be readable for ever, and a signal that is ignored has none.
    _writers: [UnixStream; 3],
}

impl Signals {
    /// From here on a signal is a wish that is obeyed in order, also while starting.
    pub fn new(requests: Arc<Requests>) -> Result<Self, Failure> {
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
            requests,
            end_wanted: Cell::new(false),
            _writers: [wishes_writer, hangups_writer, children_writer],
        })
    }

    /// What clients of the control socket want.
    pub fn requests(&self) -> &Requests {
        &self.requests
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

    /// Waits for somebody's wish, a hangup or a client's among them, which stays to be taken; says whether there is one.
    /// What else clients want is refused: no guest runs.
    pub fn wait(&self, patience: Duration) -> bool {
        let timeout = match self.end_wanted.get() {
            true => Timespec::default(),
            false => Timespec::try_from(patience).unwrap_or_default(),
        };
        let mut fds = [
            PollFd::new(&self.wishes, PollFlags::IN),
            PollFd::new(&self.hangups, PollFlags::IN),
            PollFd::new(&*self.requests, PollFlags::IN),
        ];
        // Interrupted by another signal it is just shorter.
        let _ = poll(&mut fds, Some(&timeout));
        let [wishes, hangups, requests] = fds.map(|fd| !fd.revents().is_empty());
        if requests && self.requests.wants_end() {
            self.end_wanted.set(true);
        }
        wishes || hangups || self.end_wanted.get()
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
            requests: Requests::new().unwrap(),
            end_wanted: Cell::new(false),
            _writers: [wishes_writer, hangups_writer, children_writer],
        };
        assert!(!signals.wait(Duration::ZERO));
    }

    #[test]
    fn a_hangup_is_a_wish_to_those_who_wait_and_is_told_from_others() {
        // SIGURG, which nobody minds, in the place of SIGHUP.
        let mut signals = Signals::new(Requests::new().unwrap()).unwrap();
        let (hangups, _writer) = register([signal_hook::consts::SIGURG]).unwrap();
        signals.hangups = hangups;
        signal_hook::low_level::raise(signal_hook::consts::SIGURG).unwrap();
        assert!(signals.wait(Duration::from_secs(10)));
        assert_eq!(signals.wishes(), 0);
        signals.forget_hangups();
        assert!(!signals.wait(Duration::ZERO));
    }
}
