//! One client of the control socket.

use std::{
    io::{self, ErrorKind, Read, Write},
    os::{
        fd::{AsFd, BorrowedFd},
        unix::net::UnixStream,
    },
    time::{Duration, Instant},
};

use rustix::event::PollFlags;
use varlink::{
    Reply, Request,
    sansio::{
        protocol::{parse_message, parse_request, serialize_reply},
        types::ParseResult,
    },
};

/// Bytes of a call at most.
const FRAME: usize = 64 << 10;
/// Bytes that are read before it is somebody else's turn.
const READ: usize = 16 << 10;
/// How long a client may be silent, and how long it may leave a reply lie.
const IDLE: Duration = Duration::from_secs(60);

/// A connection: a stream that never makes anybody wait, and what has come and is to go.
#[derive(Debug)]
pub struct Connection {
    stream: UnixStream,
    input: Vec<u8>,
    output: Vec<u8>,
    /// A call of it is with the supervisor's loop, with a reply to follow or none.
    waits: Option<Waits>,
    /// When it last did something.
    active: Instant,
}

/// What a call that is with the loop is to be answered by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Waits {
    /// A reply.
    Reply,
    /// Nothing (`oneway`).
    Nothing,
}

/// What a connection has come to.
#[derive(Debug)]
pub enum Step {
    /// A call, with whether it is to be replied to.
    Call(Request<'static>, Waits),
    /// Nothing that can be done now.
    Idle,
    /// It has ended, or has said what is no varlink.
    Over,
}

impl Connection {
    /// Of a stream that was accepted.
    pub fn new(stream: UnixStream, now: Instant) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        Ok(Self {
            stream,
            input: Vec::new(),
            output: Vec::new(),
            waits: None,
            active: now,
        })
    }

    /// What to wait for. A client that takes no replies and one that has a call pending are not listened to.
    pub fn interest(&self) -> PollFlags {
        match (self.output.is_empty(), self.waits) {
            (false, _) => PollFlags::OUT,
            (true, None) => PollFlags::IN,
            // Its end is told all the same.
            (true, Some(_)) => PollFlags::empty(),
        }
    }

    /// When it is to be given up, if nothing happens on it. A call that the loop has may take its time.
    pub fn deadline(&self) -> Option<Instant> {
        match self.waits {
            Some(_) if self.output.is_empty() => None,
            _ => Some(self.active + IDLE),
        }
    }

    /// Reads what has come; `false` when it has ended.
    pub fn read(&mut self, now: Instant) -> bool {
        let mut bytes = [0; READ];
        match self.stream.read(&mut bytes) {
            Ok(0) => false,
            Ok(n) => {
                self.active = now;
                self.input.extend_from_slice(&bytes[..n]);
                true
            }
            Err(error) => is_not_now(&error),
        }
    }

    /// The next thing that this client wants.
    pub fn step(&mut self) -> Step {
        if self.waits.is_some() || !self.output.is_empty() {
            return Step::Idle;
        }
        match parse_message(&self.input) {
            ParseResult::Complete { message, .. } if message.len() > FRAME => Step::Over,
            ParseResult::Complete { message, consumed } => {
                self.input.drain(..consumed);
                match parse_request(&message) {
                    Ok(request) => {
                        let waits = match request.oneway {
                            Some(true) => Waits::Nothing,
                            _ => Waits::Reply,
                        };
                        Step::Call(request, waits)
                    }
                    Err(_) => Step::Over,
                }
            }
            ParseResult::Incomplete { .. } if self.input.len() > FRAME => Step::Over,
            ParseResult::Incomplete { .. } => Step::Idle,
            ParseResult::Invalid { .. } => Step::Over,
        }
    }

    /// The loop has a call of this client.
    pub fn wait(&mut self, waits: Waits) {
        self.waits = Some(waits);
    }

    /// What came of the call that the loop had.
    pub fn answered(&mut self, reply: &Reply, now: Instant) -> bool {
        self.active = now;
        match self.waits.take() {
            Some(Waits::Reply) => self.reply(reply),
            Some(Waits::Nothing) | None => true,
        }
    }

    /// Sends a reply, now as far as possible; `false` when that is never.
    pub fn reply(&mut self, reply: &Reply) -> bool {
        match serialize_reply(reply) {
            Ok(bytes) => {
                self.output.extend_from_slice(&bytes);
                self.write(self.active)
            }
            Err(_) => false,
        }
    }

    /// The stream itself and what has come on it already, for another protocol; none if a reply lies there still.
    pub fn into_stream(self) -> Option<(UnixStream, Vec<u8>)> {
        self.output.is_empty().then_some((self.stream, self.input))
    }

    /// Sends what is left to send; `false` when that is never.
    pub fn write(&mut self, now: Instant) -> bool {
        while !self.output.is_empty() {
            match self.stream.write(&self.output) {
                Ok(0) => return false,
                Ok(n) => {
                    self.active = now;
                    self.output.drain(..n);
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return is_not_now(&error),
            }
        }
        true
    }
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

fn is_not_now(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted)
}
