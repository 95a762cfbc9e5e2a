//! The common configuration registers (virtio 1.3, 4.1.4.3).

use std::sync::Arc;

use virtio_bindings::virtio_config::{
    VIRTIO_CONFIG_S_DRIVER_OK, VIRTIO_CONFIG_S_FEATURES_OK, VIRTIO_F_VERSION_1,
};

use super::layout::COMMON_SIZE;
use crate::{
    GuestMemory,
    virtio::queue::{Layout, LayoutError, Queue, QueueCounters, QueueCounts},
};

/// A vector register without a vector (VIRTIO_MSI_NO_VECTOR).
pub(super) const NO_VECTOR: u16 = 0xffff;

const DEVICE_FEATURE_SELECT: u32 = 0x00;
const DRIVER_FEATURE_SELECT: u32 = 0x08;
const DRIVER_FEATURE: u32 = 0x0c;
const CONFIG_MSIX_VECTOR: u32 = 0x10;
pub(super) const DEVICE_STATUS: u32 = 0x14;
const QUEUE_SELECT: u32 = 0x16;
const QUEUE_SIZE: u32 = 0x18;
const QUEUE_MSIX_VECTOR: u32 = 0x1a;
const QUEUE_ENABLE: u32 = 0x1c;
const QUEUE_DESC: u32 = 0x20;
const QUEUE_DRIVER: u32 = 0x28;
const QUEUE_DEVICE: u32 = 0x30;
const QUEUE_END: u32 = 0x38;

/// Why an enabled queue cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("queue {index}: {source}")]
pub(super) struct InvalidQueue {
    index: u16,
    source: LayoutError,
}

/// The registers of one queue.
#[derive(Clone, Debug)]
pub(super) struct QueueRegisters {
    max_size: u16,
    size: u16,
    pub(super) vector: u16,
    pub(super) enabled: bool,
    /// Descriptor area, driver area, device area.
    desc: u64,
    driver: u64,
    device: u64,
    /// Of the queue in all its lives.
    counters: Arc<QueueCounters>,
}

impl QueueRegisters {
    fn new(max_size: u16, counters: Arc<QueueCounters>) -> Self {
        Self {
            counters,
            max_size,
            size: max_size,
            vector: NO_VECTOR,
            enabled: false,
            desc: 0,
            driver: 0,
            device: 0,
        }
    }

    /// The queue that the registers describe, all of whose parts are in memory.
    pub(super) fn queue(
        &self,
        index: u16,
        memory: &GuestMemory,
        event_idx: bool,
    ) -> Result<Queue, InvalidQueue> {
        let layout = Layout {
            size: self.size,
            desc_table: self.desc,
            avail_ring: self.driver,
            used_ring: self.device,
        };
        let mut queue = Queue::new(layout, event_idx, memory)
            .map_err(|source| InvalidQueue { index, source })?;
        queue.count_in(self.counters.clone());
        Ok(queue)
    }

    /// What has gone through the queue.
    pub(super) fn counts(&self) -> QueueCounts {
        self.counters.read()
    }
}

/// All registers but device_status and config_generation, which live elsewhere.
#[derive(Clone, Debug)]
pub(super) struct CommonConfig {
    offered: u64,
    device_feature_select: u32,
    driver_feature_select: u32,
    pub(super) driver_features: u64,
    pub(super) config_vector: u16,
    queue_select: u16,
    pub(super) queues: Vec<QueueRegisters>,
}

impl CommonConfig {
    /// As at reset; at most 256 queues.
    pub(super) fn new(offered: u64, queue_sizes: &[u16]) -> Self {
        Self {
            offered,
            device_feature_select: 0,
            driver_feature_select: 0,
            driver_features: 0,
            config_vector: NO_VECTOR,
            queue_select: 0,
            queues: queue_sizes
                .iter()
                .copied()
                .map(|size| QueueRegisters::new(size, Arc::default()))
                .collect(),
        }
    }

    pub(super) fn reset(&mut self) {
        let queues = self.queues.iter();
        let fresh = queues.map(|queue| QueueRegisters::new(queue.max_size, queue.counters.clone()));
        *self = Self {
            queues: fresh.collect(),
            ..Self::new(self.offered, &[])
        };
    }

    /// Whether the driver's choice is one that FEATURES_OK may confirm (2.2.2, 6.2).
    pub(super) fn features_acceptable(&self) -> bool {
        self.driver_features & !self.offered == 0
            && self.driver_features & 1 << VIRTIO_F_VERSION_1 != 0
    }

    /// Fills `data` from `offset`; zero beyond the registers.
    pub(super) fn read(&self, status: u8, generation: u8, offset: u32, data: &mut [u8]) {
        let registers = self.registers(status, generation);
        for (at, byte) in (offset as usize..).zip(data) {
            *byte = registers.get(at).copied().unwrap_or(0);
        }
    }

    fn registers(&self, status: u8, generation: u8) -> [u8; COMMON_SIZE as usize] {
        let mut registers = [0; COMMON_SIZE as usize];
        let mut at = 0;
        let mut put = |bytes: &[u8]| {
            registers[at..at + bytes.len()].copy_from_slice(bytes);
            at += bytes.len();
        };
        put(&self.device_feature_select.to_le_bytes());
        put(&half(self.offered, self.device_feature_select).to_le_bytes());
        put(&self.driver_feature_select.to_le_bytes());
        put(&half(self.driver_features, self.driver_feature_select).to_le_bytes());
        put(&self.config_vector.to_le_bytes());
        put(&(self.queues.len() as u16).to_le_bytes());
        put(&[status, generation]);
        put(&self.queue_select.to_le_bytes());
        match self.queues.get(usize::from(self.queue_select)) {
            Some(queue) => {
                put(&queue.size.to_le_bytes());
                put(&queue.vector.to_le_bytes());
                put(&u16::from(queue.enabled).to_le_bytes());
                // queue_notify_off: each queue has an address of its own.
                put(&self.queue_select.to_le_bytes());
                put(&queue.desc.to_le_bytes());
                put(&queue.driver.to_le_bytes());
                put(&queue.device.to_le_bytes());
            }
            // A queue that does not exist has size 0 (4.1.4.3.1).
            None => {
                put(&0_u16.to_le_bytes());
                put(&NO_VECTOR.to_le_bytes());
            }
        }
        registers
    }

    /// Takes a write to any register but device_status. Only accesses of the register's own width count
    /// (4.1.3.1), and only where the driver's progress, `status`, allows a change.
    pub(super) fn write(&mut self, status: u8, offset: u32, data: &[u8]) {
        let is_set = |bit: u32| u32::from(status) & bit != 0;
        let is_live = is_set(VIRTIO_CONFIG_S_DRIVER_OK);
        let vectors = self.queues.len() as u16 + 1;
        match (offset, data) {
            (DEVICE_FEATURE_SELECT, &[a, b, c, d]) => {
                self.device_feature_select = u32::from_le_bytes([a, b, c, d]);
            }
            (DRIVER_FEATURE_SELECT, &[a, b, c, d]) => {
                self.driver_feature_select = u32::from_le_bytes([a, b, c, d]);
            }
            (DRIVER_FEATURE, &[a, b, c, d]) if !is_set(VIRTIO_CONFIG_S_FEATURES_OK) => {
                let value = u32::from_le_bytes([a, b, c, d]);
                set_half(&mut self.driver_features, self.driver_feature_select, value);
            }
            (CONFIG_MSIX_VECTOR, &[a, b]) if !is_live => {
                self.config_vector = vector(u16::from_le_bytes([a, b]), vectors);
            }
            (QUEUE_SELECT, &[a, b]) => self.queue_select = u16::from_le_bytes([a, b]),
            (QUEUE_SIZE..QUEUE_END, _) if !is_live => {
                if let Some(queue) = self.queues.get_mut(usize::from(self.queue_select)) {
                    queue.write(vectors, offset, data);
                }
            }
            _ => {}
        }
    }
}

impl QueueRegisters {
    fn write(&mut self, vectors: u16, offset: u32, data: &[u8]) {
        match (offset, data) {
            (QUEUE_MSIX_VECTOR, &[a, b]) => {
                self.vector = vector(u16::from_le_bytes([a, b]), vectors);
            }
            // A queue is enabled for good: only a reset disables it (4.1.4.3.2).
            _ if self.enabled => {}
            (QUEUE_SIZE, &[a, b]) => {
                let size = u16::from_le_bytes([a, b]);
                if size.is_power_of_two() && size <= self.max_size {
                    self.size = size;
                }
            }
            (QUEUE_ENABLE, &[1, 0]) => self.enabled = true,
            (QUEUE_DESC..QUEUE_DRIVER, _) => set_part(&mut self.desc, offset - QUEUE_DESC, data),
            (QUEUE_DRIVER..QUEUE_DEVICE, _) => {
                set_part(&mut self.driver, offset - QUEUE_DRIVER, data);
            }
            (QUEUE_DEVICE..QUEUE_END, _) => {
                set_part(&mut self.device, offset - QUEUE_DEVICE, data);
            }
            _ => {}
        }
    }
}

/// A vector that exists, or none (4.1.5.1.2.1).
fn vector(value: u16, vectors: u16) -> u16 {
    if value < vectors { value } else { NO_VECTOR }
}

/// 32 of 64 bits; there are none beyond.
fn half(bits: u64, select: u32) -> u32 {
    match select {
        0 => bits as u32,
        1 => (bits >> 32) as u32,
        _ => 0,
    }
}

fn set_half(bits: &mut u64, select: u32, value: u32) {
    match select {
        0 => *bits = *bits & !0xffff_ffff | u64::from(value),
        1 => *bits = *bits & 0xffff_ffff | u64::from(value) << 32,
        _ => {}
    }
}

/// Writes a 64-bit register, whole or by one half.
fn set_part(register: &mut u64, offset: u32, data: &[u8]) {
    match (offset, data.len()) {
        (0, 8) | (0 | 4, 4) => {
            let mut bytes = register.to_le_bytes();
            bytes[offset as usize..][..data.len()].copy_from_slice(data);
            *register = u64::from_le_bytes(bytes);
        }
        _ => {}
    }
}
