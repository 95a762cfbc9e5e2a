//! A guest's driver of a virtio device on PCI: everything it does goes through the bus.

use std::{
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use virtio_bindings::virtio_config::{
    VIRTIO_CONFIG_S_ACKNOWLEDGE, VIRTIO_CONFIG_S_DRIVER, VIRTIO_CONFIG_S_DRIVER_OK,
    VIRTIO_CONFIG_S_FEATURES_OK,
};

use super::DriverQueue;
use crate::{
    bus::BusDevice,
    pci::{PciBus, Slot},
};

/// A virtio driver that finds its device's registers as the capabilities say (virtio 1.3, 4.1.4), with
/// MSI-X vector 0 for the configuration and 1 + i for queue i. A vector's number is its message's data.
pub struct PciDriver {
    ecam: Arc<dyn BusDevice>,
    window: Arc<dyn BusDevice>,
    window_base: u64,
    slot: u64,
    bar: u64,
    common: u64,
    notify: u64,
    notify_multiplier: u64,
    device: u64,
}

impl PciDriver {
    /// Enables the function in `slot` and all its MSI-X vectors. `window_base` is where the bus's window
    /// is.
    pub fn new(bus: &PciBus, slot: Slot, window_base: u64) -> Self {
        let mut this = Self {
            ecam: bus.ecam(),
            window: bus.window(),
            window_base,
            slot: slot.number().into(),
            bar: 0,
            common: 0,
            notify: 0,
            notify_multiplier: 0,
            device: 0,
        };
        this.bar = u64::from(this.config_u32(0x10) & !0xf);
        this.write_config(4, &[6, 0]);
        for cap in this.capabilities(9) {
            let offset = u64::from(this.config_u32(cap + 8));
            match this.read_config::<1>(cap + 3)[0] {
                1 => this.common = offset,
                2 => {
                    this.notify = offset;
                    this.notify_multiplier = this.config_u32(cap + 16).into();
                }
                4 => this.device = offset,
                _ => {}
            }
        }
        let msix = this.capabilities(0x11)[0];
        let table = u64::from(this.config_u32(msix + 4) & !7);
        let vectors = u16::from_le_bytes(this.read_config(msix + 2)) & 0x7ff;
        this.write_config(msix + 2, &0x8000_u16.to_le_bytes());
        for vector in 0..=u32::from(vectors) {
            let entry = table + 16 * u64::from(vector);
            this.write_bar(entry, &0xfee0_0000_u32.to_le_bytes());
            this.write_bar(entry + 8, &vector.to_le_bytes());
            this.write_bar(entry + 12, &0_u32.to_le_bytes());
        }
        this
    }

    /// Offsets of the capabilities with that ID, in the list's order.
    pub fn capabilities(&self, id: u8) -> Vec<u64> {
        let mut found = Vec::new();
        let [mut at] = self.read_config(0x34);
        while at != 0 {
            let [this, next] = self.read_config(at.into());
            if this == id {
                found.push(at.into());
            }
            at = next;
        }
        found
    }

    /// Reads configuration space.
    pub fn read_config<const N: usize>(&self, offset: u64) -> [u8; N] {
        let mut data = [0; N];
        self.ecam.read(self.slot << 15 | offset, &mut data);
        data
    }

    /// Writes configuration space.
    pub fn write_config(&self, offset: u64, data: &[u8]) {
        self.ecam.write(self.slot << 15 | offset, data);
    }

    fn config_u32(&self, offset: u64) -> u32 {
        u32::from_le_bytes(self.read_config(offset))
    }

    /// Reads the BAR.
    pub fn read_bar<const N: usize>(&self, offset: u64) -> [u8; N] {
        let mut data = [0xaa; N];
        let at = self.bar - self.window_base + offset;
        self.window.read(at, &mut data);
        data
    }

    /// Writes the BAR.
    pub fn write_bar(&self, offset: u64, data: &[u8]) {
        self.window
            .write(self.bar - self.window_base + offset, data);
    }

    /// Moves the BAR.
    pub fn move_bar(&mut self, address: u32) {
        self.write_config(0x10, &address.to_le_bytes());
        self.bar = address.into();
    }

    /// Reads a register of the common configuration.
    pub fn read_common<const N: usize>(&self, offset: u64) -> [u8; N] {
        self.read_bar(self.common + offset)
    }

    /// Writes a register of the common configuration.
    pub fn write_common(&self, offset: u64, data: &[u8]) {
        self.write_bar(self.common + offset, data);
    }

    /// Reads the device-specific configuration.
    pub fn read_device<const N: usize>(&self, offset: u64) -> [u8; N] {
        self.read_bar(self.device + offset)
    }

    /// Writes the device-specific configuration.
    pub fn write_device(&self, offset: u64, data: &[u8]) {
        self.write_bar(self.device + offset, data);
    }

    /// device_status.
    pub fn status(&self) -> u32 {
        let [status] = self.read_common(0x14);
        status.into()
    }

    /// Adds bits to device_status; `true` if they stuck.
    pub fn add_status(&self, bits: u32) -> bool {
        self.write_common(0x14, &[(self.status() | bits) as u8]);
        self.status() & bits == bits
    }

    /// Resets the device and waits until that is done; `false` after `timeout`.
    pub fn reset(&self, timeout: Duration) -> bool {
        self.write_common(0x14, &[0]);
        let until = Instant::now() + timeout;
        // The standard has drivers read the register until it is 0, so no other wait is possible.
        while self.status() != 0 {
            if Instant::now() > until {
                return false;
            }
            thread::yield_now();
        }
        true
    }

    /// The features that the device offers.
    pub fn device_features(&self) -> u64 {
        let half = |select: u32| {
            self.write_common(0x00, &select.to_le_bytes());
            u64::from(u32::from_le_bytes(self.read_common(0x04)))
        };
        half(0) | half(1) << 32
    }

    /// Writes the features that the driver accepts.
    pub fn set_features(&self, features: u64) {
        for (select, half) in [(0_u32, features as u32), (1, (features >> 32) as u32)] {
            self.write_common(0x08, &select.to_le_bytes());
            self.write_common(0x0c, &half.to_le_bytes());
        }
    }

    /// Acknowledges the device and negotiates `features`; `true` if FEATURES_OK stuck.
    pub fn negotiate(&self, features: u64) -> bool {
        self.add_status(VIRTIO_CONFIG_S_ACKNOWLEDGE);
        self.add_status(VIRTIO_CONFIG_S_DRIVER);
        self.set_features(features);
        self.add_status(VIRTIO_CONFIG_S_FEATURES_OK)
    }

    /// Enables queue `index` with the rings of `queue`.
    pub fn enable_queue(&self, index: u16, queue: &DriverQueue) {
        self.write_common(0x16, &index.to_le_bytes());
        self.write_common(0x18, &queue.size().to_le_bytes());
        self.write_common(0x1a, &(index + 1).to_le_bytes());
        for (offset, address) in [
            (0x20, queue.desc()),
            (0x28, queue.avail()),
            (0x30, queue.used()),
        ] {
            self.write_common(offset, &(address as u32).to_le_bytes());
            self.write_common(offset + 4, &((address >> 32) as u32).to_le_bytes());
        }
        self.write_common(0x1c, &1_u16.to_le_bytes());
    }

    /// Takes vector 0 for configuration changes and says DRIVER_OK; `true` if that stuck.
    pub fn start(&self) -> bool {
        self.write_common(0x10, &0_u16.to_le_bytes());
        self.add_status(VIRTIO_CONFIG_S_DRIVER_OK)
    }

    /// Guest physical address at which queue `index` is notified.
    pub fn notify_address(&self, index: u16) -> u64 {
        self.bar + self.notify_offset(index)
    }

    /// Notifies queue `index` by a write that reaches the VMM, as without an ioeventfd.
    pub fn notify_slowly(&self, index: u16) {
        self.write_bar(self.notify_offset(index), &index.to_le_bytes());
    }

    fn notify_offset(&self, index: u16) -> u64 {
        self.write_common(0x16, &index.to_le_bytes());
        let offset = u16::from_le_bytes(self.read_common(0x1e));
        self.notify + u64::from(offset) * self.notify_multiplier
    }
}
