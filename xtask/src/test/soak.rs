//! The tests that boot guests at their full depth, and a record of the run.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result};

use super::guests::{Depth, Needs};
use super::parts;
use super::tally::Ran;
use crate::command::{capture_text, program};
use crate::lab;
use crate::progress::seconds;
use crate::workspace;

/// Where the record is committed.
const RECORD: &str = "docs/soak.md";

/// Runs the tests whose names have `filter`, with all their sizes. Prints the record, and writes it if it is of all tests
/// and of a commit.
pub fn run(filter: Option<&str>) -> Result<u8> {
    let needs = Needs::made()?;
    let commit = commit()?;
    let mut names = needs.names(Depth::Full)?;
    let in_lab = lab::is_needed(&needs.job(&names, Depth::Full))?;
    names.retain(|name| filter.is_none_or(|filter| name.contains(filter)));

    let tests = parts::run(&needs, &names, Depth::Full)?;
    let mut rows = Vec::new();
    for name in names {
        let mut row = row(&tests, name, Outcome::Passed);
        if in_lab && row.outcome == Outcome::Failed {
            println!("make soak: {} once more", row.name);
            let again = parts::run(&needs, std::slice::from_ref(&row.name), Depth::Full)?;
            row = self::row(&again, row.name, Outcome::PassedAgain);
        }
        rows.push(row);
    }
    let record = record(&commit.name, &machine(in_lab)?, &today()?, &rows);
    println!("{record}");
    let reason = match (commit.is_clean, filter) {
        (false, _) => Some("the checkout has changes that are not committed"),
        (true, Some(_)) => Some("it is not of all tests"),
        (true, None) => None,
    };
    match reason {
        Some(reason) => println!("make soak: {RECORD} is not written: {reason}"),
        None => {
            let path = workspace::root().join(RECORD);
            fs::write(&path, record).with_context(|| format!("cannot write {}", path.display()))?;
            println!("make soak: {RECORD} is written: commit it");
        }
    }
    let failed = rows.iter().any(|row| row.outcome == Outcome::Failed);
    Ok(u8::from(failed))
}

/// How a test went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    Passed,
    /// When it was repeated, in the lab: docs/lab.md says why.
    PassedAgain,
    Failed,
}

#[derive(Debug)]
struct Row {
    name: String,
    outcome: Outcome,
    time: Duration,
}

/// What became of a test; `passed` is what it means that it passed.
fn row(tests: &[Ran], name: String, passed: Outcome) -> Row {
    let ran = tests.iter().find(|test| test.name == name);
    Row {
        outcome: match ran {
            Some(Ran { passed: true, .. }) => passed,
            _ => Outcome::Failed,
        },
        time: ran.map(|test| test.time).unwrap_or_default(),
        name,
    }
}

/// The record in Markdown.
fn record(commit: &str, machine: &str, date: &str, rows: &[Row]) -> String {
    let count = |outcome| rows.iter().filter(|row| row.outcome == outcome).count();
    let mut record = format!(
        "# The last run in all sizes\n\n\
         `make soak` made this on {date} from commit {commit}, {machine}.\n\
         The times in the lab, where several tests ran side by side, say nothing of hardware.\n\n\
         {} passed, {} passed when repeated, {} failed.\n\n\
         | test | result | time |\n|---|---|---|\n",
        count(Outcome::Passed),
        count(Outcome::PassedAgain),
        count(Outcome::Failed),
    );
    for Row {
        name,
        outcome,
        time,
    } in rows
    {
        let outcome = match outcome {
            Outcome::Passed => "passed",
            Outcome::PassedAgain => "passed when repeated",
            Outcome::Failed => "**failed**",
        };
        record.push_str(&format!("| `{name}` | {outcome} | {} |\n", seconds(*time)));
    }
    record
}

struct Commit {
    name: String,
    is_clean: bool,
}

fn commit() -> Result<Commit> {
    let git = |arguments: &[&str]| {
        capture_text(
            program("git")
                .current_dir(workspace::root())
                .args(arguments),
        )
    };
    let changes = git(&["status", "--porcelain"])?;
    let name = git(&["rev-parse", "--short=12", "HEAD"])?;
    let is_clean = changes.trim().is_empty();
    let mark = if is_clean { "" } else { " with changes" };
    Ok(Commit {
        name: format!("`{}`{mark}", name.trim()),
        is_clean,
    })
}

fn today() -> Result<String> {
    let date = capture_text(program("date").args(["--utc", "+%F %R UTC"]))?;
    Ok(date.trim().to_owned())
}

/// What it ran on.
fn machine(in_lab: bool) -> Result<String> {
    let processors = fs::read_to_string("/proc/cpuinfo").context("cannot read /proc/cpuinfo")?;
    let values = |key: &str| {
        let lines = processors.lines().filter_map(|line| line.split_once(':'));
        let of_key = lines.filter(|(name, _)| name.trim() == key);
        of_key
            .map(|(_, value)| value.trim().to_owned())
            .collect::<Vec<_>>()
    };
    let model = values("model name").into_iter().next();
    let kernel = capture_text(program("uname").arg("--kernel-release"))?;
    let place = match in_lab {
        true => "in the lab on ",
        false => "on ",
    };
    Ok(format!(
        "{place}{} CPUs ({}), Linux {}",
        values("processor").len(),
        model.as_deref().unwrap_or("of an unknown model"),
        kernel.trim()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_test_that_did_not_say_how_it_went_has_failed() {
        let ran = |name: &str, passed| Ran {
            name: name.to_owned(),
            passed,
            time: Duration::from_secs(1),
        };
        let tests = [ran("a", true), ran("b", false)];
        for (name, outcome) in [
            ("a", Outcome::PassedAgain),
            ("b", Outcome::Failed),
            ("c", Outcome::Failed),
        ] {
            let row = row(&tests, name.to_owned(), Outcome::PassedAgain);
            assert_eq!(row.outcome, outcome, "{name}");
        }
    }

    #[test]
    fn a_record_counts_and_names_every_test() {
        let row = |name: &str, outcome| Row {
            name: name.to_owned(),
            outcome,
            time: Duration::from_millis(1250),
        };
        let rows = [
            row("a::one", Outcome::Passed),
            row("a::two", Outcome::Failed),
            row("b::three", Outcome::PassedAgain),
        ];
        let record = record("`abc`", "a machine", "2030-01-01 00:00 UTC", &rows);
        assert!(record.contains("1 passed, 1 passed when repeated, 1 failed.\n"));
        assert!(record.contains("| `a::two` | **failed** | 1.2 s |\n"));
        assert!(record.ends_with("| `b::three` | passed when repeated | 1.2 s |\n"));
    }
}
