//! The entropy device on rings that the fuzzer wrote: it serves what is there, or says that it needs a reset.
#![no_main]

use std::fs::File;

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use minivmm_devices::virtio::rng::Rng;
use minivmm_fuzz::virtio::{Layout, Machine, Ring, VERSION_1};
use vm_memory::{Bytes, GuestAddress};

const MEMORY: usize = 0x1_0000;
const LAYOUT: Layout = Layout {
    rings: 0x1000,
    size: 64,
    buffers: 0,
    // Twice the memory, and any length.
    address_mask: 0x1_ffff,
    len_mask: u32::MAX,
};

#[derive(Arbitrary, Debug)]
struct Round {
    event_idx: bool,
    ring: Ring,
}

fuzz_target!(|rounds: Vec<Round>| {
    let source = File::open("/dev/zero").expect("it exists");
    let machine = Machine::new(MEMORY, Rng::new(source));
    let driver = &machine.driver;
    for round in rounds.iter().take(8) {
        let queue = LAYOUT.lay(&machine.memory, 0, &round.ring);
        // Taken now: the device may be told to write over it.
        let published = queue.avail_idx();
        let event_idx = u64::from(round.event_idx) << 29;
        assert!(driver.negotiate(VERSION_1 | event_idx));
        driver.enable_queue(0, &queue);
        // It serves what is there before it waits for anything.
        assert!(driver.start());
        driver.notify_slowly(0);
        machine.reset();
        let used: u16 = machine
            .memory
            .read_obj(GuestAddress(queue.used() + 2))
            .expect("it is memory");
        assert!(used <= published);
    }
    machine.stop();
});
