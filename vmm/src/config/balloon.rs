//! The balloon, as the configuration has it.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Error, Limits, VmConfig};
use crate::slots;

/// Memory that goes back to the host (docs/memory.md).
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Balloon {
    /// Gives the VM the device. Without it the host gets nothing back until the VM ends.
    #[serde(default = "yes")]
    pub enabled: bool,
    /// What is taken from the guest at first: as much of `mem` as it does without, until `minivmm balloon` says otherwise.
    #[serde(default)]
    #[schemars(range(max = Limits::MEM_MAX), extend("x-unit" = "MiB"))]
    pub size: u32,
    /// Lets the guest take memory back by itself before it would have to kill a program.
    #[serde(default = "yes")]
    pub deflate_on_oom: bool,
    /// Lets the guest say by itself what it does not use. The host gets that back, and the guest has it again as soon as it
    /// needs it.
    #[serde(default = "yes")]
    pub free_page_reporting: bool,
    /// Lets the guest be asked how much memory it uses and for what. It is asked when somebody wants to know and at no
    /// other time.
    #[serde(default = "yes")]
    pub statistics: bool,
    /// PCI slot instead of 3, or of a free one where another device has that by its `slot`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = slots::LAST))]
    pub slot: Option<u8>,
}

impl Default for Balloon {
    fn default() -> Self {
        Self {
            enabled: true,
            size: 0,
            deflate_on_oom: true,
            free_page_reporting: true,
            statistics: true,
            slot: None,
        }
    }
}

fn yes() -> bool {
    true
}

impl VmConfig {
    pub(super) fn validate_balloon(&self) -> Result<(), Error> {
        let Balloon { enabled, size, .. } = self.balloon;
        if size > self.mem {
            let mem = self.mem;
            return Err(Error::BalloonSize { size, mem });
        }
        if size > 0 && !enabled {
            return Err(Error::NoBalloon);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn balloon(section: &str) -> Result<Balloon, String> {
        let text = format!("name = \"a\"\nmem = 256\n[kernel]\npath = \"k\"\n{section}");
        let config = VmConfig::from_toml(&text).map_err(|e| e.to_string())?;
        config.validate().map_err(|e| e.to_string())?;
        Ok(config.balloon)
    }

    #[test]
    fn memory_that_is_free_goes_back_unless_the_file_says_otherwise() {
        for section in ["", "[balloon]\n"] {
            let balloon = balloon(section).unwrap();
            assert!(balloon.enabled && balloon.free_page_reporting);
            assert!(balloon.deflate_on_oom && balloon.statistics);
            assert_eq!(balloon.size, 0);
        }
        assert!(!balloon("[balloon]\nenabled = false\n").unwrap().enabled);
    }

    #[test]
    fn a_balloon_is_no_larger_than_the_memory() {
        assert_eq!(balloon("[balloon]\nsize = 256\n").unwrap().size, 256);
        assert_eq!(
            balloon("[balloon]\nsize = 257\n").unwrap_err(),
            "balloon.size: 257 MiB are more than the 256 MiB of mem"
        );
        let none = balloon("[balloon]\nenabled = false\nsize = 1\n").unwrap_err();
        assert_eq!(
            none,
            "balloon.size: there is no balloon with `enabled = false`"
        );
        assert!(balloon("[balloon]\nsize = -1\n").is_err());
    }
}
