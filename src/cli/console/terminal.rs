//! A terminal that passes every key on.

use std::io;

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
        // A terminal that has gone away has no mode. A guest may have left colours and the cursor in any state: what
        // is shown next begins on a line of its own, in the terminal's own colour.
        let _ = tcsetattr(io::stdin(), OptionalActions::Drain, &self.before);
        let _ = io::Write::write_all(&mut io::stdout(), b"\x1b[0m\r\n");
    }
}
