//! Where a VM's metrics are written.

use std::{path::PathBuf, time::Duration};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Error, Limits, VmConfig, duration, schema, validate::range};

/// Where a VM's metrics are written; `minivmm metrics` prints them without it (docs/metrics.md).
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Metrics {
    /// A file `….prom` that is written anew again and again and removed when the VM has ended, for the textfile collector
    /// of Prometheus' node_exporter.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::textfile")]
    pub textfile: Option<PathBuf>,
    /// How often.
    #[serde(default = "default_interval", with = "duration")]
    #[schemars(schema_with = "schema::duration")]
    pub interval: Duration,
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            textfile: None,
            interval: default_interval(),
        }
    }
}

fn default_interval() -> Duration {
    Duration::from_secs(15)
}

impl VmConfig {
    pub(super) fn validate_metrics(&self) -> Result<(), Error> {
        let Metrics { textfile, interval } = &self.metrics;
        if let Some(path) = textfile
            && path.extension().is_none_or(|extension| extension != "prom")
        {
            return Err(Error::Textfile(path.display().to_string()));
        }
        let (min, max) = (Limits::METRICS_INTERVAL_MIN, Limits::METRICS_INTERVAL_MAX);
        range("metrics.interval's seconds", interval.as_secs(), min, max)
    }
}
