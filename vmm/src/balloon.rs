//! What is known of a VM's balloon, for others.

use std::collections::BTreeMap;

use minivmm_devices::virtio::balloon::BalloonState;
use serde::{Deserialize, Serialize};

/// What is known of a balloon, and of the guest's memory. All but the target is the guest's word or follows from what it
/// does.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BalloonReport {
    /// Bytes that are wanted in the balloon.
    pub target_bytes: u64,
    /// Bytes that are in it.
    pub size_bytes: u64,
    /// Bytes that were given back to the host because the guest had put them into the balloon, since the VM's start; what
    /// was given back twice counts twice.
    pub inflated_bytes: u64,
    /// Bytes that were given back because the guest had reported them as free, counted in the same way.
    pub reported_bytes: u64,
    /// Bytes of the guest's memory that the host has given it. The VMM knows it of shared memory alone.
    pub resident_bytes: Option<u64>,
    /// What the guest says of its memory, by the names of
    /// [`Statistic`](minivmm_devices::virtio::balloon::Statistic).
    pub statistics: BTreeMap<String, u64>,
    /// How long ago the guest said it. None if it has said nothing.
    pub statistics_age_msec: Option<u64>,
}

impl BalloonReport {
    /// Bytes that were given back in either way.
    pub fn given_back_bytes(&self) -> u64 {
        self.inflated_bytes.saturating_add(self.reported_bytes)
    }

    /// Of a balloon, and of memory of which so much is there, if that is known.
    pub(crate) fn new(state: BalloonState, resident_bytes: Option<u64>) -> Self {
        let statistics = state.statistics.iter();
        Self {
            target_bytes: state.target,
            size_bytes: state.size,
            inflated_bytes: state.inflated,
            reported_bytes: state.reported,
            resident_bytes,
            statistics: statistics
                .flat_map(|(_, statistics)| statistics.iter())
                .map(|(statistic, value)| (statistic.name().to_owned(), value))
                .collect(),
            statistics_age_msec: state
                .statistics
                .map(|(came, _)| came.elapsed().as_millis() as u64),
        }
    }
}
