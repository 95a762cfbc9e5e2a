//! A terminal that passes every key on.

use std::{io, os::fd::AsFd};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcsetattr};

/// Standard input in raw mode; dropped, it is as before.
pub struct RawTerminal {
    before: Termios,
}

impl RawTerminal {
    /// Every key comes at once, none is shown, and none makes a signal.
    pub fn new() -> io::Result<Self> {
        let before = tcgetattr(io::stdin())?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(io::stdin(), OptionalActions::Drain, &raw)?;
        Ok(Self { before })
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        let output = io::stdout();
        // A terminal that has gone away has no mode, and one that takes nothing is not waited for. A guest may have left colours and the cursor in any state: what
        // is shown next begins on a line of its own, in the terminal's own colour.
        let _ = tcsetattr(io::stdin(), OptionalActions::Now, &self.before);
        let mut fds = [PollFd::from_borrowed_fd(output.as_fd(), PollFlags::OUT)];
        if poll(&mut fds, Some(&Timespec::default())) == Ok(1) {
            let _ = rustix::io::write(&output, b"\x1b[0m\r\n");
        }
    }
}
