//! The record of what ran in all sizes: a table in Markdown that a later run of a part renews in part.

use std::time::Duration;

use crate::progress::seconds;

/// How a test went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Passed,
    /// When it was repeated, in the lab: docs/lab.md says why.
    PassedAgain,
    Failed,
}

impl Outcome {
    const ALL: [Self; 3] = [Self::Passed, Self::PassedAgain, Self::Failed];

    fn text(self) -> &'static str {
        match self {
            Self::Passed => "passed",
            Self::PassedAgain => "passed when repeated",
            Self::Failed => "**failed**",
        }
    }
}

/// What ran when, of which commit and on what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Run {
    /// As git abbreviates it; with a remark behind it if the checkout had changes.
    pub commit: String,
    /// The date and the machine.
    pub circumstances: String,
}

/// A test and how it last went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    pub name: String,
    pub outcome: Outcome,
    /// As it is shown.
    pub time: String,
    /// The run that it was in.
    pub commit: String,
}

impl Row {
    pub fn new(name: String, outcome: Outcome, time: Duration, commit: &str) -> Self {
        Self {
            name,
            outcome,
            time: seconds(time),
            commit: commit.to_owned(),
        }
    }
}

#[derive(Debug, Default, PartialEq, Eq)]
pub struct Record {
    pub runs: Vec<Run>,
    pub rows: Vec<Row>,
}

impl Record {
    /// Of a record's text. Lines that are none of a record are passed over.
    pub fn parse(text: &str) -> Self {
        Self {
            runs: text.lines().filter_map(parse_run).collect(),
            rows: text.lines().filter_map(parse_row).collect(),
        }
    }

    /// With the rows of `newer` in place of its own, for the tests in `names` only and in their order.
    pub fn renewed(self, newer: Self, names: &[String]) -> Self {
        let rows: Vec<Row> = names
            .iter()
            .filter_map(|name| {
                let mut rows = newer.rows.iter().chain(&self.rows);
                rows.find(|row| row.name == *name).cloned()
            })
            .collect();
        let replaced = |run: &Run| newer.runs.iter().any(|newer| newer.commit == run.commit);
        let mut runs: Vec<Run> = self.runs.into_iter().filter(|run| !replaced(run)).collect();
        runs.extend(newer.runs);
        runs.retain(|run| rows.iter().any(|row| row.commit == run.commit));
        Self { runs, rows }
    }

    /// In Markdown. The tests of `names` that have no row are named as such.
    pub fn text(&self, names: &[String]) -> String {
        let count = |outcome| {
            self.rows
                .iter()
                .filter(|row| row.outcome == outcome)
                .count()
        };
        let [passed, again, failed] = Outcome::ALL.map(count);
        let mut text = String::from(
            "# The last run in all sizes\n\n\
             `make soak` makes this record, and `cargo xtask soak NAME` renews the rows of the tests whose names have NAME.\n\
             In the lab tests run side by side: their times there say nothing of hardware.\n\n",
        );
        for run in &self.runs {
            text.push_str(&format!("- `{}`: {}\n", run.commit, run.circumstances));
        }
        text.push_str(&format!(
            "\n{passed} passed, {again} passed when repeated, {failed} failed.\n"
        ));
        let missing = |name: &&String| !self.rows.iter().any(|row| row.name == **name);
        for name in names.iter().filter(missing) {
            text.push_str(&format!("Not run: {name}\n"));
        }
        text.push_str("\n| test | result | time | commit |\n|---|---|---|---|\n");
        for row in &self.rows {
            text.push_str(&format!(
                "| `{}` | {} | {} | `{}` |\n",
                row.name,
                row.outcome.text(),
                row.time,
                row.commit
            ));
        }
        text
    }
}

fn parse_run(line: &str) -> Option<Run> {
    let (commit, circumstances) = line.strip_prefix("- `")?.split_once("`: ")?;
    Some(Run {
        commit: commit.to_owned(),
        circumstances: circumstances.to_owned(),
    })
}

fn parse_row(line: &str) -> Option<Row> {
    let cells: Vec<&str> = line.split('|').map(str::trim).collect();
    let ["", name, outcome, time, commit, ""] = cells[..] else {
        return None;
    };
    let quoted = |cell: &str| Some(cell.strip_prefix('`')?.strip_suffix('`')?.to_owned());
    Some(Row {
        name: quoted(name)?,
        outcome: Outcome::ALL
            .into_iter()
            .find(|known| known.text() == outcome)?,
        time: time.to_owned(),
        commit: quoted(commit)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(commit: &str, rows: &[(&str, Outcome)]) -> Record {
        let time = Duration::from_millis(1250);
        Record {
            runs: vec![Run {
                commit: commit.to_owned(),
                circumstances: "2030-01-01 00:00 UTC, on a machine".to_owned(),
            }],
            rows: rows
                .iter()
                .map(|(name, outcome)| Row::new((*name).to_owned(), *outcome, time, commit))
                .collect(),
        }
    }

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn a_record_counts_and_names_every_test_and_is_read_again() {
        let rows = [
            ("a::one", Outcome::Passed),
            ("a::two", Outcome::Failed),
            ("b::three", Outcome::PassedAgain),
        ];
        let record = record("abc", &rows);
        let text = record.text(&names(&["a::one", "a::two", "b::three", "c::four"]));
        assert!(text.contains("\n1 passed, 1 passed when repeated, 1 failed.\n"));
        assert!(text.contains("\nNot run: c::four\n"));
        assert!(text.contains("| `a::two` | **failed** | 1.2 s | `abc` |\n"));
        assert_eq!(Record::parse(&text), record);
    }

    #[test]
    fn a_part_renews_its_rows_and_leaves_the_others_with_their_commit() {
        let old = record(
            "abc",
            &[
                ("a", Outcome::Passed),
                ("b", Outcome::Failed),
                ("gone", Outcome::Passed),
            ],
        );
        let new = record("def", &[("b", Outcome::Passed)]);
        let renewed = old.renewed(new, &names(&["b", "a", "c"]));
        let rows: Vec<_> = renewed
            .rows
            .iter()
            .map(|row| (row.name.as_str(), row.outcome, row.commit.as_str()))
            .collect();
        let expected = [("b", Outcome::Passed, "def"), ("a", Outcome::Passed, "abc")];
        assert_eq!(rows, expected);
        assert_eq!(renewed.runs.len(), 2);
    }

    #[test]
    fn a_run_that_nothing_is_left_of_is_not_named() {
        let old = record("abc", &[("a", Outcome::Passed)]);
        let new = record("def", &[("a", Outcome::Passed)]);
        let renewed = old.renewed(new, &names(&["a"]));
        assert_eq!(renewed, record("def", &[("a", Outcome::Passed)]));
    }
}
