//! A configuration from TOML text, with errors that point at the line.

use super::VmConfig;

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
            let message = error.message();
            // A missing key has no place of its own; its table's first line would mislead at top level.
            let line = error
                .span()
                .filter(|span| !(span.start == 0 && message.starts_with("missing field")))
                .map(|span| line_of(text, span.start));
            TomlError {
                line,
                message: rephrase(message, line.and_then(|n| key_on_line(text, n))),
            }
        })
    }
}

fn line_of(text: &str, offset: usize) -> usize {
    let before = text.as_bytes().get(..offset).unwrap_or(text.as_bytes());
    before.iter().filter(|b| **b == b'\n').count() + 1
}

/// The key that a line gives a value to, to name it in an error about that value.
fn key_on_line(text: &str, line: usize) -> Option<&str> {
    let (key, _) = text.lines().nth(line.checked_sub(1)?)?.split_once('=')?;
    let key = key.trim();
    let plain = |c: char| c.is_ascii_alphanumeric() || "_-.".contains(c);
    (!key.is_empty() && key.chars().all(plain)).then_some(key)
}

/// Serde's words (serde::de::Error) in the words of somebody who writes a file.
fn rephrase(message: &str, key: Option<&str>) -> String {
    let message = message.replace('\n', " ");
    let message = message.trim();
    if let Some(rest) = message.strip_prefix("unknown field `")
        && let Some((unknown, expected)) = rest.split_once('`')
    {
        let known: Vec<&str> = expected.split('`').skip(1).step_by(2).collect();
        return format!("unknown key `{unknown}`{}", suggestion(unknown, &known));
    }
    if let Some(rest) = message.strip_prefix("unknown variant `")
        && let Some((unknown, expected)) = rest.split_once('`')
    {
        let known: Vec<&str> = expected.split('`').skip(1).step_by(2).collect();
        return format!(
            "{}`{unknown}` is not known here; one of: {}",
            key.map(|k| format!("{k}: ")).unwrap_or_default(),
            known.join(", ")
        );
    }
    if let Some(missing) = message.strip_prefix("missing field ") {
        return format!("the key {missing} is missing");
    }
    match key {
        Some(key) => format!("{key}: {message}"),
        None => message.to_owned(),
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
        assert_eq!(
            error_of("stop_timeout", "frobnicate"),
            "line 22: unknown key `frobnicate`; known here: stop_timeout"
        );
    }

    #[test]
    fn a_wrong_type_names_the_key_and_the_line() {
        assert_eq!(
            error_of("vcpu = 2", "vcpu = \"two\""),
            "line 3: vcpu: invalid type: string \"two\", expected u8"
        );
        assert_eq!(
            error_of("mem = 512", "mem = -1"),
            "line 4: mem: invalid value: integer `-1`, expected u32"
        );
        assert_eq!(
            error_of("\"90s\"", "\"soon\""),
            "line 22: stop_timeout: `soon` is not a duration, as 120s or 2m"
        );
        assert_eq!(
            error_of("\"tap\"", "\"macvtap\""),
            "line 10: type: `macvtap` is not known here; one of: tap"
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
