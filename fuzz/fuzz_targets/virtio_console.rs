//! The console on rings that the fuzzer wrote, while somebody types: it serves what is there, or says that it needs a
//! reset, and keeps no more than it may.
#![no_main]

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use minivmm_devices::{
    console::{ConsoleInput, ConsoleSink, Output, sink},
    virtio::Console,
};
use minivmm_fuzz::virtio::{Layout, Machine, Ring, VERSION_1};

const MEMORY: usize = 0x1_0000;
const RECEIVE: Layout = Layout {
    rings: 0x1000,
    size: 16,
    buffers: 0,
    // Twice the memory, and any length.
    address_mask: 0x1_ffff,
    len_mask: u32::MAX,
};
const TRANSMIT: Layout = Layout {
    rings: 0x2000,
    size: 64,
    ..RECEIVE
};

#[derive(Arbitrary, Debug)]
struct Round {
    event_idx: bool,
    receive: Ring,
    transmit: Ring,
    typed: Vec<u8>,
}

fuzz_target!(|rounds: Vec<Round>| {
    let sink = ConsoleSink::new().expect("a descriptor is free");
    let input = ConsoleInput::new().expect("a descriptor is free");
    let machine = Machine::new(MEMORY, Console::new(sink.clone(), input.clone()));
    let driver = &machine.driver;
    for round in rounds.iter().take(8) {
        let receive = RECEIVE.lay(&machine.memory, 0, &round.receive);
        let transmit = TRANSMIT.lay(&machine.memory, 0, &round.transmit);
        let event_idx = u64::from(round.event_idx) << 29;
        assert!(driver.negotiate(VERSION_1 | event_idx));
        driver.enable_queue(0, &receive);
        driver.enable_queue(1, &transmit);
        input.push(&round.typed);
        // It serves what is there before it waits for anything.
        assert!(driver.start());
        input.push(&round.typed);
        driver.notify_slowly(0);
        driver.notify_slowly(1);
        machine.reset();
    }
    machine.stop();
    let mut output = Output::default();
    sink.take(&mut output);
    assert!(output.bytes().len() <= sink::CAPACITY);
});
