//! A virtio device with rings that the fuzzer wrote.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use arbitrary::Arbitrary;
use minivmm_devices::{
    GuestMemory,
    pci::{MmioWindow, PciBus, Slot},
    test_utils::{DriverQueue, FakeHypervisor, PciDriver, guest_memory},
    virtio::{VirtioDevice, pci::VirtioPci},
};

/// The feature without which no driver of ours starts (virtio 1.3, 6).
pub const VERSION_1: u64 = 1 << 32;
/// How long a device may take for anything: beyond it hangs.
pub const DEADLINE: Duration = Duration::from_secs(5);
/// Where BARs are.
pub const WINDOW: MmioWindow = MmioWindow {
    base: 0xc000_0000,
    size: 0x2_0000,
};

/// A device in slot 1 of a bus, and its driver.
pub struct Machine {
    /// The guest's memory, at address 0.
    pub memory: Arc<GuestMemory>,
    /// What the device has attached.
    pub hypervisor: Arc<FakeHypervisor>,
    /// Its bus.
    pub bus: PciBus,
    /// Its driver.
    pub driver: PciDriver,
    device: Arc<VirtioPci>,
}

impl Machine {
    /// A machine with `memory` bytes of memory and `device`.
    pub fn new(memory: usize, device: impl VirtioDevice + 'static) -> Self {
        let memory = guest_memory(memory);
        let hypervisor = Arc::new(FakeHypervisor::default());
        let device = VirtioPci::new("fuzz", Box::new(device), memory.clone(), hypervisor.clone())
            .expect("its queues are a device's");
        let bus = PciBus::new(WINDOW);
        let slot = Slot::new(1).expect("there are 32");
        bus.add(slot, device.clone()).expect("there is room");
        let driver = PciDriver::new(&bus, slot, WINDOW.base);
        Self {
            memory,
            hypervisor,
            bus,
            driver,
            device,
        }
    }

    /// Resets the device, which must come back whatever it was given.
    pub fn reset(&self) {
        assert!(self.driver.reset(DEADLINE), "the device does not come back");
    }

    /// Ends the device, which must leave nothing attached.
    pub fn stop(self) {
        self.device
            .stop(Instant::now() + DEADLINE)
            .expect("a device stops, whatever its guest did");
        assert_eq!(self.hypervisor.attached(), [0; 0]);
    }
}

/// A descriptor as a guest may write it.
#[derive(Arbitrary, Clone, Copy, Debug)]
pub struct Descriptor {
    /// Within [`Layout::buffers`], as a rule.
    pub address: u32,
    /// Bytes.
    pub len: u32,
    /// NEXT, WRITE and INDIRECT are the lowest three bits.
    pub flags: u16,
    /// Its successor.
    pub next: u16,
}

/// What a guest writes into a queue.
#[derive(Arbitrary, Debug, Default)]
pub struct Ring {
    descriptors: Vec<Descriptor>,
    heads: Vec<u8>,
    /// How far the available index is beyond the heads.
    lie: u8,
    used_event: u16,
}

/// Where a target's queues and buffers are, and how wild they may be.
#[derive(Clone, Copy, Debug)]
pub struct Layout {
    /// Address of the first queue; each has a page.
    pub rings: u64,
    /// Descriptors of a queue.
    pub size: u16,
    /// Where buffers begin.
    pub buffers: u64,
    /// Bits of a descriptor's offset from there; beyond the memory is possible.
    pub address_mask: u32,
    /// Bits of a descriptor's length.
    pub len_mask: u32,
}

impl Layout {
    /// Writes `ring` as queue `index`.
    pub fn lay(&self, memory: &Arc<GuestMemory>, index: u16, ring: &Ring) -> DriverQueue {
        let at = self.rings + 0x1000 * u64::from(index);
        let queue = DriverQueue::new(memory, at, self.size);
        for (index, descriptor) in (0..self.size).zip(&ring.descriptors) {
            // Most buffers are whole, most chains end.
            let address = self.buffers + u64::from(descriptor.address & self.address_mask);
            let flags = u32::from(descriptor.flags & 7);
            let next = descriptor.next % (2 * self.size);
            queue.write_descriptor(index, address, descriptor.len & self.len_mask, flags, next);
        }
        for head in ring.heads.iter().take(self.size.into()) {
            queue.publish(u16::from(*head) % (self.size + 1));
        }
        queue.set_avail_idx(queue.avail_idx().wrapping_add(u16::from(ring.lie & 0x7f)));
        queue.set_used_event(ring.used_event);
        queue
    }
}
