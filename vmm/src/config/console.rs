//! The guest's console.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::slots;

/// What the guest prints on and is typed to.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Console {
    /// The devices that the guest is told to use.
    #[serde(default)]
    pub device: ConsoleDevice,
    /// PCI slot of the virtio-console instead of 2, or of a free one where another device has that by its `slot`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = slots::LAST))]
    pub slot: Option<u8>,
}

/// The devices of a console.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ConsoleDevice {
    /// virtio-console (hvc0), and until its driver is there the serial port (ttyS0). The kernel prints what is
    /// important (`loglevel=4`); what it prints on both is shown once.
    #[default]
    Hvc0,
    /// The serial port alone.
    Serial,
    /// Both, and all that the guest prints on either is shown.
    Both,
}

impl ConsoleDevice {
    /// Whether there is a virtio-console.
    pub fn has_virtio(self) -> bool {
        self != Self::Serial
    }
}
