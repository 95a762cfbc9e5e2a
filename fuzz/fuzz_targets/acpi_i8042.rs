//! The ACPI registers and the keyboard controller's reset line: any accesses, none of which ends the guest but those
//! that say so.
#![no_main]

use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering},
};

use libfuzzer_sys::fuzz_target;
use minivmm_devices::legacy::{AcpiRegisters, GuestEnd, I8042, acpi, i8042};
use minivmm_fuzz::Access;

fuzz_target!(|accesses: Vec<(bool, Access)>| {
    let ends = Arc::new(AtomicU32::new(0));
    let seen = ends.clone();
    let on_end = Arc::new(move |_: GuestEnd| {
        seen.fetch_add(1, Ordering::Relaxed);
    });
    let registers = AcpiRegisters::new(on_end.clone());
    let keyboard = I8042::new(on_end);
    for (at_registers, access) in &accesses {
        if *at_registers {
            access.run(&registers, acpi::SIZE);
        } else {
            access.run(&keyboard, i8042::SIZE);
        }
    }
    assert!(ends.load(Ordering::Relaxed) as usize <= accesses.len());
});
