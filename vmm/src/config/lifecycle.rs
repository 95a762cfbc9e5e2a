//! When a VM counts as started, how it ends, and what follows.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{duration, schema};

/// When the VM counts as started, how it ends, and what follows (docs/lifecycle.md).
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Lifecycle {
    /// How long the guest has to shut down after the power button.
    #[serde(default = "default_stop_timeout", with = "duration")]
    #[schemars(schema_with = "schema::duration")]
    pub stop_timeout: Duration,
    /// What follows when the guest has powered itself off, and nobody had asked for that.
    #[serde(default)]
    pub on_poweroff: AfterEnd,
    /// What follows when the guest has asked for a reset.
    #[serde(default)]
    pub on_reboot: AfterEnd,
    /// What follows when the guest's kernel has panicked or ended in a triple fault.
    #[serde(default)]
    pub on_panic: AfterEnd,
    /// Gives the guest a watchdog: once its driver has started that, the VM is ended when the guest has not shown itself for
    /// this long, or for the shorter time that it has set.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        with = "duration::optional"
    )]
    #[schemars(schema_with = "schema::duration")]
    pub watchdog: Option<Duration>,
    /// What follows when the guest's watchdog has run out.
    #[serde(default)]
    pub on_watchdog: AfterEnd,
    /// What `minivmm run` ends with.
    #[serde(default)]
    pub exit_status: ExitStatus,
    /// When the VM counts as started, for whoever waits for that: a service manager, `minivmm start`.
    #[serde(default)]
    pub ready: Ready,
    /// With `ready = "guest"`: how long the guest may be silent before it is ready. Then the start has failed. While the VM is
    /// paused the time stands still.
    #[serde(default = "default_ready_timeout", with = "duration")]
    #[schemars(schema_with = "schema::duration")]
    pub ready_timeout: Duration,
}

impl Default for Lifecycle {
    fn default() -> Self {
        Self {
            ready: Ready::default(),
            ready_timeout: default_ready_timeout(),
            stop_timeout: default_stop_timeout(),
            on_poweroff: AfterEnd::default(),
            on_reboot: AfterEnd::default(),
            on_panic: AfterEnd::default(),
            watchdog: None,
            on_watchdog: AfterEnd::default(),
            exit_status: ExitStatus::default(),
        }
    }
}

/// When a VM counts as started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Ready {
    /// When all vCPUs have entered the guest.
    #[default]
    Vcpus,
    /// When the guest says so: its systemd (254 and newer) does, over vsock.
    Guest,
}

/// What follows an end of the guest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum AfterEnd {
    /// `minivmm run` ends, with the end's exit code.
    #[default]
    Exit,
    /// The VM starts again in place: same taps, same files, new virtiofsds. What is too quick too often ends it
    /// nevertheless.
    Restart,
}

/// What `minivmm run` ends with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ExitStatus {
    /// A code for each end, as docs/exit-codes.md lists them.
    #[default]
    Contract,
    /// 0 for every end that the guest asked for, a reset too; of the others each has its code.
    Simple,
}

fn default_ready_timeout() -> Duration {
    Duration::from_secs(120)
}

fn default_stop_timeout() -> Duration {
    Duration::from_secs(120)
}
