//! The real-time clock: any accesses at any time, after which it still shows a time.
#![no_main]

use std::time::{Duration, UNIX_EPOCH};

use libfuzzer_sys::fuzz_target;
use minivmm_devices::{
    bus::BusDevice,
    legacy::{Rtc, rtc},
};
use minivmm_fuzz::Access;

fuzz_target!(|input: (u64, u32, Vec<Access>)| {
    let (seconds, nanoseconds, accesses) = input;
    // As far as the host's own clock can go.
    let since = Duration::from_secs(seconds >> 2) + Duration::from_nanos(nanoseconds.into());
    let clock = Rtc::new(move || UNIX_EPOCH.checked_add(since).unwrap_or(UNIX_EPOCH));
    for access in &accesses {
        access.run(&clock, rtc::SIZE);
    }
    let register = |index: u8| {
        clock.write(0, &[index]);
        let mut data = [0];
        clock.read(1, &mut data);
        data[0]
    };
    // Binary, 24 hours.
    clock.write(0, &[0x0b]);
    clock.write(1, &[6]);
    assert!(register(0) < 60 && register(2) < 60 && register(4) < 24);
    assert!((1..=7).contains(&register(6)) && (1..=31).contains(&register(7)));
    assert!((1..=12).contains(&register(8)) && register(9) < 100);
    assert!((19..100).contains(&register(rtc::CENTURY)));
    assert_eq!(register(0x0d), 0x80);
});
