//! The ACPI registers, the keyboard controller's reset line and pvpanic: any accesses, each of which says at most one
//! thing of the guest.
#![no_main]

use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering},
};

use libfuzzer_sys::fuzz_target;
use minivmm_devices::legacy::{
    AcpiRegisters, GuestEnd, I8042, Panic, PvPanic, acpi, i8042, pvpanic,
};
use minivmm_fuzz::Access;

fuzz_target!(|accesses: Vec<(u8, Access)>| {
    let said = Arc::new(AtomicU32::new(0));
    let count = said.clone();
    let on_end = Arc::new(move |_: GuestEnd| {
        count.fetch_add(1, Ordering::Relaxed);
    });
    let count = said.clone();
    let on_panic = Arc::new(move |_: Panic| {
        count.fetch_add(1, Ordering::Relaxed);
    });
    let registers = AcpiRegisters::new(on_end.clone());
    let keyboard = I8042::new(on_end);
    let panic = PvPanic::new(on_panic);
    for (port, access) in &accesses {
        let before = said.load(Ordering::Relaxed);
        match port % 3 {
            0 => access.run(&registers, acpi::SIZE),
            1 => access.run(&keyboard, i8042::SIZE),
            _ => access.run(&panic, pvpanic::SIZE),
        };
        assert!(said.load(Ordering::Relaxed) <= before + 1);
    }
});
