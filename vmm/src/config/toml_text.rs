//! A configuration from TOML text, with errors that point at the line.

use super::{VmConfig, document::Document};

/// A mistake in the text of a configuration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct TomlError {
    /// Line of the mistake, from 1; `None` where something is missing as a whole.
    pub line: Option<usize>,
    /// What is wrong, on one line, with the nearest right key if a key is unknown.
    pub message: String,
}

impl std::fmt::Display for TomlError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.line {
            Some(line) => write!(f, "line {line}: {}", self.message),
            None => f.write_str(&self.message),
        }
    }
}

impl VmConfig {
    /// Reads the text of a configuration file. Call [`validate`](VmConfig::validate) next.
    pub fn from_toml(text: &str) -> Result<Self, TomlError> {
        toml::from_str(text).map_err(|error| {
            let document = Document::new(text);
            let message = error.message();
            let span = error.span().unwrap_or_default();
            // A missing key has no place of its own; its table's first line would mislead at top level.
            let is_missing = message.starts_with("missing field");
            let line = (!is_missing || span.start > 0).then(|| document.line_of(span.start));
            let key = document.key_at(span.start).filter(|_| !is_missing);
            let given = text.get(span.clone()).unwrap_or_default();
            TomlError {
                line,
                message: match document.is_empty() && is_missing {
                    true => {
                        "nothing is in it: the least is `name` and, in [kernel], `path`".to_owned()
                    }
                    false => rephrase(message, key, given),
                },
            }
        })
    }
}

/// The line of `text` that a message is about which begins with a key and names values in backticks, as those of
/// [`VmConfig::validate`] do.
pub fn line_about(text: &str, message: &str) -> Option<usize> {
    Document::new(text).line_about(message)
}

/// Serde's words (serde::de::Error) and toml's in the words of somebody who writes a file. `given` is what stands
/// there.
fn rephrase(message: &str, key: Option<&str>, given: &str) -> String {
    let message = message.replace('\n', " ");
    let message = message.trim();
    let at_key = |what: String| match key {
        Some(key) => format!("{key}: {what}"),
        None => what,
    };
    let unknown_of = |what: &str| {
        let (unknown, expected) = message.strip_prefix(what)?.split_once('`')?;
        let known: Vec<&str> = expected.split('`').skip(1).step_by(2).collect();
        Some((unknown.to_owned(), known))
    };
    if let Some((unknown, known)) = unknown_of("unknown field `") {
        return format!("unknown key `{unknown}`{}", suggestion(&unknown, &known));
    }
    if let Some((unknown, known)) = unknown_of("unknown variant `") {
        let known = known.join(", ");
        return at_key(format!("`{unknown}` is not known here; one of: {known}"));
    }
    if let Some(missing) = message.strip_prefix("missing field ") {
        return format!("the key {missing} is missing");
    }
    if message == "duplicate key" {
        return format!("`{given}` is given twice: one of them has to go");
    }
    if let Some((found, expected)) = message.split_once(", expected ")
        && let Some(found) = found.strip_prefix("invalid ")
        && let Some(found) = ["type: ", "value: "]
            .iter()
            .find_map(|p| found.strip_prefix(p))
    {
        return at_key(match message.starts_with("invalid value: integer ") {
            true => format!("{found} is out of range"),
            false => format!(
                "{} is given, and {} belongs here",
                type_name(found),
                type_name(expected)
            ),
        });
    }
    at_key(message.to_owned())
}

/// What serde found or expects, in words.
fn type_name(name: &str) -> &str {
    match name {
        "u8" | "u16" | "u32" | "u64" | "usize" => "a whole number",
        "a string" | "path string" => "text in quotes",
        "a boolean" => "true or false",
        "sequence" | "a sequence" => "a list, as [1, 2] or [[sections]],",
        "map" => "one [section]",
        name if name.starts_with("struct ") => "one [section]",
        name => name,
    }
}

/// The nearest known key if one is near, else all of them.
fn suggestion(unknown: &str, known: &[&str]) -> String {
    let nearest = known
        .iter()
        .map(|k| (strsim::damerau_levenshtein(unknown, k), *k))
        .min();
    match nearest {
        Some((distance, key)) if distance <= 1 + unknown.len() / 3 => {
            format!("; did you mean `{key}`?")
        }
        _ if known.is_empty() => String::new(),
        _ => format!("; known here: {}", known.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const GOOD: &str = r#"
name = "adguard"
vcpu = 2
mem = 512

[kernel]
path = "bzImage"

[[interfaces]]
type = "tap"
id = "vm-adguard"
mac = "02:00:00:00:00:01"
address = "192.168.83.2/24"

[[shares]]
tag = "data"
source = "/srv/data"
mount_point = "/data"
proto = "virtiofs"

[lifecycle]
stop_timeout = "90s"
"#;

    fn error_of(from: &str, to: &str) -> String {
        assert!(GOOD.contains(from), "{from}");
        VmConfig::from_toml(&GOOD.replace(from, to))
            .unwrap_err()
            .to_string()
    }

    #[test]
    fn a_whole_file_is_read() {
        let config = VmConfig::from_toml(GOOD).unwrap();
        assert_eq!(config.vcpu, 2);
        assert_eq!(config.interfaces[0].mac.to_string(), "02:00:00:00:00:01");
        assert_eq!(config.lifecycle.stop_timeout.as_secs(), 90);
    }

    #[test]
    fn an_unknown_key_is_named_with_its_line_and_the_nearest_right_one() {
        assert_eq!(
            error_of("vcpu = 2", "vcpus = 2"),
            "line 3: unknown key `vcpus`; did you mean `vcpu`?"
        );
        assert_eq!(
            error_of("mount_point", "mountPoint"),
            "line 18: unknown key `mountPoint`; did you mean `mount_point`?"
        );
        assert_eq!(
            error_of("[lifecycle]", "[livecycle]"),
            "line 21: unknown key `livecycle`; did you mean `lifecycle`?"
        );
        let unlike_any = error_of("stop_timeout", "frobnicate");
        let beginning = "line 22: unknown key `frobnicate`; known here: stop_timeout";
        assert!(unlike_any.starts_with(beginning), "{unlike_any}");
    }

    #[test]
    fn a_wrong_type_names_the_key_and_the_line() {
        assert_eq!(
            error_of("vcpu = 2", "vcpu = \"two\""),
            "line 3: vcpu: string \"two\" is given, and a whole number belongs here"
        );
        assert_eq!(
            error_of("mem = 512", "mem = -1"),
            "line 4: mem: integer `-1` is out of range"
        );
        assert_eq!(
            error_of("\"90s\"", "\"soon\""),
            "line 22: lifecycle.stop_timeout: `soon` is not a duration, as 120s or 2m"
        );
        assert_eq!(
            error_of("\"tap\"", "\"bridge\""),
            "line 10: interfaces.type: `bridge` is not known here; one of: tap, macvtap"
        );
    }

    #[test]
    fn a_missing_key_is_named() {
        assert_eq!(
            error_of("name = \"adguard\"\n", ""),
            "the key `name` is missing"
        );
        assert!(error_of("tag = \"data\"\n", "").ends_with("the key `tag` is missing"));
    }

    #[test]
    fn what_is_there_twice_is_named() {
        assert_eq!(
            error_of("[lifecycle]", "[kernel]"),
            "line 21: `kernel` is given twice: one of them has to go"
        );
        assert_eq!(
            error_of("mem = 512", "vcpu = 4"),
            "line 4: `vcpu` is given twice: one of them has to go"
        );
    }

    #[test]
    fn a_file_with_nothing_in_it_says_what_the_least_is() {
        for text in ["", "\n", "# name = \"a\"\n"] {
            let error = VmConfig::from_toml(text).unwrap_err();
            assert!(error.message.starts_with("nothing is in it"), "{error}");
            assert_eq!(error.line, None);
        }
    }

    #[test]
    fn what_is_not_toml_names_the_line() {
        assert!(error_of("vcpu = 2", "vcpu = = 2").starts_with("line 3: "));
        assert!(VmConfig::from_toml("\u{0}").is_err());
        for n in 0..GOOD.len() {
            let text = VmConfig::from_toml(&GOOD[..n])
                .map(|_| ())
                .map_err(|e| e.to_string());
            assert!(text.map_or_else(|e| !e.contains('\n'), |()| true));
        }
    }
}
