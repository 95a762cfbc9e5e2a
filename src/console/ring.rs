//! What the guest printed last.

use std::collections::VecDeque;

/// Bytes that are kept.
pub const CAPACITY: usize = 1 << 20;

/// The last [`CAPACITY`] bytes, each with its position since the beginning.
#[derive(Debug, Default)]
pub struct Ring {
    bytes: VecDeque<u8>,
    /// Position of the first byte that is kept.
    start: u64,
}

impl Ring {
    /// Adds bytes; the oldest beyond [`CAPACITY`] are forgotten.
    pub fn push(&mut self, bytes: &[u8]) {
        let kept = &bytes[bytes.len().saturating_sub(CAPACITY)..];
        let excess = (self.bytes.len() + kept.len()).saturating_sub(CAPACITY);
        self.bytes.drain(..excess);
        self.bytes.extend(kept);
        self.start += (excess + bytes.len() - kept.len()) as u64;
    }

    /// Position of the first byte that is kept.
    pub fn start(&self) -> u64 {
        self.start
    }

    /// Position of the next byte.
    pub fn end(&self) -> u64 {
        self.start + self.bytes.len() as u64
    }

    /// What is kept from `position` on, which is not before the [start](Self::start), in two parts.
    pub fn after(&self, position: u64) -> (&[u8], &[u8]) {
        let skip = position.saturating_sub(self.start);
        let skip = usize::try_from(skip).map_or(self.bytes.len(), |n| n.min(self.bytes.len()));
        let (first, second) = self.bytes.as_slices();
        match first.len() <= skip {
            true => (&[], &second[skip - first.len()..]),
            false => (&first[skip..], second),
        }
    }

    /// The position from which on there are `lines` lines, the last of which may have no end, but none before `from`.
    pub fn lines_back(&self, lines: usize, from: u64) -> u64 {
        let mut left = lines;
        let back = self.bytes.iter().rev().enumerate().position(|(n, byte)| {
            // The end of the last line is not the beginning of another one.
            if *byte == b'\n' && n > 0 {
                left = left.saturating_sub(1);
            }
            left == 0
        });
        let start = match (lines, back) {
            (0, _) => self.end(),
            (_, Some(back)) => self.end() - back as u64,
            (_, None) => self.start,
        };
        start.max(from)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn after(ring: &Ring, position: u64) -> Vec<u8> {
        let (first, second) = ring.after(position);
        [first, second].concat()
    }

    #[test]
    fn the_last_bytes_are_kept_with_their_positions() {
        let mut ring = Ring::default();
        let all: Vec<u8> = (0..CAPACITY * 2 + 1000).map(|n| (n % 251) as u8).collect();
        let mut sent = 0;
        for size in [1, 10, 7000, CAPACITY - 1, 3000, CAPACITY + 17]
            .iter()
            .cycle()
        {
            let piece = &all[sent..all.len().min(sent + size)];
            ring.push(piece);
            sent += piece.len();
            assert_eq!(ring.end(), sent as u64);
            assert_eq!(ring.start(), sent.saturating_sub(CAPACITY) as u64);
            let start = ring.start();
            for position in [start, start + 5, ring.end()] {
                let from = usize::try_from(position).unwrap().min(sent);
                assert!(after(&ring, position) == all[from..sent], "{position}");
            }
            if sent == all.len() {
                break;
            }
        }
    }

    #[test]
    fn lines_are_counted_from_the_end() {
        let mut ring = Ring::default();
        assert_eq!(ring.lines_back(3, 0), 0);
        ring.push(b"one\ntwo\nthree\n");
        for (lines, expected) in [
            (0, ""),
            (1, "three\n"),
            (2, "two\nthree\n"),
            (3, "one\ntwo\nthree\n"),
            (9, "one\ntwo\nthree\n"),
        ] {
            assert_eq!(after(&ring, ring.lines_back(lines, 0)), expected.as_bytes());
        }
        ring.push(b"login: ");
        assert_eq!(after(&ring, ring.lines_back(2, 0)), b"three\nlogin: ");
        assert_eq!(ring.lines_back(2, 12), 12);
    }
}
