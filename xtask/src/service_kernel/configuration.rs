//! What the kernel is to have, and whether it got it.

use std::fs;

use anyhow::{Context, Result, bail};

use crate::workspace;

/// Files of `guest/kernel`, in the order in which they are read.
const FILES: [&str; 3] = ["base.config", "devices.config", "hardening.config"];

/// All that the files ask for; whatever they do not is off.
#[derive(Debug)]
pub struct Configuration(String);

impl Configuration {
    /// Reads the files.
    pub fn read() -> Result<Self> {
        let directory = workspace::root().join("guest/kernel");
        let mut text = String::new();
        for name in FILES {
            let path = directory.join(name);
            text += &fs::read_to_string(&path)
                .with_context(|| format!("cannot read {}", path.display()))?;
        }
        Ok(Self(text))
    }

    /// The files as one.
    pub fn text(&self) -> &str {
        &self.0
    }

    /// Fails if `made`, the kernel's own whole configuration, is not what was asked for: a symbol may have another name in
    /// this version, or need another one that is off.
    pub fn check(&self, made: &str) -> Result<()> {
        let lost = self.lost(made);
        if !lost.is_empty() {
            bail!(
                "guest/kernel asks for what this kernel did not take: {}",
                lost.join(", ")
            );
        }
        Ok(())
    }

    /// The lines that `made` does not obey. A symbol that it does not have at all is off.
    fn lost(&self, made: &str) -> Vec<&str> {
        let obeyed = |line: &str| match off(line) {
            Some(symbol) => !made
                .lines()
                .any(|line| line.split_once('=').is_some_and(|(name, _)| name == symbol)),
            None => made.lines().any(|made| made == line),
        };
        self.0
            .lines()
            .filter(|line| line.starts_with("CONFIG_") || off(line).is_some())
            .filter(|line| !obeyed(line))
            .collect()
    }
}

/// The symbol of a line that wants it off.
fn off(line: &str) -> Option<&str> {
    line.strip_prefix("# ")?.strip_suffix(" is not set")
}

/// The command line that is built into a kernel with the configuration `made`.
pub fn cmdline(made: &str) -> Result<String> {
    made.lines()
        .find_map(|line| line.strip_prefix("CONFIG_CMDLINE=\"")?.strip_suffix('"'))
        .map(str::to_owned)
        .context("the configuration has no CONFIG_CMDLINE")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    const WANTED: &str = "\
# A comment is no wish.
CONFIG_VIRTIO_FS=y
CONFIG_NR_CPUS=32
# CONFIG_MODULES is not set
# CONFIG_USB is not set
";

    fn wanted() -> Configuration {
        Configuration(WANTED.to_owned())
    }

    #[test]
    fn what_is_as_asked_for_is_not_lost() {
        let made = "CONFIG_VIRTIO_FS=y\nCONFIG_NR_CPUS=32\n# CONFIG_MODULES is not set\n";
        assert!(wanted().lost(made).is_empty());
        wanted().check(made).unwrap();
    }

    #[test]
    fn each_line_that_was_not_obeyed_is_named() {
        let made = "CONFIG_VIRTIO_FS_X=y\nCONFIG_NR_CPUS=8\nCONFIG_MODULES=y\nCONFIG_USB=\"\"\n";
        assert_eq!(wanted().lost(made).len(), 4);
        let error = wanted().check(made).unwrap_err().to_string();
        assert!(error.contains("CONFIG_NR_CPUS=32"), "{error}");
    }

    #[test]
    fn a_value_is_compared_whole() {
        let made = "CONFIG_VIRTIO_FS=y\nCONFIG_NR_CPUS=320\n";
        assert_eq!(wanted().lost(made), ["CONFIG_NR_CPUS=32"]);
    }

    #[test]
    fn the_command_line_is_read_without_its_quotes() {
        let made = "CONFIG_CMDLINE_BOOL=y\nCONFIG_CMDLINE=\"a b=1\"\n";
        assert_eq!(cmdline(made).unwrap(), "a b=1");
        assert!(cmdline("CONFIG_CMDLINE_BOOL=y\n").is_err());
    }

    #[test]
    fn the_files_ask_for_nothing_twice() {
        let configuration = Configuration::read().unwrap();
        let mut symbols: Vec<_> = configuration
            .text()
            .lines()
            .filter_map(|line| off(line).or_else(|| Some(line.split_once('=')?.0)))
            .filter(|symbol| symbol.starts_with("CONFIG_"))
            .collect();
        symbols.sort_unstable();
        let count = symbols.len();
        symbols.dedup();
        assert_eq!(symbols.len(), count);
    }
}
