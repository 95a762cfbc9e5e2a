//! Connections that the guest wants.

use std::os::fd::AsFd;

use super::Session;
use crate::protocol::ToVmm;

impl Session<'_> {
    /// Connects the guest to a port of the host, or does not, and tells the VMM.
    pub(super) fn connect_for_guest(&self, id: u64, port: u32) {
        let stream = self.streams.and_then(|streams| streams.connect(port));
        let fds: Vec<_> = stream.iter().map(AsFd::as_fd).collect();
        if let Err(error) = self.channel.send(&ToVmm::Connected { id }, &fds) {
            // The guest is refused when its device has waited long enough.
            tracing::debug!(%error, "the VMM process takes no connection");
        }
    }
}
