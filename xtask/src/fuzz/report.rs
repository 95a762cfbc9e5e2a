//! What libFuzzer said of a target, and whether that is good.

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;

/// A target's run.
#[derive(Debug, PartialEq, Eq)]
pub struct Report {
    /// Inputs that were tried.
    runs: u64,
    /// Inputs that are kept since each reaches something of its own.
    corpus: u64,
    /// Edges of the program that were reached.
    coverage: u64,
    end: End,
    /// Inputs that were written since they ended the program.
    found: Vec<PathBuf>,
}

#[derive(Debug, PartialEq, Eq)]
enum End {
    Regular,
    Crash(ExitStatus),
    Hang,
}

impl Report {
    /// `said` is the log, `status` is missing if the target was ended from outside.
    pub fn new(said: &str, status: Option<ExitStatus>, found: Vec<PathBuf>) -> Self {
        let number = |text: Option<&str>| text.and_then(|text| text.parse().ok()).unwrap_or(0);
        // `#1234 NEW cov: 56 ft: 78 corp: 9/10b lim: 4096 exec/s: 11 rss: 27Mb …`
        let last = |key: &str| {
            let line = said.lines().rfind(|line| line.contains(key))?;
            let mut words = line.split_whitespace().skip_while(|word| *word != key);
            words.nth(1)?.split('/').next()
        };
        let runs = last("stat::number_of_executed_units:").or_else(|| {
            let line = said.lines().rfind(|line| line.starts_with('#'))?;
            line.trim_start_matches('#').split_whitespace().next()
        });
        Self {
            runs: number(runs),
            corpus: number(last("corp:")),
            coverage: number(last("cov:")),
            end: match status {
                None => End::Hang,
                Some(status) if status.success() => End::Regular,
                Some(status) => End::Crash(status),
            },
            found,
        }
    }

    fn verdict(&self, floor: u64) -> &'static str {
        match self.end {
            End::Crash(_) => "CRASH",
            End::Hang => "HANG",
            End::Regular if !self.found.is_empty() => "FOUND",
            End::Regular if self.runs < floor => "TOO FEW RUNS",
            End::Regular if self.coverage == 0 => "NO COVERAGE",
            End::Regular => "ok",
        }
    }

    /// What is to be said and done if the run was not good.
    pub fn complaint(&self, target: &str, floor: u64, log: &Path) -> Option<String> {
        let what = match &self.end {
            End::Regular if self.verdict(floor) == "ok" => return None,
            End::Regular => format!("{} runs, {} expected at least", self.runs, floor),
            End::Crash(status) => status.to_string(),
            End::Hang => "it did not end".to_owned(),
        };
        let mut text = format!("fuzz target {target}: {what}; see {}", log.display());
        for input in &self.found {
            let (binary, input) = (super::binary(target), input.display());
            // Writing to a string cannot fail.
            let _ = write!(
                text,
                "\n  again:      {} {input}\n  smaller:    cargo fuzz tmin -s none {target} {input}\n  \
                 a seed, once it is mended: cp {input} fuzz/seeds/{target}/",
                binary.display()
            );
        }
        Some(text)
    }
}

/// The reports as lines of a table.
pub fn table(reports: &[(String, Report)], floor: u64) -> String {
    let width = reports
        .iter()
        .map(|(target, _)| target.len())
        .max()
        .unwrap_or(0)
        .max("target".len());
    let mut text = format!(
        "{:width$}  {:>10}  {:>6}  {:>8}  result",
        "target", "runs", "corpus", "coverage"
    );
    for (target, report) in reports {
        let Report {
            runs,
            corpus,
            coverage,
            ..
        } = report;
        let verdict = report.verdict(floor);
        // Writing to a string cannot fail.
        let _ = write!(
            text,
            "\n{target:width$}  {runs:>10}  {corpus:>6}  {coverage:>8}  {verdict}"
        );
    }
    text
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::os::unix::process::ExitStatusExt;

    use super::*;

    const GOOD: &str = "INFO: seed corpus: files: 3 min: 1b max: 9b total: 12b rss: 26Mb\n\
        #2\tINITED cov: 12 ft: 34 corp: 1/1b exec/s: 0 rss: 26Mb\n\
        #8192\tpulse  cov: 123 ft: 456 corp: 78/9Kb lim: 80 exec/s: 4096 rss: 26Mb\n\
        Done 9000 runs in 2 second(s)\n\
        stat::number_of_executed_units: 9000\nstat::peak_rss_mb: 27\n";

    fn exit(code: i32) -> Option<ExitStatus> {
        Some(ExitStatus::from_raw(code << 8))
    }

    #[test]
    fn the_figures_are_the_last_that_were_said() {
        let report = Report::new(GOOD, exit(0), Vec::new());
        assert_eq!(
            (report.runs, report.corpus, report.coverage),
            (9000, 78, 123)
        );
        assert_eq!(report.complaint("t", 20, Path::new("log")), None);
        assert!(
            table(&[("t".to_owned(), report)], 20)
                .ends_with("\nt             9000      78       123  ok")
        );
    }

    #[test]
    fn a_crash_is_told_with_the_way_to_see_it_again() {
        let said = "#2\tINITED cov: 12 ft: 34 corp: 1/1b\n#77\tNEW cov: 13 ft: 35 corp: 2/3b\nthread panicked\n";
        let report = Report::new(said, exit(77), vec!["/found/crash-1".into()]);
        assert_eq!(report.runs, 77);
        let text = report
            .complaint("serial", 20, Path::new("logs/serial"))
            .unwrap();
        assert!(text.contains("release/serial /found/crash-1"), "{text}");
        assert!(text.contains("logs/serial"), "{text}");
    }

    #[test]
    fn a_target_that_does_nothing_is_no_success() {
        let silent = Report::new("", exit(0), Vec::new());
        assert!(silent.complaint("t", 20, Path::new("log")).is_some());
        let slow = Report::new(GOOD, exit(0), Vec::new());
        assert!(slow.complaint("t", 9001, Path::new("log")).is_some());
        let hung = Report::new(GOOD, None, Vec::new());
        assert_eq!(hung.verdict(20), "HANG");
        let blind = Report::new("stat::number_of_executed_units: 9000\n", exit(0), vec![]);
        assert_eq!(blind.verdict(20), "NO COVERAGE");
    }
}
