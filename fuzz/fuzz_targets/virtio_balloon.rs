//! The balloon on rings that the fuzzer wrote, with lists of pages and statistics of its making, while somebody wants
//! something of it: it serves what is there, or says that it needs a reset, answers whoever asks, and gives back no more
//! than there is.
#![no_main]

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use minivmm_devices::virtio::balloon::{Balloon, BalloonOptions, PAGE};
use minivmm_fuzz::virtio::{Layout, Machine, Ring, VERSION_1};
use vm_memory::{Bytes, GuestAddress};

const MEMORY: usize = 0x4_0000;
const QUEUES: u16 = 5;
const LAYOUT: Layout = Layout {
    rings: 0x1000,
    size: 16,
    buffers: 0,
    // Twice the memory, and any length.
    address_mask: 0x7_ffff,
    len_mask: u32::MAX,
};
/// Where lists and statistics are, when rings are in order.
const LIST: u64 = 0x8000;

#[derive(Arbitrary, Debug)]
struct Round {
    event_idx: bool,
    /// As they are in the feature register.
    features: u8,
    /// Which queues the driver does not enable.
    left_out: u8,
    rings: [Ring; QUEUES as usize],
    /// A request of the first queue whose ring is in order, and the statistics: instead of what the fuzzer wrote.
    list: Option<Vec<u32>>,
    /// What the driver writes into the configuration space.
    config: [u8; 16],
    target: u32,
}

fuzz_target!(|rounds: Vec<Round>| {
    let device = Balloon::new(BalloonOptions {
        memory: MEMORY as u64,
        size: 0,
        deflate_on_oom: true,
        free_page_reporting: true,
        statistics: true,
    })
    .expect("a descriptor is free");
    let control = device.control();
    let told = Arc::new(AtomicUsize::new(0));
    let mut asked = 0;
    let machine = Machine::new(MEMORY, device);
    let driver = &machine.driver;
    for round in rounds.iter().take(4) {
        let event_idx = u64::from(round.event_idx) << 29;
        // Those that are offered.
        let features = u64::from(round.features) & driver.device_features();
        assert!(driver.negotiate(VERSION_1 | event_idx | features));
        driver.write_device(0, &round.config);
        let mut queues: Vec<_> = (0..QUEUES)
            .zip(&round.rings)
            .map(|(index, ring)| LAYOUT.lay(&machine.memory, index, ring))
            .collect();
        if let Some(list) = &round.list {
            let bytes: Vec<u8> = list
                .iter()
                .take(256)
                .flat_map(|page| (page % 0x100).to_le_bytes())
                .collect();
            machine
                .memory
                .write_slice(&bytes, GuestAddress(LIST))
                .expect("it is memory");
            for index in [0, 2] {
                queues[index] = LAYOUT.lay(&machine.memory, index as u16, &Ring::default());
                queues[index].add(&[(LIST, bytes.len() as u32)], &[]);
            }
        }
        for (index, queue) in (0..QUEUES).zip(&queues) {
            if round.left_out >> index & 1 == 0 {
                driver.enable_queue(index, queue);
            }
        }
        let mut ask = || {
            let told = told.clone();
            control.ask(Box::new(move |state| {
                assert!(state.size <= MEMORY as u64 && state.target <= MEMORY as u64);
                told.fetch_add(1, Ordering::Relaxed);
            }));
            asked += 1;
        };
        ask();
        // It serves what is there before it waits for anything.
        driver.start();
        control.set_target(round.target.into());
        ask();
        for index in 0..QUEUES {
            driver.notify_slowly(index);
        }
        machine.reset();
        assert_eq!(told.load(Ordering::Relaxed), asked, "somebody waits");
        let state = control.state();
        assert_eq!((state.size, state.statistics), (0, None));
        assert!(state.inflated.is_multiple_of(PAGE) && state.reported.is_multiple_of(PAGE));
    }
    machine.stop();
});
