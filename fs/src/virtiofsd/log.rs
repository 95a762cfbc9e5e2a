//! What virtiofsd prints, as lines of our log that carry the share's tag.

use std::{
    io::{self, PipeReader, Read},
    os::fd::{AsFd, BorrowedFd},
};

use minivmm_devices::text::one_line;

use crate::tag::Tag;

/// Reads of a turn at most: a full pipe is 16.
const READS: usize = 16;

/// Bytes of a line at most; the rest of a longer one is dropped.
const LINE_MAX: usize = 1024;

/// The reading end of virtiofsd's output, non-blocking.
#[derive(Debug)]
pub(super) struct Log {
    tag: Tag,
    pipe: PipeReader,
    lines: Lines,
}

impl Log {
    pub(super) fn new(tag: Tag, pipe: PipeReader) -> io::Result<Self> {
        rustix::io::ioctl_fionbio(&pipe, true)?;
        Ok(Self {
            tag,
            pipe,
            lines: Lines::default(),
        })
    }

    /// Logs what has been printed so far; says whether more can come.
    pub(super) fn drain(&mut self) -> bool {
        let mut buffer = [0; 4096];
        // Bounded: who prints without pause is heard again when the others have been.
        for _ in 0..READS {
            match self.pipe.read(&mut buffer) {
                Ok(0) => {
                    self.lines.finish(|line| log(&self.tag, line));
                    return false;
                }
                Ok(n) => self.lines.push(&buffer[..n], |line| log(&self.tag, line)),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return true,
                Err(error) => {
                    tracing::warn!(share = %self.tag, %error, "cannot read virtiofsd's output");
                    return false;
                }
            }
        }
        true
    }
}

impl AsFd for Log {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.pipe.as_fd()
    }
}

fn log(tag: &Tag, line: &str) {
    let (level, text) = level_and_text(line);
    match level {
        "ERROR" => tracing::error!(share = %tag, "virtiofsd: {text}"),
        "INFO" => tracing::info!(share = %tag, "virtiofsd: {text}"),
        "DEBUG" | "TRACE" => tracing::debug!(share = %tag, "virtiofsd: {text}"),
        _ => tracing::warn!(share = %tag, "virtiofsd: {text}"),
    }
}

/// Takes "[2025-01-01T00:00:00Z INFO  virtiofsd::main] text" apart: our log has a time of its own. A line
/// of another form (a panic, a complaint about options) has no level.
fn level_and_text(line: &str) -> (&str, &str) {
    let parts = || {
        let (head, text) = line.strip_prefix('[')?.split_once("] ")?;
        let mut words = head.split_whitespace();
        let (_time, level, _module) = (words.next()?, words.next()?, words.next()?);
        Some((level, text))
    };
    parts().unwrap_or(("", line))
}

/// Cuts a stream of bytes into lines.
#[derive(Debug, Default)]
struct Lines {
    line: Vec<u8>,
    too_long: bool,
}

impl Lines {
    fn push(&mut self, bytes: &[u8], mut sink: impl FnMut(&str)) {
        for &byte in bytes {
            if byte == b'\n' {
                self.finish(&mut sink);
            } else if self.line.len() < LINE_MAX {
                self.line.push(byte);
            } else {
                self.too_long = true;
            }
        }
    }

    /// Ends a line, also one without a newline behind it.
    fn finish(&mut self, mut sink: impl FnMut(&str)) {
        if self.line.is_empty() {
            return;
        }
        // A name that a guest chose may be in it: no line of ours, no escape sequence of a terminal.
        let mut line = one_line(&String::from_utf8_lossy(&self.line));
        if self.too_long {
            line.push('…');
        }
        sink(&line);
        self.line.clear();
        self.too_long = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(pieces: &[&[u8]]) -> Vec<String> {
        let mut lines = Lines::default();
        let mut seen = Vec::new();
        for piece in pieces {
            lines.push(piece, |line| seen.push(line.to_owned()));
        }
        lines.finish(|line| seen.push(line.to_owned()));
        seen
    }

    #[test]
    fn lines_are_put_together_from_pieces() {
        assert_eq!(
            lines(&[b"on", b"e\n\ntwo\nthr", b"ee"]),
            ["one", "two", "three"]
        );
    }

    #[test]
    fn a_long_line_is_cut_and_the_next_one_is_whole() {
        let long = vec![b'x'; 100_000];
        let seen = lines(&[&long, b"\nnext\n"]);
        assert_eq!(seen, [format!("{}…", "x".repeat(LINE_MAX)), "next".into()]);
    }

    #[test]
    fn control_characters_do_not_reach_the_log() {
        assert_eq!(lines(&[b"a\x1b[31mb\r\xff\n"]), ["a\u{fffd}[31mb \u{fffd}"]);
    }

    #[test]
    fn a_log_line_loses_its_time_and_keeps_its_level() {
        assert_eq!(
            level_and_text("[2025-01-01T00:00:00Z INFO  virtiofsd] Waiting"),
            ("INFO", "Waiting")
        );
        for other in ["thread 'main' panicked", "[odd] line", "[", ""] {
            assert_eq!(level_and_text(other), ("", other));
        }
    }
}
