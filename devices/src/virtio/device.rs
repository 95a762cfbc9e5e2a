//! A virtio device is a small value that moves into its worker when the driver says DRIVER_OK.

use std::{io, sync::Arc};

use vmm_sys_util::eventfd::EventFd;

use super::{DeviceInterrupt, QueueInterrupt, Worker, queue::Queue};
use crate::GuestMemory;

/// Device types (virtio 1.3, section 5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub enum DeviceType {
    /// Network card (5.1).
    Net = 1,
    /// Disk (5.2).
    Block = 2,
    /// Console (5.3).
    Console = 3,
    /// Entropy source (5.4).
    Entropy = 4,
    /// Memory balloon (5.5).
    Balloon = 5,
    /// Socket device (5.10).
    Socket = 19,
    /// File system (5.11).
    FileSystem = 26,
}

/// The device-specific configuration space (virtio 1.3, 2.5).
///
/// It stays with the transport while the device itself works on its own thread, so it is shared and
/// answers at once.
pub trait ConfigSpace: Send + Sync {
    /// Fills `data` from `offset`; bytes beyond the end read as zero.
    fn read(&self, offset: u64, data: &mut [u8]);
    /// A driver's write; without effect for devices that have no writable field.
    fn write(&self, _offset: u64, _data: &[u8]) {}
    /// Changes whenever a driver could have seen half of an update.
    fn generation(&self) -> u8 {
        0
    }
}

/// A configuration space whose bytes never change.
#[derive(Clone, Debug, Default)]
pub struct StaticConfig(pub Vec<u8>);

impl ConfigSpace for StaticConfig {
    fn read(&self, offset: u64, data: &mut [u8]) {
        let known = usize::try_from(offset)
            .ok()
            .and_then(|from| self.0.get(from..))
            .unwrap_or_default();
        let n = known.len().min(data.len());
        data[..n].copy_from_slice(&known[..n]);
        data[n..].fill(0);
    }
}

/// A virtio device that is not activated.
///
/// It sees neither PCI nor a vCPU. The transport owns registers and negotiation, asks for the constants
/// below, and moves the device into its worker when the driver is ready; a reset gives it back.
pub trait VirtioDevice: Send + 'static {
    /// What it is.
    fn device_type(&self) -> DeviceType;

    /// Feature bits offered beside VIRTIO_F_VERSION_1, which the transport always offers.
    fn features(&self) -> u64;

    /// The largest size of each queue, a power of two; as many entries as there are queues.
    fn queue_sizes(&self) -> &[u16];

    /// The configuration space, empty by default.
    fn config(&self) -> Arc<dyn ConfigSpace> {
        Arc::new(StaticConfig::default())
    }

    /// Starts the worker thread that drives the device until it is stopped, and which then gives the
    /// device back. Called on a vCPU thread: it only starts the thread, and whatever may wait (messages
    /// to a back end) happens on that thread.
    ///
    /// An error (no thread could be started) loses the device; the transport then reports NEEDS_RESET.
    fn activate(self: Box<Self>, activation: Activation) -> io::Result<Worker>;
}

/// What a device gets when its driver has set DRIVER_OK.
pub struct Activation {
    /// The guest's memory.
    pub memory: Arc<GuestMemory>,
    /// The feature bits that driver and device agreed on.
    pub features: u64,
    /// The queues that the driver enabled, ascending by index.
    pub queues: Vec<ActiveQueue>,
    /// For configuration changes and for a broken device.
    pub interrupt: DeviceInterrupt,
}

/// One enabled virtqueue.
pub struct ActiveQueue {
    /// Its index in [`VirtioDevice::queue_sizes`].
    pub index: u16,
    /// Its rings, checked to lie in guest memory at activation.
    pub queue: Queue,
    /// Counts the driver's notifications (an ioeventfd): non-blocking.
    pub notify: EventFd,
    /// Tells the driver of used buffers.
    pub interrupt: QueueInterrupt,
}

impl ActiveQueue {
    /// Takes the driver's notifications, if there are any, so that the eventfd is quiet until the next.
    pub fn take_notifications(&self) {
        // An empty one refuses to be read; then the event was spurious.
        if let Ok(times) = self.notify.read() {
            self.queue.counters().notified(times);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_static_configuration_reads_zero_beyond_its_end() {
        let config = StaticConfig(vec![1, 2, 3]);
        for (offset, expected) in [
            (0, [1, 2]),
            (1, [2, 3]),
            (2, [3, 0]),
            (3, [0, 0]),
            (u64::MAX, [0, 0]),
        ] {
            let mut data = [0xaa; 2];
            config.read(offset, &mut data);
            assert_eq!(data, expected, "offset {offset}");
        }
    }
}
