//! What the socket device works on in a process that opens nothing.

use std::{io, os::fd::OwnedFd, os::unix::net::UnixListener, sync::Arc};

use minivmm_vmm::machine::VsockResources;
use minivmm_vsock::Answers;

use crate::protocol::{Channel, FromVmm};

/// A device's resources: the supervisor has made `listener`, and connects for the guest.
pub fn resources(channel: &Arc<Channel>, listener: Option<OwnedFd>) -> io::Result<VsockResources> {
    let (asks, tells) = (channel.clone(), channel.clone());
    Ok(VsockResources {
        listener: listener.map(UnixListener::from),
        ask: Box::new(move |id, port| {
            let asked = asks.send(&FromVmm::Connect { id, port }, &[]);
            asked
                .inspect_err(
                    |error| tracing::debug!(%error, "the supervisor cannot be asked to connect"),
                )
                .is_ok()
        }),
        answers: Arc::new(Answers::new()?),
        on_notify: Box::new(move |text| {
            let text = String::from_utf8_lossy(text).into_owned();
            if let Err(error) = tells.send(&FromVmm::Notify { text }, &[]) {
                tracing::debug!(%error, "the supervisor cannot be told what the guest says of itself");
            }
        }),
    })
}
