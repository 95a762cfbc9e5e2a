//! One text out of what two consoles print.
//!
//! Linux prints each of its messages on all consoles, and when one is added, everything that it has printed before once
//! more. Messages have a time in front (`CONFIG_PRINTK_TIME`), so that two equal lines with a time are one message: the
//! second is left out. Programs write to one console, and what they write is never touched.

use std::{
    collections::VecDeque,
    hash::{DefaultHasher, Hash, Hasher},
};

use super::Origin;

/// Messages of a console that are remembered until the other one prints them.
pub const REMEMBERED: usize = 4096;
/// Bytes of a message at most; what is longer is no message. Linux cuts at 1024 with its time.
pub const LINE: usize = 2048;

/// What is done with the outputs of two consoles.
#[derive(Debug)]
pub struct Merge {
    /// By [`Origin`]; none where nothing is left out.
    consoles: Option<[Console; 2]>,
}

/// What one console has printed.
#[derive(Debug, Default)]
struct Console {
    line: Line,
    /// The beginning of a line that may be a message.
    held: Vec<u8>,
    /// Fingerprints of the messages that the other one has not printed, the oldest first.
    shown: VecDeque<u64>,
}

/// How far the time in front of a message has come: `[    1.234567]`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Line {
    /// Nothing of the line is there.
    #[default]
    Start,
    /// The bracket, and spaces.
    Spaces,
    /// Seconds.
    Seconds,
    /// So many digits of six after the point.
    Fraction(u8),
    /// It is a message.
    Message,
    /// It is none.
    Other,
}

impl Line {
    fn after(self, byte: u8) -> Self {
        match (self, byte) {
            (_, b'\n') => Self::Start,
            (Self::Message | Self::Other, _) => self,
            (Self::Start, b'[') | (Self::Spaces, b' ') => Self::Spaces,
            (Self::Spaces | Self::Seconds, b'0'..=b'9') => Self::Seconds,
            (Self::Seconds, b'.') => Self::Fraction(0),
            (Self::Fraction(n @ 0..6), b'0'..=b'9') => Self::Fraction(n + 1),
            (Self::Fraction(6), b']') => Self::Message,
            _ => Self::Other,
        }
    }
}

impl Merge {
    /// Leaves out what comes twice.
    pub fn once() -> Self {
        Self {
            consoles: Some(Default::default()),
        }
    }

    /// Leaves everything as it is.
    pub fn all() -> Self {
        Self { consoles: None }
    }

    /// Appends to `text` what is to be shown of `output`. The end of it may be held back until more comes.
    pub fn push(&mut self, origin: Origin, output: &[u8], text: &mut Vec<u8>) {
        let Some(consoles) = &mut self.consoles else {
            text.extend_from_slice(output);
            return;
        };
        for &byte in output {
            let console = &mut consoles[origin as usize];
            let before = console.line;
            console.line = before.after(byte);
            console.held.push(byte);
            match console.line {
                // A program's lines are passed on as they come.
                Line::Other => text.append(&mut console.held),
                Line::Start if before == Line::Message => {
                    let message = fingerprint(&console.held);
                    let shown = &mut consoles[origin.other() as usize].shown;
                    let twin = shown.iter().position(|shown| *shown == message);
                    if let Some(twin) = twin {
                        shown.remove(twin);
                    }
                    let console = &mut consoles[origin as usize];
                    if twin.is_none() {
                        text.append(&mut console.held);
                        if console.shown.len() == REMEMBERED {
                            console.shown.pop_front();
                        }
                        console.shown.push_back(message);
                    }
                    console.held.clear();
                }
                Line::Start => text.append(&mut console.held),
                _ if console.held.len() > LINE => {
                    console.line = Line::Other;
                    text.append(&mut console.held);
                }
                _ => {}
            }
        }
    }

    /// Whether something is held back.
    pub fn holds(&self) -> bool {
        let consoles = self.consoles.iter().flatten();
        consoles.into_iter().any(|console| !console.held.is_empty())
    }

    /// Appends to `text` what is held back: its line is not continued.
    pub fn flush(&mut self, text: &mut Vec<u8>) {
        for console in self.consoles.iter_mut().flatten() {
            if !console.held.is_empty() {
                console.line = Line::Other;
                text.append(&mut console.held);
            }
        }
    }
}

/// Of a line without its end, which consoles write in several ways.
fn fingerprint(line: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    line.trim_ascii_end().hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use Origin::{Serial, Virtio};

    fn merged(pieces: &[(Origin, &str)]) -> String {
        let (mut merge, mut text) = (Merge::once(), Vec::new());
        for (origin, piece) in pieces {
            merge.push(*origin, piece.as_bytes(), &mut text);
        }
        merge.flush(&mut text);
        String::from_utf8_lossy(&text).into_owned()
    }

    #[test]
    fn a_message_is_shown_once_whichever_console_is_first() {
        assert_eq!(
            merged(&[
                (Serial, "[    0.000000] Linux\r\n[    0.1"),
                (Serial, "23456] two\r\n"),
                (Virtio, "[    0.000000] Linux\n[    0.123456] two\n"),
                (Virtio, "[    1.000000] three\r\n"),
                (Serial, "[    1.000000] three\n[    1.000000] four\n"),
            ]),
            "[    0.000000] Linux\r\n[    0.123456] two\r\n[    1.000000] three\r\n\
             [    1.000000] four\n"
        );
    }

    #[test]
    fn a_message_that_one_console_prints_twice_is_shown_twice() {
        let message = "[   10.000000] again\n";
        assert_eq!(
            merged(&[(Serial, message), (Serial, message)]),
            message.repeat(2)
        );
        assert_eq!(
            merged(&[(Serial, message), (Virtio, message), (Virtio, message)]),
            message.repeat(2)
        );
    }

    #[test]
    fn what_programs_print_is_never_touched() {
        for text in [
            "login: ",
            "[root@host /]# ",
            "[  OK  ] Started\n",
            "[ 12.3456789] x\n",
            "[12.345678 x\n",
            "\n\n",
            "same\n",
        ] {
            assert_eq!(merged(&[(Serial, text), (Virtio, text)]), text.repeat(2));
        }
    }

    #[test]
    fn a_prompt_is_not_held_back() {
        let (mut merge, mut text) = (Merge::once(), Vec::new());
        merge.push(Virtio, b"[root@h ~]# ", &mut text);
        assert_eq!(text, b"[root@h ~]# ");
        assert!(!merge.holds());
        merge.push(Serial, b"[    1.00", &mut text);
        assert!(merge.holds());
        merge.flush(&mut text);
        assert_eq!(text, b"[root@h ~]# [    1.00");
        assert!(!merge.holds());
    }

    #[test]
    fn a_line_without_end_is_not_kept() {
        let (mut merge, mut text) = (Merge::once(), Vec::new());
        merge.push(Virtio, b"[    1.000000] ", &mut text);
        for _ in 0..LINE {
            merge.push(Virtio, b"x", &mut text);
        }
        assert!(!merge.holds());
        assert_eq!(text.len(), LINE + 15);
    }

    fn console() -> impl Strategy<Value = Vec<(bool, String)>> {
        let piece = prop_oneof![
            "[a-c\\[\\] .0-9\n]{0,12}",
            "\\[    [0-1]\\.00000[0-1]\\] [ab]\n"
        ];
        proptest::collection::vec((any::<bool>(), piece), 0..40)
    }

    proptest! {
        /// What one console prints alone is shown as it is, in whatever pieces.
        #[test]
        fn one_console_alone_is_shown_byte_for_byte(pieces in console()) {
            let pieces: Vec<_> = pieces.iter().map(|(_, text)| (Serial, text.as_str())).collect();
            let all: String = pieces.iter().map(|(_, text)| *text).collect();
            prop_assert_eq!(merged(&pieces), all);
        }

        /// Whatever is left out is a message that the other console has printed as well.
        #[test]
        fn no_line_is_lost(pieces in console()) {
            let lines: Vec<_> = pieces.iter().map(|(serial, text)| {
                let text = format!("{}\n", text.replace('\n', ""));
                (if *serial { Serial } else { Virtio }, text)
            }).collect();
            let pieces: Vec<_> = lines.iter().map(|(o, text)| (*o, text.as_str())).collect();
            let shown = merged(&pieces);
            let count = |origin, line: &str| {
                let of = |(o, text): &&(Origin, String)| *o == origin && text.trim_end() == line.trim_end();
                lines.iter().filter(of).count()
            };
            for (_, line) in &lines {
                let shown = shown.lines().filter(|shown| shown.trim_end() == line.trim_end()).count();
                prop_assert!(shown >= count(Serial, line).max(count(Virtio, line)), "{line:?}");
            }
        }
    }
}
