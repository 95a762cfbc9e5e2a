//! Counts tests by the line with which every test program ends.

use std::fmt;
use std::io;
use std::ops::Add;
use std::time::Duration;

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
    /// Reads `test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; …`, coloured or not.
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

/// Reads the end of such a line, `finished in 1.20s`.
fn time(line: &str) -> Option<Duration> {
    let (_, seconds) = line.split_once("finished in ")?;
    Duration::try_from_secs_f64(seconds.trim().strip_suffix('s')?.parse().ok()?).ok()
}

/// Reads `test boot::one ... FAILED`, coloured or not.
fn failed(line: &str) -> Option<String> {
    let (name, outcome) = line.strip_prefix("test ")?.split_once(" ... ")?;
    outcome.contains("FAILED").then(|| name.trim().to_owned())
}

/// Takes the output of test programs.
#[derive(Debug, Default)]
pub struct TestOutput {
    /// The sum over all of them.
    pub tally: Tally,
    /// How many there were.
    pub results: u32,
    /// How long all of them took, as they say.
    pub time: Duration,
    /// The tests that were said to have failed.
    pub failed: Vec<String>,
    line: Vec<u8>,
}

impl io::Write for TestOutput {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        for byte in bytes {
            if *byte != b'\n' {
                self.line.push(*byte);
                continue;
            }
            let line = String::from_utf8_lossy(&self.line);
            if let Some(tally) = Tally::parse(&line) {
                self.tally = self.tally + tally;
                self.results += 1;
                self.time += time(&line).unwrap_or_default();
            }
            self.failed.extend(failed(&line));
            self.line.clear();
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
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
        assert_eq!(output.results, 1);
        output.write_all(b"t; finished in 1.20s\n").unwrap();
        assert_eq!(output.results, 2);
        assert_eq!(output.time, Duration::from_millis(1200));
        assert_eq!(output.tally.to_string(), "12 passed, 3 failed, 5 skipped");
    }

    #[test]
    fn failed_tests_are_named() {
        let mut output = TestOutput::default();
        output
            .write_all(
                b"test a::b    ... ok\ntest c ... \x1b[31mFAILED\x1b[0m\ntest result: FAILED.\n",
            )
            .unwrap();
        assert_eq!(output.failed, ["c"]);
    }

    #[test]
    fn other_lines_do_not_count() {
        let mut output = TestOutput::default();
        output
            .write_all(b"5 passed; 0 failed\ntest result: none\n")
            .unwrap();
        assert_eq!(output.results, 0);
    }
}
