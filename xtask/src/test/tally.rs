//! Counts tests by the line with which every test program ends.

use std::fmt;
use std::io;
use std::ops::Add;
use std::time::{Duration, Instant};

/// How many tests went which way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Tests that passed.
    pub passed: u32,
    /// Tests that failed.
    pub failed: u32,
    /// Tests that were not run: ignored, or filtered out.
    pub skipped: u32,
}

impl Add for Tally {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            passed: self.passed + other.passed,
            failed: self.failed + other.failed,
            skipped: self.skipped + other.skipped,
        }
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            passed,
            failed,
            skipped,
        } = self;
        write!(to, "{passed} passed, {failed} failed, {skipped} skipped")
    }
}

impl Tally {
    /// Reads `test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; …`.
    fn parse(line: &str) -> Option<Self> {
        let (_, counts) = line.split_once("test result: ")?;
        let count = |what: &str| {
            let (before, _) = counts.split_once(what)?;
            before.rsplit(' ').next()?.parse::<u32>().ok()
        };
        Some(Self {
            passed: count(" passed;")?,
            failed: count(" failed;")?,
            skipped: count(" ignored;")? + count(" filtered out")?,
        })
    }
}

/// A test that has run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ran {
    /// Its name.
    pub name: String,
    /// Whether it passed.
    pub passed: bool,
    /// How long it took, if no other ran beside it.
    pub time: Duration,
}

/// Takes the output of test programs while they run.
#[derive(Debug, Default)]
pub struct TestOutput {
    /// The sum over all of them.
    pub tally: Tally,
    /// The tests that passed or failed, by name.
    pub tests: Vec<Ran>,
    /// The test that is running, if it has printed something itself.
    running: Option<String>,
    since: Option<Instant>,
    line: Vec<u8>,
}

impl TestOutput {
    /// Reads `test boot::one ... ok`. What a test prints stands behind its name, and its outcome in a line of its own.
    fn line(&mut self, line: &str) {
        if let Some(tally) = Tally::parse(line) {
            self.tally = self.tally + tally;
            return;
        }
        let named = line
            .strip_prefix("test ")
            .and_then(|line| line.split_once(" ... "));
        let (name, outcome) = match named {
            Some((name, outcome)) => (Some(name.trim().to_owned()), outcome),
            None => (self.running.take(), line),
        };
        let passed = match outcome.trim() {
            "ok" => true,
            "FAILED" => false,
            _ => {
                self.running = name;
                self.since.get_or_insert_with(Instant::now);
                return;
            }
        };
        let now = Instant::now();
        let time = self.since.replace(now).map(|since| now - since);
        self.tests.extend(name.map(|name| Ran {
            name,
            passed,
            time: time.unwrap_or_default(),
        }));
    }
}

impl io::Write for TestOutput {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        for byte in bytes {
            if *byte != b'\n' {
                self.line.push(*byte);
                continue;
            }
            let line = plain(&String::from_utf8_lossy(&std::mem::take(&mut self.line)));
            self.line(&line);
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The text without its colours.
fn plain(text: &str) -> String {
    let mut parts = text.split("\x1b[");
    let mut plain = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        plain.push_str(part.split_once('m').map_or(part, |(_, text)| text));
    }
    plain
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::io::Write;

    use super::*;

    #[test]
    fn the_results_of_several_programs_are_added_up() {
        let mut output = TestOutput::default();
        output
            .write_all(
                b"running 3 tests\ntest a ... ok\n\n\
                test result: ok. 2 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.00s\n\n\
                test result: \x1b[31mFAILED\x1b[0m. 10 passed; 3 failed; 0 ignored; 0 measured; 4 filtered ou",
            )
            .unwrap();
        assert_eq!(output.tally.passed, 2);
        output.write_all(b"t; finished in 1.20s\n").unwrap();
        assert_eq!(output.tally.to_string(), "12 passed, 3 failed, 5 skipped");
    }

    #[test]
    fn tests_are_known_by_name_also_when_they_print_something() {
        let mut output = TestOutput::default();
        output
            .write_all(
                b"running 4 tests\ntest a::b    ... ok\ntest c ... \x1b[31mFAILED\x1b[0m\n\
                  test d ... figures\nok is a word\nFAILED\ntest e ... 7 MB\nok\nok\ntest result: FAILED.\n",
            )
            .unwrap();
        let tests: Vec<_> = output
            .tests
            .iter()
            .map(|test| (test.name.as_str(), test.passed))
            .collect();
        assert_eq!(
            tests,
            [("a::b", true), ("c", false), ("d", false), ("e", true)]
        );
        let failed = output.tests.iter().filter(|test| !test.passed);
        let failed: Vec<_> = failed.map(|test| test.name.as_str()).collect();
        assert_eq!(failed, ["c", "d"]);
    }

    #[test]
    fn other_lines_do_not_count() {
        let mut output = TestOutput::default();
        output
            .write_all(b"5 passed; 0 failed\ntest result: none\n")
            .unwrap();
        assert_eq!(output.tally, Tally::default());
    }
}
