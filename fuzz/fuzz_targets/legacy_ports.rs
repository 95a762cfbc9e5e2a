//! The ACPI registers, the keyboard controller's reset line, pvpanic and the watchdog: any accesses, each of which says at
//! most one thing of the guest.
#![no_main]

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use libfuzzer_sys::fuzz_target;
use minivmm_devices::legacy::{
    AcpiRegisters, GuestEnd, I8042, Panic, PvPanic, Watchdog, acpi, i8042, pvpanic, watchdog,
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
    let dog = Watchdog::new(Duration::from_secs(3600), true);
    for (port, access) in &accesses {
        let before = said.load(Ordering::Relaxed);
        match port % 4 {
            0 => access.run(&registers, acpi::SIZE),
            1 => access.run(&keyboard, i8042::SIZE),
            2 => access.run(&panic, pvpanic::SIZE),
            _ => access.run(&dog, watchdog::SIZE),
        };
        assert!(said.load(Ordering::Relaxed) <= before + 1);
    }
});
