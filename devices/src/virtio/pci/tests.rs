#![allow(clippy::unwrap_used, clippy::panic)]

mod bars;
mod config;
mod device;
mod life;
mod model;
mod registers;

use std::sync::Arc;

use virtio_bindings::virtio_config::VIRTIO_F_VERSION_1;

use self::device::{Control, Echo};
use super::*;
use crate::{
    pci::{MmioWindow, PciBus, Slot},
    test_utils::{DriverQueue, FakeHypervisor, PciDriver, guest_memory},
};

const VERSION_1: u64 = 1 << VIRTIO_F_VERSION_1;
const WINDOW: MmioWindow = MmioWindow {
    base: 0xe000_0000,
    size: 0x10_0000,
};
const RAM: usize = 0x10_0000;
const BUFFER: u64 = 0x8_0000;

/// An echo device in slot 1 and its driver.
struct Fixture {
    memory: Arc<GuestMemory>,
    hypervisor: Arc<FakeHypervisor>,
    function: Arc<VirtioPci>,
    control: Arc<Control>,
    driver: PciDriver,
    bus: PciBus,
}

fn fixture() -> Fixture {
    let memory = guest_memory(RAM);
    let hypervisor = Arc::new(FakeHypervisor::default());
    let control = Arc::new(Control::default());
    let device = Box::new(Echo::new(control.clone()));
    let function = VirtioPci::new("echo", device, memory.clone(), hypervisor.clone()).unwrap();
    let bus = PciBus::new(WINDOW);
    let slot = Slot::new(1).unwrap();
    bus.add(slot, function.clone()).unwrap();
    Fixture {
        driver: PciDriver::new(&bus, slot, WINDOW.base),
        memory,
        hypervisor,
        function,
        control,
        bus,
    }
}

impl Fixture {
    /// Rings for queue `index` of 8 entries.
    fn rings(&self, index: u16) -> DriverQueue {
        DriverQueue::new(&self.memory, 0x1000 * (u64::from(index) + 1), 8)
    }

    /// From reset to DRIVER_OK, with both queues.
    fn start(&self) -> [DriverQueue; 2] {
        assert!(self.driver.negotiate(VERSION_1));
        let queues = [0, 1].map(|index| {
            let rings = self.rings(index);
            self.driver.enable_queue(index, &rings);
            rings
        });
        assert!(self.driver.start());
        queues
    }
}
