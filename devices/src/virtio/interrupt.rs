//! How a device interrupts its driver: one MSI-X vector for each queue and one for the configuration.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU8, Ordering},
};

use virtio_bindings::virtio_config::VIRTIO_CONFIG_S_NEEDS_RESET;
use vmm_sys_util::eventfd::EventFd;

/// The device_status register (virtio 1.3, 2.1), shared by the transport and the device's worker because
/// both set bits in it.
#[derive(Clone, Debug, Default)]
pub struct DeviceStatus(Arc<AtomicU8>);

impl DeviceStatus {
    /// The bits.
    pub fn get(&self) -> u8 {
        self.0.load(Ordering::Acquire)
    }

    /// Replaces all bits; the transport's alone.
    pub fn set(&self, bits: u8) {
        self.0.store(bits, Ordering::Release);
    }

    /// Adds bits and gives those that were set before.
    pub fn insert(&self, bits: u8) -> u8 {
        self.0.fetch_or(bits, Ordering::AcqRel)
    }
}

/// The interrupt of one queue.
#[derive(Clone, Debug)]
pub struct QueueInterrupt(Option<Arc<EventFd>>);

impl QueueInterrupt {
    /// Signals by `vector`'s eventfd; without a vector (VIRTIO_MSI_NO_VECTOR) the driver polls.
    pub fn new(vector: Option<Arc<EventFd>>) -> Self {
        Self(vector)
    }

    /// Tells the driver that buffers were used.
    pub fn signal(&self) {
        if let Some(event) = &self.0 {
            // The count cannot overflow before the other end reads it, and a full counter is a signal
            // that is still pending: nothing is lost in either case.
            let _ = event.write(1);
        }
    }

    /// The eventfd itself, for a vhost back end to signal without us.
    pub fn event(&self) -> Option<&EventFd> {
        self.0.as_deref()
    }
}

/// What the device as a whole has to tell its driver.
#[derive(Clone, Debug)]
pub struct DeviceInterrupt {
    status: DeviceStatus,
    config: QueueInterrupt,
    name: Arc<str>,
    broken: Arc<AtomicBool>,
}

impl DeviceInterrupt {
    /// `name` is for the log; `config` is the vector of configuration changes.
    pub fn new(name: Arc<str>, status: DeviceStatus, config: QueueInterrupt) -> Self {
        Self {
            status,
            config,
            name,
            broken: Arc::new(AtomicBool::new(false)),
        }
    }

    /// The device's name in the log.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Says that the configuration space changed (virtio 1.3, 2.5).
    pub fn config_changed(&self) {
        self.config.signal();
    }

    /// Says that the device cannot go on until its driver resets it (virtio 1.3, 2.1.2), and logs why,
    /// once for each activation however often a guest provokes it.
    pub fn needs_reset(&self, why: &dyn std::fmt::Display) {
        if self.broken.swap(true, Ordering::AcqRel) {
            return;
        }
        tracing::warn!(device = %self.name, "{why}; the device needs a reset by its driver");
        self.status.insert(VIRTIO_CONFIG_S_NEEDS_RESET as u8);
        self.config.signal();
    }

    /// Whether [`needs_reset`](Self::needs_reset) was called: nothing more is to be done on its queues.
    pub fn is_broken(&self) -> bool {
        self.broken.load(Ordering::Acquire)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use vmm_sys_util::eventfd::EFD_NONBLOCK;

    use super::*;

    #[test]
    fn a_broken_device_says_so_once() {
        let status = DeviceStatus::default();
        status.insert(4);
        let event = Arc::new(EventFd::new(EFD_NONBLOCK).unwrap());
        let vector = QueueInterrupt::new(Some(event.clone()));
        let interrupt = DeviceInterrupt::new("test".into(), status.clone(), vector);
        assert!(!interrupt.is_broken());
        interrupt.needs_reset(&"first");
        interrupt.clone().needs_reset(&"second");
        assert!(interrupt.is_broken());
        assert_eq!(u32::from(status.get()), VIRTIO_CONFIG_S_NEEDS_RESET | 4);
        assert_eq!(event.read().unwrap(), 1);
    }

    #[test]
    fn without_a_vector_nothing_is_signalled() {
        let interrupt = QueueInterrupt::new(None);
        interrupt.signal();
        assert!(interrupt.event().is_none());
    }
}
