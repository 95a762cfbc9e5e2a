//! Any file as a bzImage, with any length of initrd behind its first two bytes: it is refused, or the guest finds
//! everything.
#![no_main]

use libfuzzer_sys::fuzz_target;
use minivmm_boot::Entry;
use minivmm_fuzz::boot::boot;

fuzz_target!(|input: &[u8]| {
    let Some(([low, high], kernel)) = input.split_first_chunk() else {
        return;
    };
    let initrd = vec![0xab; u16::from_le_bytes([*low, *high]).into()];
    boot(kernel, &initrd, Entry::Linux64);
});
