//! The part of docs/config.md that is made from the configuration's schema, as `minivmm config schema` prints it.

use std::fmt::Write;
use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::command::{capture, cargo, quiet_in_a_pipe};
use crate::workspace;

const BEGIN: &str = "<!-- made by `cargo xtask docs` from the schema: begin -->\n";
const END: &str = "<!-- made by `cargo xtask docs` from the schema: end -->\n";

/// Writes the made part anew.
pub fn write() -> Result<()> {
    let (path, _, new) = versions()?;
    fs::write(&path, new).with_context(|| format!("cannot write {}", path.display()))
}

/// Fails if the made part is not what it would be made now.
pub fn check() -> Result<()> {
    let (path, old, new) = versions()?;
    if old != new {
        bail!(
            "{} is not what the schema says: run `cargo xtask docs` and commit it",
            path.display()
        );
    }
    Ok(())
}

/// The file, as it is and as it should be.
fn versions() -> Result<(PathBuf, String, String)> {
    let path = workspace::root().join("docs/config.md");
    let old =
        fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let mut minivmm = cargo();
    let minivmm = quiet_in_a_pipe(minivmm.arg("run")).args(["--locked", "--package", "minivmm"]);
    let schema = capture(minivmm.args(["--", "config", "schema"]))?;
    let schema = serde_json::from_slice(&schema).context("`minivmm config schema`")?;
    let new = replaced(&old, &sections(&schema))
        .with_context(|| format!("{} lacks the lines that begin and end it", path.display()))?;
    Ok((path, old, new))
}

fn replaced(text: &str, made: &str) -> Option<String> {
    let (before, rest) = text.split_once(BEGIN)?;
    let (_, after) = rest.split_once(END)?;
    Some(format!("{before}{BEGIN}{made}{END}{after}"))
}

/// A heading, a sentence and a table for each section.
fn sections(schema: &Value) -> String {
    let mut text = String::new();
    section(&mut text, "The VM", "", schema);
    text
}

fn section(text: &mut String, heading: &str, path: &str, schema: &Value) {
    let _ = write!(
        text,
        "\n## {heading}\n\n{}\n\n| key | type | default | limits | what it is |\n|---|---|---|---|---|\n",
        words(&schema["description"])
    );
    let required = schema["required"].as_array();
    let is_required = |key: &str| required.is_some_and(|keys| keys.iter().any(|k| k == key));
    let mut inner = String::new();
    for (key, value) in schema["properties"].as_object().into_iter().flatten() {
        let path = match path {
            "" => key.clone(),
            path => format!("{path}.{key}"),
        };
        if value["type"] == "object" {
            section(&mut inner, &format!("`[{path}]`"), &path, value);
        } else if value["items"]["type"] == "object" {
            let mut items = value["items"].clone();
            let limits = limits(value);
            items["description"] = match limits.as_str() {
                "" => words(&value["description"]).into(),
                limits => format!("{} There are {limits}.", words(&value["description"])).into(),
            };
            section(&mut inner, &format!("`[[{path}]]`"), &path, &items);
        } else {
            let default = match &value["default"] {
                _ if is_required(key) => "required".to_owned(),
                Value::Null => String::new(),
                value => format!("`{value}`"),
            };
            let _ = writeln!(
                text,
                "| `{key}` | {} | {default} | {} | {} |",
                kind(value),
                limits(value).replace('|', "\\|"),
                meaning(value).replace('|', "\\|"),
            );
        }
    }
    text.push_str(&inner);
}

/// What a value is, with its unit.
fn kind(value: &Value) -> String {
    if value["type"] == "array" {
        return format!("list of: {}", kind(&value["items"]));
    }
    if let Some(choices) = value["anyOf"].as_array() {
        return choices.iter().map(kind).collect::<Vec<_>>().join(" or ");
    }
    let kind = match (value["type"].as_str(), value["format"].as_str()) {
        (_, Some("ipv4")) => "IPv4 address",
        (_, Some("uuid")) => "UUID",
        (Some("string"), _) => "text",
        (Some(name), _) => name,
        (None, _) => "one of",
    };
    match value["x-unit"].as_str() {
        Some(unit) => format!("{kind}, {unit}"),
        None => kind.to_owned(),
    }
}

fn limits(value: &Value) -> String {
    let number = |keyword: &str| value[keyword].as_u64();
    let mut limits = Vec::new();
    match (number("minimum").filter(|min| *min > 0), number("maximum")) {
        (Some(min), Some(max)) => limits.push(format!("{min} to {max}")),
        (Some(min), None) => limits.push(format!("at least {min}")),
        (None, Some(max)) => limits.push(format!("at most {max}")),
        (None, None) => {}
    }
    limits.extend(number("maxLength").map(|max| format!("at most {max} bytes")));
    limits.extend(number("maxItems").map(|max| format!("at most {max}")));
    limits.extend(value["examples"][0].as_str().map(|e| format!("as `{e}`")));
    limits.join(", ")
}

/// The description, with what each of the possible words means.
fn meaning(value: &Value) -> String {
    let mut text = words(&value["description"]);
    for choice in value["oneOf"].as_array().into_iter().flatten() {
        if let Some(word) = choice["const"].as_str() {
            let _ = write!(text, " `{word}`: {}", words(&choice["description"]));
        }
        for word in choice["enum"].as_array().into_iter().flatten() {
            let _ = write!(text, " {word}");
        }
    }
    text.trim().to_owned()
}

/// A doc comment on one line.
fn words(description: &Value) -> String {
    let text = description.as_str().unwrap_or_default();
    let paragraphs = text.split("\n\n").map(|paragraph| {
        let words: Vec<_> = paragraph.split_whitespace().collect();
        words.join(" ")
    });
    paragraphs.collect::<Vec<_>>().join("<br>")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_section_is_a_table_of_its_keys_and_inner_sections_follow() {
        let schema = serde_json::json!({
            "description": "One.",
            "required": ["name"],
            "properties": {
                "kernel": {"type": "object", "description": "Booted.", "properties": {
                    "path": {"type": "string", "description": "A\nfile."},
                }},
                "name": {"type": "string", "maxLength": 9, "examples": ["x"], "description": "Its name."},
                "mem": {"type": "integer", "x-unit": "MiB", "minimum": 1, "maximum": 8, "default": 4},
                "disks": {"type": "array", "maxItems": 2, "description": "Disks.", "items": {
                    "type": "object", "properties": {"on": {"oneOf": [{"const": "a|b", "description": "B."}]}},
                }},
            },
        });
        let head = "| key | type | default | limits | what it is |\n|---|---|---|---|---|\n";
        assert_eq!(
            sections(&schema),
            format!(
                "\n## The VM\n\nOne.\n\n{head}\
                 | `name` | text | required | at most 9 bytes, as `x` | Its name. |\n\
                 | `mem` | integer, MiB | `4` | 1 to 8 |  |\n\
                 \n## `[kernel]`\n\nBooted.\n\n{head}\
                 | `path` | text |  |  | A file. |\n\
                 \n## `[[disks]]`\n\nDisks. There are at most 2.\n\n{head}\
                 | `on` | one of |  |  | `a\\|b`: B. |\n"
            )
        );
    }

    #[test]
    fn only_what_is_between_the_marks_is_replaced() {
        let text = format!("before\n{BEGIN}old\n{END}after\n");
        let made = replaced(&text, "new\n");
        assert_eq!(made, Some(format!("before\n{BEGIN}new\n{END}after\n")));
        assert_eq!(replaced("no marks", "new"), None);
    }
}
