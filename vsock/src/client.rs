//! A program of the host that has connected and has not said yet where it wants to go: `CONNECT PORT`, and a newline.
//!
//! It is the protocol of Firecracker and cloud-hypervisor, who answer `OK PORT`, or close without a word. So that a person
//! may know why, `ERR` and a reason come before the end here.

use std::{fmt, io, time::Instant};

use event_manager::EventSet;

use crate::{LINE, stream::Stream};

/// A client before it is connected to anything.
#[derive(Debug)]
pub(crate) struct Client {
    pub(crate) stream: Stream,
    line: Vec<u8>,
    pub(crate) deadline: Instant,
}

/// Why a client is sent away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    Malformed,
    TooSlow,
    NotAllowed(u32),
    Full,
    ByGuest,
    NoAnswer,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Malformed => write!(f, "malformed: the first line is to be CONNECT PORT"),
            Self::TooSlow => write!(f, "timeout: no line CONNECT PORT came"),
            Self::NotAllowed(port) => write!(
                f,
                "not-allowed: vsock.allow has no \"guest:{port}\" in the VM's configuration"
            ),
            Self::Full => write!(f, "full: the VM has too many streams"),
            Self::ByGuest => write!(f, "refused: nothing in the guest listens there"),
            Self::NoAnswer => write!(f, "timeout: the guest does not answer"),
        }
    }
}

/// Where a client is.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Progress {
    /// More is to come.
    Reading,
    /// It wants to this port.
    To(u32),
    /// It made a mistake.
    Malformed,
    /// It has gone.
    Gone,
}

impl Client {
    pub(crate) fn new(stream: Stream, deadline: Instant) -> Self {
        Self {
            stream,
            line: Vec::new(),
            deadline,
        }
    }

    pub(crate) fn interest() -> EventSet {
        EventSet::IN
    }

    /// Takes what has come of the line, and nothing behind it: that is the guest's.
    pub(crate) fn read(&mut self) -> Progress {
        let mut buffer = [0; LINE];
        let room = LINE - self.line.len();
        let seen = match self.stream.peek(&mut buffer[..room]) {
            Ok(seen) => seen,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Progress::Reading,
            Err(_) => return Progress::Gone,
        };
        let end = buffer[..seen].iter().position(|byte| *byte == b'\n');
        // What was looked at is taken, or it would be seen again at once.
        let taken = end.map_or(seen, |end| end + 1);
        if taken == 0 || self.stream.receive(&mut buffer[..taken]).ok() != Some(taken) {
            return Progress::Gone;
        }
        self.line.extend_from_slice(&buffer[..taken]);
        match (end, self.line.len()) {
            (Some(_), _) => port(&self.line).map_or(Progress::Malformed, Progress::To),
            (None, LINE) => Progress::Malformed,
            (None, _) => Progress::Reading,
        }
    }
}

/// Sends a client away; that it is gone then is all that matters.
pub(crate) fn refuse(stream: &Stream, why: Refusal) {
    let _ = stream.send(format!("ERR {why}\n").as_bytes());
}

/// Tells a client that it is connected, from this port of the host; `false` if it is gone.
pub(crate) fn accept(stream: &Stream, port: u32) -> bool {
    // Nothing was written before, so there is room for it.
    let line = format!("OK {port}\n");
    stream.send(line.as_bytes()).ok() == Some(line.len())
}

/// The port of a whole line.
fn port(line: &[u8]) -> Option<u32> {
    let line = line.strip_suffix(b"\n")?;
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    let number = line.strip_prefix(b"CONNECT ")?;
    // A sign is no digit, which parse would take.
    let digits = number.iter().all(u8::is_ascii_digit);
    let number = std::str::from_utf8(number).ok().filter(|_| digits)?;
    number.parse().ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::{io::Write, os::unix::net::UnixStream};

    use super::*;

    #[test]
    fn a_line_has_the_word_and_a_port() {
        for (line, expected) in [
            (&b"CONNECT 22\n"[..], Some(22)),
            (b"CONNECT 4294967295\r\n", Some(u32::MAX)),
            (b"CONNECT 4294967296\n", None),
            (b"CONNECT +22\n", None),
            (b"CONNECT \n", None),
            (b"CONNECT 22 \n", None),
            (b"CONNECT 22", None),
            (b"connect 22\n", None),
            (b"SSH-2.0-x\n", None),
            (b"\n", None),
            (b"CONNECT \xff\n", None),
        ] {
            assert_eq!(port(line), expected, "{}", line.escape_ascii());
        }
    }

    fn client() -> (Client, UnixStream) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        (Client::new(Stream::new(ours), Instant::now()), theirs)
    }

    #[test]
    fn a_line_comes_in_pieces_and_what_follows_it_stays() {
        let (mut client, mut theirs) = client();
        assert_eq!(client.read(), Progress::Reading);
        for piece in ["CON", "NECT 2"] {
            theirs.write_all(piece.as_bytes()).unwrap();
            assert_eq!(client.read(), Progress::Reading);
            assert_eq!(client.read(), Progress::Reading);
        }
        theirs.write_all(b"2\nhello").unwrap();
        assert_eq!(client.read(), Progress::To(22));
        let mut rest = [0; 16];
        assert_eq!(client.stream.receive(&mut rest).unwrap(), 5);
        assert_eq!(&rest[..5], b"hello");
    }

    #[test]
    fn a_line_without_an_end_and_a_client_without_a_line_are_given_up() {
        let (mut client, mut theirs) = client();
        theirs.write_all(&[b'x'; LINE + 1]).unwrap();
        assert_eq!(client.read(), Progress::Malformed);
        let (mut client, theirs) = self::client();
        drop(theirs);
        assert_eq!(client.read(), Progress::Gone);
    }
}
