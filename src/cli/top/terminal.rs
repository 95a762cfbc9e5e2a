//! The terminal, as a whole and without echo, and as it was in the end.

use std::{
    io::{self, Read, Write},
    os::unix::net::UnixStream,
    panic,
    sync::{Mutex, PoisonError},
};

use rustix::{
    event::{PollFd, PollFlags, poll},
    termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr},
};
use signal_hook::{
    consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGWINCH},
    low_level::{emulate_default_handler, pipe},
};

/// The other screen, without cursor and without wrapping.
const ENTER: &[u8] = b"\x1b[?1049h\x1b[?25l\x1b[?7l";
const LEAVE: &[u8] = b"\x1b[?7h\x1b[?25h\x1b[?1049l";

/// How the terminal was, while it is otherwise.
static SAVED: Mutex<Option<Termios>> = Mutex::new(None);

/// What has happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// A key.
    Key(u8),
    /// Up or down, by so many lines.
    Scroll(i16),
    /// The terminal has another size, or there is something new to show.
    Redraw,
    /// Somebody wants the end, or the terminal is gone.
    Quit,
}

/// The terminal in use. Dropped, it is as it was; a panic and a signal restore it, too.
pub struct Terminal {
    signals: [UnixStream; 2],
    _writers: [UnixStream; 2],
    news: UnixStream,
}

impl Terminal {
    /// Takes the terminal; `news` is readable when there is something to show.
    pub fn take(news: UnixStream) -> io::Result<Self> {
        let (ends, ends_writer) = registered(&[SIGHUP, SIGINT, SIGQUIT, SIGTERM])?;
        let (sizes, sizes_writer) = registered(&[SIGWINCH])?;
        news.set_nonblocking(true)?;
        let hook = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            leave();
            hook(info);
        }));
        enter()?;
        Ok(Self {
            signals: [ends, sizes],
            _writers: [ends_writer, sizes_writer],
            news,
        })
    }

    /// Lines and columns.
    pub fn size(&self) -> (usize, usize) {
        match tcgetwinsize(io::stdout()) {
            Ok(size) if size.ws_row > 0 && size.ws_col > 0 => {
                (size.ws_row.into(), size.ws_col.into())
            }
            _ => (24, 80),
        }
    }

    /// Waits for something to happen.
    pub fn wait(&mut self) -> Vec<Event> {
        let stdin = io::stdin();
        let mut fds = [
            PollFd::new(&stdin, PollFlags::IN),
            PollFd::new(&self.signals[0], PollFlags::IN),
            PollFd::new(&self.signals[1], PollFlags::IN),
            PollFd::new(&self.news, PollFlags::IN),
        ];
        if poll(&mut fds, None).is_err() {
            return Vec::new();
        }
        let [keys, end, size, news] = fds.map(|fd| !fd.revents().is_empty());
        if end {
            return vec![Event::Quit];
        }
        let mut events = Vec::new();
        if size || news {
            forget(&mut self.signals[1]);
            forget(&mut self.news);
            events.push(Event::Redraw);
        }
        if keys {
            let mut bytes = [0; 64];
            match rustix::io::read(&stdin, &mut bytes) {
                Ok(n @ 1..) => events.extend(keys_in(&bytes[..n])),
                // The terminal is gone.
                _ => events.push(Event::Quit),
            }
        }
        events
    }

    /// Stops this process, as a shell expects of ^Z, and goes on when it is continued.
    pub fn suspend(&mut self) -> io::Result<()> {
        leave();
        emulate_default_handler(signal_hook::consts::SIGTSTP)?;
        enter()
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        leave();
    }
}

fn enter() -> io::Result<()> {
    let stdin = io::stdin();
    let found = tcgetattr(&stdin)?;
    let mut raw = found.clone();
    raw.make_raw();
    *SAVED.lock().unwrap_or_else(PoisonError::into_inner) = Some(found);
    tcsetattr(&stdin, OptionalActions::Flush, &raw)?;
    let mut stdout = io::stdout();
    stdout.write_all(ENTER).and_then(|()| stdout.flush())
}

fn leave() {
    let saved = SAVED.lock().unwrap_or_else(PoisonError::into_inner).take();
    if let Some(saved) = saved {
        // A terminal that is gone needs nothing.
        let mut stdout = io::stdout();
        let _ = stdout.write_all(LEAVE).and_then(|()| stdout.flush());
        let _ = tcsetattr(io::stdin(), OptionalActions::Flush, &saved);
    }
}

/// Keys as a terminal in raw mode sends them; of those that send several bytes, arrows and page keys.
fn keys_in(mut bytes: &[u8]) -> Vec<Event> {
    let mut events = Vec::new();
    while let Some((first, rest)) = bytes.split_first() {
        (bytes, _) = match (first, rest) {
            (0x1b, [b'[' | b'O', rest @ ..]) => {
                let end = rest.iter().position(|byte| (0x40..=0x7e).contains(byte));
                let (sequence, rest) = rest.split_at(end.map_or(rest.len(), |end| end + 1));
                let lines = match sequence {
                    b"A" => -1,
                    b"B" => 1,
                    b"5~" => -10,
                    b"6~" => 10,
                    _ => 0,
                };
                (rest, events.push(Event::Scroll(lines)))
            }
            (0x03 | 0x04, _) => (rest, events.push(Event::Quit)),
            (key, _) => (rest, events.push(Event::Key(*key))),
        };
    }
    events
}

fn registered(signals: &[i32]) -> io::Result<(UnixStream, UnixStream)> {
    let (reader, writer) = UnixStream::pair()?;
    reader.set_nonblocking(true)?;
    for signal in signals {
        pipe::register(*signal, writer.try_clone()?)?;
    }
    Ok((reader, writer))
}

fn forget(socket: &mut UnixStream) {
    while socket.read(&mut [0; 64]).is_ok_and(|n| n > 0) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_told_from_what_else_a_terminal_sends() {
        let events = keys_in(b"q\x1b[A\x1bOB\x1b[6~\x1b[1;5Cc\x03\x1b");
        let scroll = Event::Scroll;
        assert_eq!(
            events,
            [
                Event::Key(b'q'),
                scroll(-1),
                scroll(1),
                scroll(10),
                scroll(0),
                Event::Key(b'c'),
                Event::Quit,
                Event::Key(0x1b),
            ]
        );
        assert_eq!(keys_in(b"\x1b["), [scroll(0)]);
    }
}
