//! Any file as a vmlinux, by both of its entries: it is refused, or the guest finds everything.
#![no_main]

use libfuzzer_sys::fuzz_target;
use minivmm_boot::Entry;
use minivmm_fuzz::boot::boot;

fuzz_target!(|kernel: &[u8]| {
    for entry in [Entry::Linux64, Entry::Pvh] {
        boot(kernel, b"initrd", entry);
    }
});
