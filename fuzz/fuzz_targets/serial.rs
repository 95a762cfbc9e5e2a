//! The serial port: any accesses by the guest, any input by its owner.
#![no_main]

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use minivmm_devices::{
    console::{ConsoleSink, Output},
    legacy::{Serial, serial},
};
use minivmm_fuzz::Access;
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

#[derive(Arbitrary, Debug)]
enum Step {
    Access(Access),
    Input(Vec<u8>),
}

fuzz_target!(|steps: Vec<Step>| {
    let event = || EventFd::new(EFD_NONBLOCK).expect("a descriptor is free");
    let sink = ConsoleSink::new().expect("a descriptor is free");
    let serial = Serial::new(event(), sink.clone()).signal_drained(event());
    let mut accesses = 0;
    for step in steps {
        match step {
            Step::Access(access) => {
                access.run(&serial, serial::SIZE);
                accesses += 1;
            }
            Step::Input(bytes) => assert!(serial.enqueue(&bytes) <= bytes.len()),
        }
    }
    let mut output = Output::default();
    sink.take(&mut output);
    assert!(output.bytes().len() <= accesses);
});
