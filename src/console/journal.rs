//! The guest's console as the journal gets it: lines, and no more of them than a journal can bear.

use std::{
    fs::File,
    os::{fd::AsFd, unix::fs::MetadataExt},
    time::Instant,
};

use super::lines::Lines;

/// Bytes a second that a guest may print without end.
pub const RATE: u64 = 16 << 10;
/// Bytes that it may print at once: a boot with all its messages, several times.
pub const BURST: u64 = 256 << 10;

/// Whether `output` is the journal: systemd says of what it has made a service's output (systemd.exec(5),
/// `$JOURNAL_STREAM`).
pub fn is_journal(output: impl AsFd) -> bool {
    let stream = std::env::var("JOURNAL_STREAM").unwrap_or_default();
    let metadata = (output.as_fd().try_clone_to_owned()).and_then(|fd| File::from(fd).metadata());
    metadata.is_ok_and(|metadata| is_stream(&stream, metadata.dev(), metadata.ino()))
}

fn is_stream(stream: &str, device: u64, inode: u64) -> bool {
    stream == format!("{device}:{inode}")
}

/// Lets lines through as long as there are not too many.
#[derive(Debug)]
pub struct Filter {
    lines: Lines,
    /// Bytes that may pass at once, and when that was.
    allowance: u64,
    at: Instant,
    /// What was left out since a line passed: lines, bytes.
    left_out: (u64, u64),
}

impl Filter {
    /// A burst may come at once.
    pub fn new(now: Instant) -> Self {
        Self {
            lines: Lines::default(),
            allowance: BURST,
            at: now,
            left_out: (0, 0),
        }
    }

    /// Adds what the guest has printed; appends what of it passes.
    pub fn push(&mut self, now: Instant, output: &[u8], text: &mut Vec<u8>) {
        self.refill(now);
        let mut complete = Vec::new();
        self.lines.push(output, |line| complete.push(line));
        for line in complete {
            self.pass(&line, text);
        }
    }

    /// Appends what is left when nothing more comes.
    pub fn finish(&mut self, text: &mut Vec<u8>) {
        if let Some(line) = self.lines.finish() {
            self.pass(&line, text);
        }
        self.tell(text);
    }

    fn refill(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(self.at);
        let more = u64::try_from(passed.as_millis()).unwrap_or(u64::MAX);
        let more = more.saturating_mul(RATE) / 1000;
        // So little time that it is no byte yet is counted with the next.
        if more > 0 {
            self.at = now;
            self.allowance = self.allowance.saturating_add(more).min(BURST);
        }
    }

    fn pass(&mut self, line: &str, text: &mut Vec<u8>) {
        let size = line.len() as u64 + 1;
        // Once over, it takes a second's worth before lines pass again: not one here and there.
        let needed = if self.left_out.0 > 0 {
            RATE.max(size)
        } else {
            size
        };
        if self.allowance < needed {
            self.left_out.0 += 1;
            self.left_out.1 += size;
            return;
        }
        self.allowance -= size;
        self.tell(text);
        text.extend_from_slice(line.as_bytes());
        text.push(b'\n');
    }

    /// Says what was left out.
    fn tell(&mut self, text: &mut Vec<u8>) {
        let (lines, bytes) = std::mem::take(&mut self.left_out);
        if lines > 0 {
            let notice = format!(
                "[minivmm: {lines} lines, {bytes} bytes of the console are left out here: more than {} KiB a second; \
                 `minivmm logs` has the last of them]\n",
                RATE >> 10
            );
            text.extend_from_slice(notice.as_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::time::Duration;

    use super::*;

    #[test]
    fn the_journal_is_known_by_device_and_inode() {
        assert!(is_stream("9:1234", 9, 1234));
        assert!(!is_stream("9:1234", 9, 123));
        assert!(!is_stream("", 9, 1234));
        let null = File::open("/dev/null").unwrap();
        assert!(!is_journal(&null), "and systemd gives that as well");
    }

    #[test]
    fn a_guest_that_prints_without_pause_is_cut_down_to_the_rate_and_every_line_is_counted() {
        let start = Instant::now();
        let (mut filter, mut text) = (Filter::new(start), Vec::new());
        let line = format!("{}\r\n", "x".repeat(99));
        // A megabyte a second for twenty seconds.
        let seconds = 20;
        for tick in 0..seconds * 100 {
            let now = start + Duration::from_millis(tick * 10);
            filter.push(now, line.repeat(100).as_bytes(), &mut text);
        }
        filter.finish(&mut text);
        let text = String::from_utf8(text).unwrap();
        let (notices, lines): (Vec<_>, Vec<_>) = text.lines().partition(|l| l.starts_with('['));
        let passed = lines.len() as u64 * 100;
        let allowed = BURST + seconds * RATE;
        assert!((allowed - RATE..=allowed).contains(&passed), "{passed}");
        let left_out: u64 = notices
            .iter()
            .map(|notice| notice.split(' ').nth(1).unwrap().parse::<u64>().unwrap())
            .sum();
        assert_eq!(left_out + lines.len() as u64, seconds * 10_000);
        assert!(notices.len() as u64 <= seconds, "{}", notices.len());
    }

    #[test]
    fn a_boot_passes_whole() {
        let start = Instant::now();
        let (mut filter, mut text) = (Filter::new(start), Vec::new());
        filter.push(start, b"\x1b[1mone\x1b[0m\r\ntw", &mut text);
        assert_eq!(text, b"one\n");
        filter.push(start, b"o\r\n\r\nlogin: ", &mut text);
        filter.finish(&mut text);
        assert_eq!(text, b"one\ntwo\n\nlogin: \n");
    }
}
