//! One who looks at the console, on a stream of their own.
//!
//! A viewer has no buffer of the console's bytes: it reads out of the ring, from where it was, when its stream takes
//! something. What has left the ring until then it is told the amount of.

use std::{
    io::{self, ErrorKind, Read, Write},
    os::{
        fd::{AsFd, BorrowedFd},
        unix::net::UnixStream,
    },
    time::{Duration, Instant},
};

use serde_json::json;

use super::{claim::Claim, lines::Lines, ring::Ring};

/// Bytes that are written before it is somebody else's turn.
const TURN: usize = 64 << 10;
/// Bytes of the ring that become one reply.
const REPLY: usize = 8 << 10;
/// How long one whose end has come has to take what is left.
const LAST: Duration = Duration::from_secs(5);

/// What is shown.
#[derive(Debug)]
pub enum Shows {
    /// The guest's bytes, as they are.
    Terminal,
    /// Lines, as replies of varlink to a call with `more`.
    Lines {
        /// What has come of the next line.
        lines: Lines,
        /// More than is there already.
        follow: bool,
    },
}

/// A viewer.
#[derive(Debug)]
pub struct Viewer {
    /// Given up before the stream is, so that whoever sees the end finds the place free.
    claim: Claim,
    stream: UnixStream,
    shows: Shows,
    /// Of the next byte.
    position: u64,
    /// Goes out before the next byte.
    first: Vec<u8>,
    /// Where it ends, and when at the latest.
    until: Option<(u64, Instant)>,
    /// The last reply was made.
    finished: bool,
}

impl Viewer {
    /// From `position` of the ring on.
    pub fn new(stream: UnixStream, claim: Claim, shows: Shows, position: u64) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        Ok(Self {
            stream,
            claim,
            shows,
            position,
            first: Vec::new(),
            until: None,
            finished: false,
        })
    }

    /// Whether nothing but what is there already is to be shown.
    pub fn looks_back_only(&self) -> bool {
        matches!(self.shows, Shows::Lines { follow: false, .. })
    }

    /// Shows nothing beyond `position`, and ends there.
    pub fn end_at(&mut self, position: u64, now: Instant) {
        self.until.get_or_insert((position, now + LAST));
    }

    /// Whether its end has come: nothing is read from it.
    pub fn is_ending(&self) -> bool {
        self.until.is_some()
    }

    /// When it is given up.
    pub fn deadline(&self) -> Option<Instant> {
        self.until.map(|(_, deadline)| deadline)
    }

    /// Whether it may type.
    pub fn types(&self) -> bool {
        matches!(self.shows, Shows::Terminal) && self.claim.types()
    }

    /// Whether there is something that its stream has not taken.
    pub fn has_output(&self, ring: &Ring) -> bool {
        !self.first.is_empty() || self.position < self.target(ring) || self.is_over(ring)
    }

    /// Reads at most `room` bytes that were typed; nothing when there is nothing, `None` when nothing more will come.
    pub fn read(&mut self, room: usize, typed: &mut Vec<u8>) -> Option<()> {
        let from = typed.len();
        typed.resize(from + room, 0);
        let read = self.stream.read(&mut typed[from..]);
        typed.truncate(from + *read.as_ref().unwrap_or(&0));
        match read {
            Ok(0) => None,
            Ok(_) => Some(()),
            Err(error) => is_not_now(&error).then_some(()),
        }
    }

    /// Shows what its stream takes; `false` when it has come to its end.
    pub fn show(&mut self, ring: &Ring) -> bool {
        if let Some(who) = self.claim.lost_to() {
            self.notice(&format!("{who} types now, and you look on"));
        }
        let mut left = TURN;
        while left > 0 {
            if self.first.is_empty() && !self.refill(ring) {
                let (first, second) = ring.after(self.position);
                let bytes = if first.is_empty() { second } else { first };
                let wanted = self.target(ring).saturating_sub(self.position);
                let wanted = usize::try_from(wanted).unwrap_or(left).min(left);
                let bytes = &bytes[..bytes.len().min(wanted)];
                if bytes.is_empty() {
                    return !self.is_over(ring);
                }
                match self.stream.write(bytes) {
                    Ok(n) => {
                        self.position += n as u64;
                        left -= n;
                    }
                    Err(error) => return is_not_now(&error),
                }
            } else {
                match self.stream.write(&self.first) {
                    Ok(n) => {
                        self.first.drain(..n);
                        left = left.saturating_sub(n);
                    }
                    Err(error) => return is_not_now(&error),
                }
            }
        }
        true
    }

    /// Makes what goes out before the ring's own bytes; says whether there is something.
    fn refill(&mut self, ring: &Ring) -> bool {
        let missed = ring.start().saturating_sub(self.position);
        if missed > 0 {
            self.position = ring.start();
            self.notice(&format!(
                "{missed} bytes are skipped: they were not taken in time"
            ));
            return true;
        }
        let target = self.target(ring);
        let Shows::Lines { lines, .. } = &mut self.shows else {
            return false;
        };
        let (first, second) = ring.after(self.position);
        let bytes = if first.is_empty() { second } else { first };
        let wanted = usize::try_from(target.saturating_sub(self.position)).unwrap_or(REPLY);
        let bytes = &bytes[..bytes.len().min(wanted).min(REPLY)];
        self.position += bytes.len() as u64;
        let mut all = Vec::new();
        lines.push(bytes, |line| all.push(line));
        let is_last = self.until.is_some_and(|(until, _)| self.position >= until) && !self.finished;
        if is_last {
            all.extend(lines.finish());
            self.finished = true;
        }
        if !all.is_empty() || is_last {
            self.first = reply(&all, !is_last);
        }
        // Bytes that make no line yet are no reason to write.
        !self.first.is_empty()
    }

    fn notice(&mut self, text: &str) {
        let notice = match &self.shows {
            Shows::Terminal => notice(text),
            Shows::Lines { .. } => reply(&[format!("[minivmm: {text}]")], true),
        };
        self.first.extend_from_slice(&notice);
    }

    fn target(&self, ring: &Ring) -> u64 {
        self.until
            .map_or(ring.end(), |(until, _)| until.min(ring.end()))
    }

    fn is_over(&self, ring: &Ring) -> bool {
        self.until.is_some()
            && self.first.is_empty()
            && self.position >= self.target(ring)
            && (self.finished || matches!(self.shows, Shows::Terminal))
    }
}

/// What minivmm itself says on a console, on a line of its own.
pub fn notice(text: &str) -> Vec<u8> {
    format!("\r\n[minivmm: {text}]\r\n").into_bytes()
}

fn reply(lines: &[String], continues: bool) -> Vec<u8> {
    let reply = match continues {
        true => json!({ "parameters": { "lines": lines }, "continues": true }),
        false => json!({ "parameters": { "lines": lines } }),
    };
    let mut bytes = reply.to_string().into_bytes();
    bytes.push(0);
    bytes
}

impl AsFd for Viewer {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

fn is_not_now(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::console::{claim::Claims, ring};

    fn viewer(shows: Shows, position: u64) -> (Viewer, UnixStream) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let claim = Claims::default().writer("test", false).unwrap();
        theirs
            .set_read_timeout(Some(Duration::from_secs(20)))
            .unwrap();
        (Viewer::new(ours, claim, shows, position).unwrap(), theirs)
    }

    fn replied(stream: &mut UnixStream) -> serde_json::Value {
        let mut bytes = vec![0; 1 << 16];
        let n = stream.read(&mut bytes).unwrap();
        let (end, reply) = bytes[..n].split_last().unwrap();
        assert_eq!(*end, 0);
        serde_json::from_slice(reply).unwrap()
    }

    #[test]
    fn a_viewer_that_does_not_read_is_told_what_it_has_missed_and_nothing_else_is_lost() {
        let mut ring = Ring::default();
        let (mut viewer, mut stream) = viewer(Shows::Terminal, 0);
        let mut sent = Vec::new();
        for n in 0..30_000 {
            let line = format!("{n:0>99}\n");
            ring.push(line.as_bytes());
            sent.extend_from_slice(line.as_bytes());
            assert!(viewer.show(&ring));
        }
        assert!(sent.len() > 2 * ring::CAPACITY && viewer.has_output(&ring));
        viewer.end_at(ring.end(), Instant::now());
        let reader = std::thread::spawn(move || {
            let mut bytes = Vec::new();
            stream.read_to_end(&mut bytes).map(|_| bytes)
        });
        while viewer.show(&ring) {}
        drop(viewer);
        let got = reader.join().unwrap().unwrap();
        let text = String::from_utf8(got).unwrap();
        // It was told once when it was behind, and once more when it began to read.
        let (mut shown, mut missed, mut rest) = (Vec::new(), 0, &text[..]);
        while let Some((before, after)) = rest.split_once("\r\n[minivmm: ") {
            let (count, after) = after
                .split_once(" bytes are skipped: they were not taken in time]\r\n")
                .unwrap();
            shown.push(before);
            missed += count.parse::<usize>().unwrap();
            rest = after;
        }
        let (before, after) = (shown.concat(), rest);
        assert!((1..=2).contains(&shown.len()));
        assert!(shown[1..].concat().is_empty());
        assert_eq!(before.len() + missed + after.len(), sent.len());
        assert!(sent.starts_with(before.as_bytes()) && sent.ends_with(after.as_bytes()));
        assert_eq!(after.len(), ring::CAPACITY);
    }

    #[test]
    fn lines_are_replies_and_the_last_one_says_so() {
        let mut ring = Ring::default();
        ring.push(b"\x1b[1mone\x1b[0m\r\ntwo\r\nthr");
        let shows = Shows::Lines {
            lines: Lines::default(),
            follow: true,
        };
        let (mut viewer, mut stream) = viewer(shows, 0);
        assert!(viewer.show(&ring));
        assert_eq!(
            replied(&mut stream),
            json!({ "parameters": { "lines": ["one", "two"] }, "continues": true })
        );
        ring.push(b"ee\r\nprompt> ");
        viewer.end_at(ring.end(), Instant::now());
        assert!(viewer.has_output(&ring));
        assert!(!viewer.show(&ring));
        assert_eq!(
            replied(&mut stream),
            json!({ "parameters": { "lines": ["three", "prompt> "] } })
        );
    }

    #[test]
    fn without_anything_to_show_there_is_still_a_last_reply() {
        let ring = Ring::default();
        let shows = Shows::Lines {
            lines: Lines::default(),
            follow: false,
        };
        let (mut viewer, mut stream) = viewer(shows, 0);
        assert!(viewer.looks_back_only());
        viewer.end_at(ring.end(), Instant::now());
        assert!(!viewer.show(&ring));
        assert_eq!(
            replied(&mut stream),
            json!({ "parameters": { "lines": [] } })
        );
    }
}
