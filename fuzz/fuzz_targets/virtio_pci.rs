//! A virtio device on PCI, by whatever order of accesses: configuration space, common configuration, MSI-X, rings
//! anywhere, notifications, resets, BAR moves.
//!
//! The fake hypervisor asserts that what is attached is detached; a device that does not stop is a finding, too.
#![no_main]

use std::fs::File;

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use minivmm_devices::virtio::rng::Rng;
use minivmm_fuzz::{
    Access,
    virtio::{Machine, VERSION_1, WINDOW},
};
use vm_memory::{Bytes, GuestAddress};

const MEMORY: usize = 0x1_0000;

#[derive(Arbitrary, Debug)]
enum Step {
    Config(Access),
    Window(Access),
    /// A register of the common configuration, at its width.
    Common {
        register: u8,
        value: u64,
    },
    /// A field of an MSI-X table entry.
    Vector {
        vector: u8,
        field: u8,
        value: u32,
    },
    MsixControl(u16),
    Memory {
        at: u16,
        value: u64,
    },
    Notify(u8),
    Move(u8),
    /// What an honest driver does, with one queue wherever.
    Start {
        features: u64,
        desc: u16,
        avail: u16,
        used: u16,
    },
    Reset,
}

/// Offset and width of every register that is written.
const REGISTERS: [(u64, usize); 15] = [
    (0x00, 4),
    (0x08, 4),
    (0x0c, 4),
    (0x10, 2),
    (0x14, 1),
    (0x16, 2),
    (0x18, 2),
    (0x1a, 2),
    (0x1c, 2),
    (0x20, 8),
    (0x28, 8),
    (0x30, 8),
    (0x20, 4),
    (0x28, 4),
    (0x30, 4),
];

fuzz_target!(|steps: Vec<Step>| {
    let source = File::open("/dev/zero").expect("it exists");
    let mut machine = Machine::new(MEMORY, Rng::new(source));
    let (driver, bus) = (&mut machine.driver, &machine.bus);
    let (memory, hypervisor) = (&machine.memory, &machine.hypervisor);
    let (ecam, window) = (bus.ecam(), bus.window());
    let msix = driver.capabilities(0x11)[0];

    // Each activation is a thread: some dozens are as good as thousands.
    for step in steps.iter().take(64) {
        match *step {
            Step::Config(access) => access.run_at(&*ecam, 1 << 15, 0x1000),
            Step::Window(access) => {
                access.run(&*window, WINDOW.size);
            }
            Step::Common { register, value } => {
                let (offset, width) = REGISTERS[usize::from(register) % REGISTERS.len()];
                driver.write_common(offset, &value.to_le_bytes()[..width]);
            }
            Step::Vector {
                vector,
                field,
                value,
            } => {
                let at = 0x4000 + 16 * u64::from(vector % 4) + 4 * u64::from(field % 4);
                driver.write_bar(at, &value.to_le_bytes());
            }
            Step::MsixControl(value) => driver.write_config(msix + 2, &value.to_le_bytes()),
            Step::Memory { at, value } => {
                // A write over the end is none.
                let _ = memory.write_obj(value, GuestAddress(at.into()));
            }
            Step::Notify(queue) => {
                let address = driver.notify_address(u16::from(queue % 2));
                if !hypervisor.notify(address) {
                    driver.notify_slowly(u16::from(queue % 2));
                }
            }
            Step::Move(page) => driver.move_bar(WINDOW.base as u32 + (u32::from(page) << 12)),
            Step::Start {
                features,
                desc,
                avail,
                used,
            } => {
                driver.negotiate(VERSION_1 | features);
                driver.write_common(0x16, &[0, 0]);
                for (offset, address) in [(0x20, desc & !15), (0x28, avail & !1), (0x30, used & !3)]
                {
                    driver.write_common(offset, &u64::from(address).to_le_bytes());
                }
                driver.write_common(0x1c, &[1, 0]);
                driver.start();
            }
            Step::Reset => driver.write_common(0x14, &[0]),
        }
    }
    machine.stop();
});
