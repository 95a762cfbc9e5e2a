//! The socket device (virtio 1.3, 5.10): what it offers; what it does is in its worker.

use std::{io, os::unix::net::UnixListener, sync::Arc};

use minivmm_devices::virtio::{
    Activation, ConfigSpace, DeviceType, StaticConfig, VirtioDevice, Worker,
};
use virtio_bindings::virtio_ring::VIRTIO_RING_F_EVENT_IDX;

use crate::{
    connector::{Answers, Ask},
    ports::Ports,
    worker::Active,
};

/// VIRTIO_VSOCK_F_STREAM (5.10.3).
const F_STREAM: u32 = 0;
/// Receive, transmit and event queue. Nothing is said on the last one: no guest moves to another host while it runs.
const QUEUE_SIZES: [u16; 3] = [128, 128, 16];

/// Takes a text with which the guest's systemd tells of itself: what one stream to [`NOTIFY_PORT`](crate::NOTIFY_PORT)
/// had, at most [`NOTIFY_TEXT`](crate::NOTIFY_TEXT) bytes. Must not block: it is called on the device's thread.
pub type OnNotify = Box<dyn Fn(&[u8]) + Send + Sync>;

/// What a socket device is made of.
pub struct VsockOptions {
    /// The guest's address, 3 to 0xFFFF_FFFE.
    pub cid: u32,
    /// Where programs of the host connect; non-blocking. None if none may.
    pub listener: Option<UnixListener>,
    /// Ports of the guest that they may connect to.
    pub to_guest: Ports,
    /// Ports of the host that the guest may connect to.
    pub to_host: Ports,
    /// Asks for the connections to those.
    pub ask: Ask,
    /// Where the answers come.
    pub answers: Arc<Answers>,
    /// Hears what the guest's systemd tells of itself. Without it the port is one like all others.
    pub on_notify: Option<OnNotify>,
}

/// A socket device.
pub struct VsockDevice {
    pub(crate) rules: Arc<Rules>,
    pub(crate) listener: Option<UnixListener>,
    pub(crate) answers: Arc<Answers>,
    /// The last question that was asked.
    pub(crate) question: u64,
}

/// What a device does and does not.
pub(crate) struct Rules {
    pub(crate) cid: u64,
    pub(crate) to_guest: Ports,
    pub(crate) to_host: Ports,
    pub(crate) ask: Ask,
    pub(crate) on_notify: Option<OnNotify>,
}

impl VsockDevice {
    /// A device of that kind.
    pub fn new(options: VsockOptions) -> Self {
        Self {
            rules: Arc::new(Rules {
                cid: options.cid.into(),
                to_guest: options.to_guest,
                to_host: options.to_host,
                ask: options.ask,
                on_notify: options.on_notify,
            }),
            listener: options.listener,
            answers: options.answers,
            question: 0,
        }
    }
}

impl VirtioDevice for VsockDevice {
    fn device_type(&self) -> DeviceType {
        DeviceType::Socket
    }

    fn features(&self) -> u64 {
        1 << VIRTIO_RING_F_EVENT_IDX | 1 << F_STREAM
    }

    fn queue_sizes(&self) -> &[u16] {
        &QUEUE_SIZES
    }

    /// The guest's address (5.10.4).
    fn config(&self) -> Arc<dyn ConfigSpace> {
        Arc::new(StaticConfig(self.rules.cid.to_le_bytes().to_vec()))
    }

    fn activate(self: Box<Self>, activation: Activation) -> io::Result<Worker> {
        let name = activation.interrupt.name().to_owned();
        Worker::spawn(&name, Box::new(Active::new(*self, activation)?))
    }
}
