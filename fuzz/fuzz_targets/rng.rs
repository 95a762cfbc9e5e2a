//! The entropy device on rings that the fuzzer wrote: it serves what is there, or says that it needs a reset.
#![no_main]

use std::{
    fs::File,
    sync::Arc,
    time::{Duration, Instant},
};

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use minivmm_devices::{
    pci::{MmioWindow, PciBus, Slot},
    test_utils::{DriverQueue, FakeHypervisor, PciDriver, guest_memory},
    virtio::{pci::VirtioPci, rng::Rng},
};
use vm_memory::{Bytes, GuestAddress};

const WINDOW: MmioWindow = MmioWindow {
    base: 0xc000_0000,
    size: 0x2_0000,
};
const MEMORY: usize = 0x1_0000;
const RINGS: u64 = 0x1000;

#[derive(Arbitrary, Debug)]
struct Descriptor {
    address: u32,
    len: u32,
    flags: u16,
    next: u16,
}

#[derive(Arbitrary, Debug)]
struct Round {
    event_idx: bool,
    descriptors: Vec<Descriptor>,
    heads: Vec<u16>,
    /// How far the available index is beyond the heads.
    lie: u8,
    used_event: u16,
}

fuzz_target!(|rounds: Vec<Round>| {
    let memory = guest_memory(MEMORY);
    let hypervisor = Arc::new(FakeHypervisor::default());
    let source = File::open("/dev/zero").expect("it exists");
    let device = VirtioPci::new(
        "fuzz",
        Box::new(Rng::new(source)),
        memory.clone(),
        hypervisor,
    )
    .expect("one queue is a device");
    let bus = PciBus::new(WINDOW);
    let slot = Slot::new(1).expect("there are 32");
    bus.add(slot, device.clone()).expect("there is room");
    let driver = PciDriver::new(&bus, slot, WINDOW.base);
    let deadline = Duration::from_secs(5);

    for round in rounds.iter().take(8) {
        let queue = DriverQueue::new(&memory, RINGS, 64);
        for (index, descriptor) in (0..64).zip(&round.descriptors) {
            let Descriptor {
                address,
                len,
                flags,
                next,
            } = *descriptor;
            queue.write_descriptor(
                index,
                u64::from(address & 0x1_ffff),
                len,
                flags.into(),
                next,
            );
        }
        for head in round.heads.iter().take(64) {
            queue.publish(*head);
        }
        queue.set_avail_idx(queue.avail_idx().wrapping_add(round.lie.into()));
        queue.set_used_event(round.used_event);
        let event_idx = u64::from(round.event_idx) << 29;
        assert!(driver.negotiate(1 << 32 | event_idx));
        driver.enable_queue(0, &queue);
        // It serves what is there before it waits for anything.
        assert!(driver.start());
        driver.notify_slowly(0);
        assert!(driver.reset(deadline), "the device does not come back");
        let used: u16 = memory
            .read_obj(GuestAddress(queue.used() + 2))
            .expect("it is memory");
        assert!(used <= 64 + u16::from(round.lie));
    }
    device
        .stop(Instant::now() + deadline)
        .expect("a device stops, whatever its guest did");
});
