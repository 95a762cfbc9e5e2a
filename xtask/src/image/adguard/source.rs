//! The module's files, which must be those that the recipe's checksum is of.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::toolchain;
use crate::command::{capture, program};
use crate::kernel::listed;

/// What the file `source` of the recipe says.
#[derive(Debug)]
pub struct Source {
    text: String,
    pub module: String,
    pub version: String,
    pub toolchain: String,
    sum: String,
}

/// Reads the file in the recipe's directory.
pub fn read(recipe: &Path) -> Result<Source> {
    let path = recipe.join("source");
    let text =
        fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    Source::parse(text).with_context(|| path.display().to_string())
}

impl Source {
    fn parse(text: String) -> Result<Self> {
        let value = |key: &str| {
            let lines = listed(&text);
            let mut pairs = lines.iter().filter_map(|line| line.split_once(' '));
            let (_, value) = pairs
                .find(|(name, _)| *name == key)
                .with_context(|| format!("there is no line `{key} …`"))?;
            anyhow::Ok(value.trim().to_owned())
        };
        Ok(Self {
            module: value("module")?,
            version: value("version")?,
            sum: value("sum")?,
            toolchain: value("toolchain")?,
            text,
        })
    }

    /// All that it says.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Puts the module's files, writable, into a new directory in `work`.
    pub fn unpack(&self, work: &Path) -> Result<PathBuf> {
        let mut download = toolchain::go(self)?;
        download
            .current_dir(work)
            .args(["mod", "download", "-json"])
            .arg(format!("{}@{}", self.module, self.version));
        let said: Value =
            serde_json::from_slice(&capture(&mut download)?).context("go mod download")?;
        let text = |key: &str| said[key].as_str().unwrap_or_default();
        ensure!(
            text("Sum") == self.sum,
            "{} {} is not what guest/adguard/source has the checksum of: {} instead of {}",
            self.module,
            self.version,
            text("Sum"),
            self.sum
        );
        let root = work.join("module");
        // Go's own copy is read-only, so that nobody builds in it.
        let mut copy = program("cp");
        copy.args(["--recursive", "--no-preserve=mode,ownership"])
            .args(["--no-target-directory", text("Dir")])
            .arg(&root);
        capture(&mut copy)?;
        Ok(root)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn the_recipe_names_module_version_checksum_and_toolchain() {
        let source = read(&super::super::directory()).unwrap();
        assert!(source.module.ends_with("/AdGuardHome"), "{source:?}");
        assert!(source.version.starts_with('v'), "{source:?}");
        assert!(source.sum.starts_with("h1:"), "{source:?}");
        assert!(source.toolchain.starts_with("go1."), "{source:?}");
    }

    #[test]
    fn a_line_that_is_missing_is_named() {
        let error = Source::parse("# a word\nmodule a\nversion v1\n".to_owned()).unwrap_err();
        assert_eq!(error.to_string(), "there is no line `sum …`");
    }
}
