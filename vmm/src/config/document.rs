//! Where the keys of a configuration are in its text, so that an error can name the line.

use std::ops::Range;

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

/// The keys of a text and their lines.
pub(super) struct Document<'t> {
    text: &'t str,
    entries: Vec<Entry>,
}

/// A key with its value.
struct Entry {
    /// As `interfaces.mac`, whichever of the interfaces it is of.
    path: String,
    /// The table that tells it from others of its path: the one that it is, or else the one that it is in.
    table: usize,
    /// From the key to the end of its value; of a table, its header.
    span: Range<usize>,
    /// The value, of a single one.
    value: Option<String>,
}

impl<'t> Document<'t> {
    /// Reads as much of `text` as is TOML.
    pub fn new(text: &'t str) -> Self {
        let mut document = Self {
            text,
            entries: Vec::new(),
        };
        let (root, _errors) = DeTable::parse_recoverable(text);
        document.add_table("", root.get_ref(), &mut 0);
        document
    }

    /// Adds the keys of a table, which `tables` counts.
    fn add_table(&mut self, path: &str, table: &DeTable<'_>, tables: &mut usize) {
        *tables += 1;
        let number = *tables;
        for (key, value) in table {
            let path = match path {
                "" => key.get_ref().to_string(),
                path => format!("{path}.{}", key.get_ref()),
            };
            self.add(&path, number, key.span().start, value, tables);
        }
    }

    fn add(
        &mut self,
        path: &str,
        table: usize,
        start: usize,
        value: &Spanned<DeValue<'_>>,
        tables: &mut usize,
    ) {
        let (table, single) = match value.get_ref() {
            DeValue::Table(_) => (*tables + 1, None),
            DeValue::String(text) => (table, Some(text.to_string())),
            DeValue::Integer(number) => (table, Some(number.as_str().to_owned())),
            _ => (table, None),
        };
        match value.get_ref() {
            // Of a list of sections each is a place of its own, and the list is none.
            DeValue::Array(values) if values.iter().any(|v| v.get_ref().is_table()) => {}
            _ => self.entries.push(Entry {
                path: path.to_owned(),
                table,
                // A section begins before its name.
                span: start.min(value.span().start)..value.span().end.max(start),
                value: single,
            }),
        }
        match value.get_ref() {
            DeValue::Table(inner) => self.add_table(path, inner, tables),
            DeValue::Array(values) => {
                for value in values.iter() {
                    self.add(path, table, value.span().start, value, tables);
                }
            }
            _ => {}
        }
    }

    /// Whether no key is in it.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The line, from 1, of an offset.
    pub fn line_of(&self, offset: usize) -> usize {
        let bytes = self.text.as_bytes();
        let before = bytes.get(..offset).unwrap_or(bytes);
        before.iter().filter(|b| **b == b'\n').count() + 1
    }

    /// The key whose value is at `offset`, as `interfaces.mac`.
    pub fn key_at(&self, offset: usize) -> Option<&str> {
        let at = self.entries.iter().filter(|e| e.span.contains(&offset));
        at.max_by_key(|e| e.span.start).map(|e| e.path.as_str())
    }

    /// The line that a message is about which begins with a key and names values in backticks, as
    /// ``interfaces.id: `t0` is used twice``.
    ///
    /// Of several tables with that key it is the last one whose value is named, else the first in which
    /// anything is named (as the interface is by its `id`), else the first; if the key is not in the text, it is
    /// the section that lacks it.
    pub fn line_about(&self, message: &str) -> Option<usize> {
        let (mut key, words) = message.split_once(": ")?;
        let named: Vec<&str> = words.split('`').skip(1).step_by(2).collect();
        loop {
            let of_key = |e: &&Entry| e.path == key;
            let is_named = |e: &Entry| {
                let value = e.value.as_deref();
                value.is_some_and(|v| named.iter().any(|n| n.eq_ignore_ascii_case(v)))
            };
            let has_named = |table: usize| {
                let mut inside = self.entries.iter().filter(|e| e.table == table);
                inside.any(is_named)
            };
            let mut candidates = self.entries.iter().filter(of_key);
            let entry = (candidates.clone().rfind(|e| is_named(e)))
                .or_else(|| candidates.clone().find(|e| has_named(e.table)))
                .or_else(|| candidates.next());
            if let Some(entry) = entry {
                return Some(self.line_of(entry.span.start));
            }
            key = key.rsplit_once('.')?.0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = r#"name = "a"
vcpu = 99

[kernel]
path = "k"
cmdline = """
quiet
"""
[[interfaces]]
id = "t0"
mac = "02:00:00:00:00:AA"
address = "10.0.0.1/8"
[[interfaces]]
id = "t1"
mac = "02:00:00:00:00:aa"
address = "10.0.0.2/8"
dns = [
  "1.1.1.1",
  "9.9.9.9",
]
[[interfaces]]
id = "t0"
"#;

    #[test]
    fn a_message_that_begins_with_a_key_is_about_a_line() {
        let document = Document::new(TEXT);
        for (message, line) in [
            ("vcpu: 99 is not from 1 to 32", Some(2)),
            ("kernel.path: k: No such file", Some(5)),
            ("kernel.cmdline: too long", Some(6)),
            ("kernel.initrd: missing", Some(4)),
            ("interfaces: 3 are given", Some(9)),
            ("interfaces.id: `t0` is used twice", Some(22)),
            (
                "interfaces.mac: `02:00:00:00:00:aa` is used twice",
                Some(15),
            ),
            ("interfaces.address: `t1` is not the first", Some(16)),
            ("interfaces.dns: of `t1`", Some(17)),
            (
                "interfaces.slot: interface `t1`: slot 6 is taken by share `x`",
                Some(13),
            ),
            ("mem: 0", None),
            ("no key at all", None),
        ] {
            assert_eq!(document.line_about(message), line, "{message}");
        }
    }

    #[test]
    fn an_offset_is_in_the_value_of_a_key() {
        let document = Document::new(TEXT);
        let key_at = |word: &str| TEXT.find(word).and_then(|at| document.key_at(at));
        assert_eq!(key_at("99"), Some("vcpu"));
        assert_eq!(key_at("10.0.0.2"), Some("interfaces.address"));
        assert_eq!(key_at("9.9.9.9"), Some("interfaces.dns"));
        assert_eq!(key_at("quiet"), Some("kernel.cmdline"));
    }

    #[test]
    fn what_is_no_toml_is_read_as_far_as_it_goes() {
        for n in 0..TEXT.len() {
            let document = Document::new(&TEXT[..n]);
            document.key_at(n);
            document.line_about("interfaces.id: `t0`");
        }
    }
}
