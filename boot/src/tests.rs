#![allow(clippy::unwrap_used, clippy::panic)]

use std::io::Write;

use vm_memory::{Bytes, GuestAddress};

use super::*;
use crate::test_utils::{KernelBuilder, memory, platform};

fn file(bytes: &[u8]) -> File {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(bytes).unwrap();
    file
}

fn read(memory: &GuestMemoryMmap, address: u64, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    memory
        .read_slice(&mut bytes, GuestAddress(address))
        .unwrap();
    bytes
}

#[test]
fn a_loaded_guest_has_everything_where_the_boot_cpu_looks_for_it() {
    let platform = platform(64);
    let memory = memory(&platform);
    let cpu = load(
        &memory,
        &platform,
        &mut file(&KernelBuilder::default().build()),
        Some(&mut file(b"initrd")),
        "console=ttyS0",
    )
    .unwrap();

    assert_eq!(cpu.rip, (16 << 20) + 0x200);
    let code: Vec<u8> = (0x200..0x210).map(KernelBuilder::code_byte).collect();
    assert_eq!(read(&memory, cpu.rip, 16), code);

    let u32_at = |address| memory.read_obj::<u32>(GuestAddress(address)).unwrap();
    let zero_page = cpu.rsi;
    assert_eq!(read(&memory, zero_page + 0x202, 4), b"HdrS");
    assert_eq!(
        read(&memory, u32_at(zero_page + 0x228).into(), 14),
        b"console=ttyS0\0"
    );
    let initrd = (u32_at(zero_page + 0x218), u32_at(zero_page + 0x21c));
    assert_eq!(read(&memory, initrd.0.into(), initrd.1 as usize), b"initrd");
    assert_eq!(
        read(&memory, u32_at(zero_page + 0x70).into(), 8),
        b"RSD PTR "
    );
    assert_ne!(read(&memory, cpu.cr3, 8), [0; 8]);
    assert_ne!(read(&memory, cpu.gdt.base + 0x10, 8), [0; 8]);
}

#[test]
fn a_refused_guest_leaves_memory_untouched() {
    let platform = platform(64);
    let memory = memory(&platform);
    let kernel = KernelBuilder::default().build();
    let too_long = "x".repeat(2048);
    for (kernel, initrd, cmdline) in [
        (&b"\x7fELF"[..], &b"initrd"[..], "quiet"),
        (&kernel, b"", "quiet"),
        (&kernel, b"initrd", &too_long),
    ] {
        let loaded = load(
            &memory,
            &platform,
            &mut file(kernel),
            Some(&mut file(initrd)),
            cmdline,
        );
        assert!(loaded.is_err());
        assert!(read(&memory, 0, 64 << 20).iter().all(|&byte| byte == 0));
    }
}

#[test]
fn a_machine_too_small_for_the_kernel_is_told_how_much_memory_to_give() {
    let platform = platform(16);
    let error = load(
        &memory(&platform),
        &platform,
        &mut file(&KernelBuilder::default().build()),
        None,
        "",
    )
    .unwrap_err();
    assert!(
        error.to_string().contains("mem to at least 24 MiB"),
        "{error}"
    );
}

#[test]
fn memory_without_the_ram_that_the_platform_names_is_an_error() {
    let small = memory(&platform(4));
    let error = load(
        &small,
        &platform(64),
        &mut file(&KernelBuilder::default().build()),
        None,
        "",
    )
    .unwrap_err();
    assert!(error.to_string().contains("0x1000000"), "{error}");
}
