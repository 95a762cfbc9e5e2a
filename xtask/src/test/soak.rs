//! The tests that boot guests at their full depth, and a record of the run.

use std::fs;
use std::io::ErrorKind;

use anyhow::{Context, Result};

use super::guests::{Depth, Needs};
use super::parts;
use super::record::{Outcome, Record, Row, Run};
use super::tally::Ran;
use crate::command::{capture_text, program};
use crate::lab;
use crate::workspace;

/// Where the record is committed.
const RECORD: &str = "docs/soak.md";

/// Runs the tests whose names have `filter`, with all their sizes. Prints the record with their rows renewed, and writes it
/// if it is of a commit.
pub fn run(filter: Option<&str>) -> Result<u8> {
    let needs = Needs::made()?;
    let commit = commit()?;
    let all = needs.names(Depth::Full)?;
    let in_lab = lab::is_needed(&needs.job(&all, Depth::Full))?;
    let mut names = all.clone();
    names.retain(|name| filter.is_none_or(|filter| name.contains(filter)));

    let tests = parts::run(&needs, &names, Depth::Full)?;
    let mut rows = Vec::new();
    for name in names {
        let mut row = row(&tests, name, Outcome::Passed, &commit.name);
        if in_lab && row.outcome == Outcome::Failed {
            println!("make soak: {} once more", row.name);
            let again = parts::run(&needs, std::slice::from_ref(&row.name), Depth::Full)?;
            row = self::row(&again, row.name, Outcome::PassedAgain, &commit.name);
        }
        rows.push(row);
    }
    let failed = rows.iter().any(|row| row.outcome == Outcome::Failed);
    let circumstances = format!("{}, {}", today()?, machine(in_lab)?);
    let run = Run {
        commit: commit.name,
        circumstances,
    };
    let path = workspace::root().join(RECORD);
    let record = match fs::read_to_string(&path) {
        Ok(text) => Record::parse(&text),
        Err(error) if error.kind() == ErrorKind::NotFound => Record::default(),
        Err(error) => return Err(error).context(format!("cannot read {}", path.display())),
    };
    let runs = vec![run];
    let text = record.renewed(Record { runs, rows }, &all).text(&all);
    println!("{text}");
    if commit.is_clean {
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
        println!("make soak: {RECORD} is written: commit it");
    } else {
        println!(
            "make soak: {RECORD} is not written: the checkout has changes that are not committed"
        );
    }
    Ok(u8::from(failed))
}

/// What became of a test; `passed` is what it means that it passed.
fn row(tests: &[Ran], name: String, passed: Outcome, commit: &str) -> Row {
    let ran = tests.iter().find(|test| test.name == name);
    let outcome = match ran {
        Some(Ran { passed: true, .. }) => passed,
        _ => Outcome::Failed,
    };
    let time = ran.map(|test| test.time).unwrap_or_default();
    Row::new(name, outcome, time, commit)
}

/// What is tested. The record itself may have changed: parts of it are made one after the other.
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
    let changes = git(&[
        "status",
        "--porcelain",
        "--",
        ":/",
        &format!(":(exclude,top){RECORD}"),
    ])?;
    let name = git(&["rev-parse", "--short=12", "HEAD"])?;
    let is_clean = changes.trim().is_empty();
    let mark = if is_clean { "" } else { " with changes" };
    Ok(Commit {
        name: format!("{}{mark}", name.trim()),
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
    use std::time::Duration;

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
            let row = row(&tests, name.to_owned(), Outcome::PassedAgain, "abc");
            assert_eq!(row.outcome, outcome, "{name}");
        }
    }
}
