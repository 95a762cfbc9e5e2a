//! The lab machine's serial console: what the command prints, and between it the reports of `xtask/lab/session`.

/// A record separator begins a report.
const SEPARATOR: u8 = 0x1e;

/// What was reported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Report {
    /// The command is about to run; what came before was the machine's.
    Started,
    /// The machine's clock goes on.
    Alive,
    /// The command ended with this code.
    Exit(u8),
}

/// Takes the stream apart.
#[derive(Debug)]
pub struct Console {
    /// What a report begins with.
    prefix: Vec<u8>,
    /// What has come and may yet become a report or the end of a line.
    pending: Vec<u8>,
}

impl Console {
    /// A console whose reports carry `token`.
    pub fn new(token: &str) -> Self {
        let mut prefix = vec![SEPARATOR];
        prefix.extend_from_slice(format!("minivmm-lab {token} ").as_bytes());
        Self {
            prefix,
            pending: Vec::new(),
        }
    }

    /// Takes the next `bytes` and calls `each` with the pieces that are complete, in order.
    pub fn feed(&mut self, bytes: &[u8], mut each: impl FnMut(Piece<'_>)) {
        self.pending.extend_from_slice(bytes);
        let mut rest = self.pending.as_slice();
        while let Some(special) = rest
            .iter()
            .position(|byte| matches!(*byte, SEPARATOR | b'\r'))
        {
            let (plain, from) = rest.split_at(special);
            if !plain.is_empty() {
                each(Piece::Output(plain));
            }
            rest = from;
            // The kernel ends its lines with a carriage return as well. One inside a line is the command's own.
            if from[0] == b'\r' {
                match from.get(1) {
                    None => break,
                    Some(b'\n') => {}
                    Some(_) => each(Piece::Output(b"\r")),
                }
                rest = &from[1..];
                continue;
            }
            match self
                .prefix
                .iter()
                .zip(from)
                .all(|(wanted, byte)| wanted == byte)
            {
                false => {
                    each(Piece::Output(&from[..1]));
                    rest = &from[1..];
                }
                true => {
                    let Some(end) = from.iter().position(|byte| *byte == b'\n') else {
                        break;
                    };
                    match parse(from[..end].get(self.prefix.len()..).unwrap_or_default()) {
                        Some(report) => each(Piece::Report(report)),
                        None => each(Piece::Output(&from[..=end])),
                    }
                    rest = &from[end + 1..];
                }
            }
        }
        if !rest.is_empty() && !matches!(rest[0], SEPARATOR | b'\r') {
            each(Piece::Output(rest));
            rest = &[];
        }
        self.pending = rest.to_vec();
    }
}

/// A part of the stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Piece<'a> {
    /// For the user.
    Output(&'a [u8]),
    /// For the host side.
    Report(Report),
}

fn parse(report: &[u8]) -> Option<Report> {
    match std::str::from_utf8(report).ok()?.trim_end_matches('\r') {
        "started" => Some(Report::Started),
        "alive" => Some(Report::Alive),
        other => other.strip_prefix("exit ")?.parse().ok().map(Report::Exit),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn signs_of_life_are_no_output_wherever_they_come() {
        let (output, reports) = read(b"a\nb\x1eminivmm-lab token alive\nc\n", 3);
        assert_eq!(output, "a\nbc\n");
        assert_eq!(reports, [Report::Alive]);
    }

    /// Output and reports of `stream`, fed in pieces of `step` bytes.
    fn read(stream: &[u8], step: usize) -> (String, Vec<Report>) {
        let mut console = Console::new("token");
        let (mut output, mut reports) = (Vec::new(), Vec::new());
        for bytes in stream.chunks(step) {
            console.feed(bytes, |piece| match piece {
                Piece::Output(bytes) => output.extend_from_slice(bytes),
                Piece::Report(report) => reports.push(report),
            });
        }
        (String::from_utf8(output).unwrap(), reports)
    }

    #[test]
    fn reports_are_taken_out_wherever_they_and_the_reads_begin() {
        let stream =
            b"boot\r\n\x1eminivmm-lab token started\na b\nno end of line\x1eminivmm-lab token exit 7\n";
        for step in 1..=stream.len() {
            let (output, reports) = read(stream, step);
            assert_eq!(output, "boot\na b\nno end of line", "in steps of {step}");
            assert_eq!(reports, [Report::Started, Report::Exit(7)]);
        }
    }

    #[test]
    fn another_token_is_output() {
        let stream = b"\x1eminivmm-lab other exit 0\n";
        let (output, reports) = read(stream, 5);
        assert_eq!(output.as_bytes(), stream);
        assert_eq!(reports, []);
    }

    #[test]
    fn what_is_no_exit_code_is_output() {
        let (output, reports) = read(b"\x1eminivmm-lab token exit 256\n", 3);
        assert_eq!(output, "\x1eminivmm-lab token exit 256\n");
        assert_eq!(reports, []);
    }

    #[test]
    fn a_carriage_return_inside_a_line_stays() {
        let (output, _) = read(b"10 %\r20 %\r\n\r\r\n", 1);
        assert_eq!(output, "10 %\r20 %\n\r\n");
    }
}
