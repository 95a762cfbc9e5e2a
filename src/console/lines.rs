//! Lines out of what a guest prints, for people and programs that want nothing else: without escape sequences and
//! control characters, of valid UTF-8, and none endless.

use anstream::adapter::StripBytes;

/// Bytes of a line at most; a longer one is cut there, between two characters.
pub const LONGEST: usize = 2048;

/// Makes lines of what comes in any pieces.
#[derive(Debug, Default)]
pub struct Lines {
    escapes: StripBytes,
    line: Vec<u8>,
    /// A carriage return has come: the line's end, or its beginning anew.
    returned: bool,
}

impl Lines {
    /// Adds output; gives each line that it completes to `line`.
    pub fn push(&mut self, output: &[u8], mut line: impl FnMut(String)) {
        for part in output.split_inclusive(|byte| *byte == b'\n') {
            let (part, is_whole) = match part.strip_suffix(b"\n") {
                Some(part) => (part, true),
                None => (part, false),
            };
            for printable in self.escapes.strip_next(part) {
                for &byte in printable {
                    if std::mem::take(&mut self.returned) && byte != b'\r' {
                        // What is written over is not seen on a terminal either: a progress bar is its last state.
                        self.line.clear();
                    }
                    match byte {
                        b'\r' => self.returned = true,
                        b'\t' | 0x20..=0x7e | 0x80.. => self.line.push(byte),
                        _ => {}
                    }
                    if self.line.len() >= LONGEST {
                        let rest = self.line.split_off(boundary(&self.line));
                        line(text(std::mem::replace(&mut self.line, rest)));
                    }
                }
            }
            if is_whole {
                self.returned = false;
                // A sequence that never ends would take everything with it.
                self.escapes = StripBytes::default();
                line(text(std::mem::take(&mut self.line)));
            }
        }
    }

    /// What has come of a line without its end.
    pub fn finish(&mut self) -> Option<String> {
        self.returned = false;
        let line = std::mem::take(&mut self.line);
        (!line.is_empty()).then(|| text(line))
    }
}

/// Where a line that is too long is cut: not in a character, if it has characters.
fn boundary(line: &[u8]) -> usize {
    let is_start = |n: &usize| line[*n] & 0xc0 != 0x80;
    match line.last() {
        Some(0..0x80) | None => line.len(),
        Some(_) => {
            let start = (line.len().saturating_sub(4)..line.len())
                .rev()
                .find(is_start);
            start.filter(|start| *start > 0).unwrap_or(line.len())
        }
    }
}

fn text(line: Vec<u8>) -> String {
    let text = match String::from_utf8(line) {
        Ok(text) => text,
        Err(error) => String::from_utf8_lossy(error.as_bytes()).into_owned(),
    };
    match text.contains(char::is_control) {
        // C1, as characters.
        true => text.replace(|c: char| c.is_control() && c != '\t', ""),
        false => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(pieces: &[&[u8]]) -> Vec<String> {
        let (mut lines, mut all) = (Lines::default(), Vec::new());
        for piece in pieces {
            lines.push(piece, |line| all.push(line));
        }
        all.extend(lines.finish());
        all
    }

    #[test]
    fn escapes_and_control_characters_are_left_out_wherever_they_are_cut() {
        let text = "\x1b[0;32m  OK  \x1b[0m\tgrün\x07\u{9b}\r\n\x1b]0;title\x07next\0\n".as_bytes();
        let expected = ["  OK  \tgrün", "next"];
        assert_eq!(lines(&[text]), expected);
        let bytes: Vec<&[u8]> = text.chunks(1).collect();
        assert_eq!(lines(&bytes), expected);
        for cut in 1..text.len() {
            assert_eq!(lines(&[&text[..cut], &text[cut..]]), expected, "{cut}");
        }
    }

    #[test]
    fn what_is_written_over_is_not_kept() {
        assert_eq!(lines(&[b"10 %\r50 %\r100 %\r\ndone\r"]), ["100 %", "done"]);
    }

    #[test]
    fn no_line_has_a_part_of_a_character() {
        assert_eq!(lines(&[b"a\xffb\xe2\x82", b"\nx"]), ["ab\u{fffd}", "x"]);
    }

    #[test]
    fn a_line_without_end_is_cut_between_characters() {
        let long = "€".repeat(LONGEST);
        let cut = lines(&[long.as_bytes()]);
        assert!(
            cut.iter()
                .all(|line| line.len() <= LONGEST && !line.contains('\u{fffd}'))
        );
        assert_eq!(cut.concat(), long);
    }

    #[test]
    fn a_sequence_without_end_hides_one_line_only() {
        assert_eq!(
            lines(&[b"a\x1b]0;hidden\nshown\x1bPx\nshown too\n"]),
            ["a", "shown", "shown too"]
        );
    }
}
