//! A table of text: columns as wide as what is in them, cut at a terminal's edge and never in a pipe.

use std::fmt::Write;

use anstyle::Style;

/// Between two columns.
const GAP: &str = "  ";
const HEADING: Style = Style::new().bold();

/// What is in one place of a table.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Cell {
    /// Without control characters.
    pub text: String,
    /// How it looks on a terminal.
    pub style: Style,
}

impl From<String> for Cell {
    fn from(text: String) -> Self {
        Self {
            text,
            style: Style::new(),
        }
    }
}

/// How a column stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Align {
    /// Text.
    Left,
    /// Figures.
    Right,
}

/// A column's heading.
pub type Column = (&'static str, Align);

/// The lines of a table, the headings first; `width` is the terminal's, in characters.
pub fn lines(columns: &[Column], rows: &[Vec<Cell>], width: Option<usize>) -> Vec<String> {
    let heading = |(text, _): &Column| Cell {
        text: (*text).to_owned(),
        style: HEADING,
    };
    let heading: Vec<Cell> = columns.iter().map(heading).collect();
    let all = || std::iter::once(&heading).chain(rows);
    let widths: Vec<usize> = (0..columns.len())
        .map(|n| all().map(|row| len(&row[n].text)).max().unwrap_or(0))
        .collect();
    all()
        .map(|row| line(columns, row, &widths, width.unwrap_or(usize::MAX)))
        .collect()
}

fn line(columns: &[Column], row: &[Cell], widths: &[usize], width: usize) -> String {
    let (mut line, mut at) = (String::new(), 0);
    let last = row.iter().rposition(|cell| !cell.text.is_empty());
    for (n, cell) in row.iter().enumerate().take(last.map_or(0, |last| last + 1)) {
        let fill = " ".repeat(widths[n] - len(&cell.text));
        let (before, after) = match columns[n].1 {
            Align::Left => (String::new(), fill),
            Align::Right => (fill, String::new()),
        };
        let gap = if n == 0 { "" } else { GAP };
        let after = if Some(n) == last { "" } else { &after };
        let before = format!("{gap}{before}");
        let room = width.saturating_sub(at);
        at += len(&before) + len(&cell.text) + len(after);
        let style = cell.style;
        let text = cut(&cell.text, room.saturating_sub(len(&before)));
        let before = cut(&before, room);
        let after = cut(after, room.saturating_sub(len(&before) + len(&text)));
        let _ = match text.is_empty() {
            true => write!(line, "{before}{after}"),
            false => write!(line, "{before}{style}{text}{style:#}{after}"),
        };
    }
    line
}

fn len(text: &str) -> usize {
    text.chars().count()
}

/// The beginning of a text that has more than `most` characters.
pub fn cut(text: &str, most: usize) -> String {
    if len(text) <= most {
        return text.to_owned();
    }
    let mut cut: String = text.chars().take(most.saturating_sub(1)).collect();
    if most > 0 {
        cut.push('…');
    }
    cut
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(width: Option<usize>) -> Vec<String> {
        let columns = [
            ("NAME", Align::Left),
            ("PID", Align::Right),
            ("ADDRESSES", Align::Left),
        ];
        let row = |texts: [&str; 3]| texts.map(|text| Cell::from(text.to_owned())).to_vec();
        let rows = [row(["adguard", "1", "10.0.0.1/8"]), row(["a", "4711", ""])];
        let lines = lines(&columns, &rows, width).into_iter();
        lines
            .map(|line| anstream::adapter::strip_str(&line).to_string())
            .collect()
    }

    #[test]
    fn columns_are_as_wide_as_what_is_in_them_and_no_line_ends_with_spaces() {
        let expected = [
            "NAME      PID  ADDRESSES",
            "adguard     1  10.0.0.1/8",
            "a        4711",
        ];
        assert_eq!(table(None), expected);
    }

    #[test]
    fn a_line_is_no_wider_than_the_terminal() {
        for width in 0..40 {
            let lines = table(Some(width));
            assert!(lines.iter().all(|l| len(l) <= width), "{width}: {lines:?}");
        }
        assert_eq!(table(Some(20))[1], "adguard     1  10.0…");
    }
}
