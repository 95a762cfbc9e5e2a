//! What ends the work of a disk until its driver resets it.

use std::io;

use minivmm_devices::virtio::queue::BrokenRing;

use crate::request::NoStatus;

/// What ends an activation.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    #[error(transparent)]
    Ring(#[from] BrokenRing),
    #[error(transparent)]
    NoStatus(#[from] NoStatus),
    #[error("cannot watch a file: {0}")]
    Events(#[from] event_manager::Error),
    #[error("cannot read and write the image: {0}")]
    Engine(io::Error),
    #[error("cannot start a thread for a queue: {0}")]
    Thread(io::Error),
    #[error("cannot set a timer: {0}")]
    Timer(io::Error),
}
