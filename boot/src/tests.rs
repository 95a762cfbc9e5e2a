#![allow(clippy::unwrap_used, clippy::panic)]

use std::io::Write;

use vm_memory::{Bytes, GuestAddress};

use super::*;
use crate::test_utils::{ElfBuilder, KernelBuilder, memory, platform};

fn file(bytes: &[u8]) -> File {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(bytes).unwrap();
    file
}

fn payload<'a>(
    kernel: &'a mut File,
    initrd: Option<&'a mut File>,
    cmdline: &'a str,
) -> Payload<'a> {
    Payload {
        kernel,
        entry: Entry::default(),
        initrd,
        cmdline,
    }
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
        payload(
            &mut file(&KernelBuilder::default().build()),
            Some(&mut file(b"initrd")),
            "console=ttyS0",
        ),
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
fn a_vmlinux_finds_the_same_at_its_64_bit_entry() {
    let platform = platform(64);
    let memory = memory(&platform);
    let mut kernel = file(&ElfBuilder::default().build());
    let mut initrd = file(b"initrd");
    let cpu = load(
        &memory,
        &platform,
        payload(&mut kernel, Some(&mut initrd), "quiet"),
    )
    .unwrap();
    assert_eq!(cpu.rip, ElfBuilder::ENTRIES.0);
    let u32_at = |address| memory.read_obj::<u32>(GuestAddress(address)).unwrap();
    assert_eq!(read(&memory, cpu.rsi + 0x1fe, 2), [0x55, 0xaa]);
    assert_eq!(read(&memory, cpu.rsi + 0x202, 4), b"HdrS");
    assert_eq!(read(&memory, u32_at(cpu.rsi + 0x228).into(), 6), b"quiet\0");
    assert_eq!(read(&memory, u32_at(cpu.rsi + 0x218).into(), 6), b"initrd");
}

#[test]
fn a_vmlinux_finds_its_start_info_at_the_pvh_entry() {
    let platform = platform(64);
    let memory = memory(&platform);
    let mut kernel = file(&ElfBuilder::default().build());
    let mut initrd = file(b"initrd");
    let payload = Payload {
        entry: Entry::Pvh,
        ..payload(&mut kernel, Some(&mut initrd), "quiet")
    };
    let cpu = load(&memory, &platform, payload).unwrap();
    assert_eq!(cpu.rip, u64::from(ElfBuilder::ENTRIES.1));
    let u64_at = |address| memory.read_obj::<u64>(GuestAddress(address)).unwrap();
    assert_eq!(read(&memory, u64_at(cpu.rbx + 24), 6), b"quiet\0");
    assert_eq!(read(&memory, u64_at(u64_at(cpu.rbx + 16)), 6), b"initrd");
    assert_eq!(read(&memory, u64_at(cpu.rbx + 32), 8), b"RSD PTR ");
    // A segment register that the kernel reloads finds what it has: the code segment is of 32 bits.
    let code = u64_at(cpu.gdt.base + u64::from(cpu.cs.selector));
    assert_eq!(code, 0x00cf_9b00_0000_ffff);
}

#[test]
fn a_check_says_what_loading_would() {
    let platform = platform(64);
    let mut kernel = file(&KernelBuilder::default().build());
    let mut initrd = file(b"");
    assert!(check(&platform, payload(&mut kernel, None, "quiet")).is_ok());
    let refused = check(&platform, payload(&mut kernel, Some(&mut initrd), ""));
    assert!(matches!(refused, Err(Error::Initrd(initrd::Error::Empty))));
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
            payload(&mut file(kernel), Some(&mut file(initrd)), cmdline),
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
        payload(&mut file(&KernelBuilder::default().build()), None, ""),
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
        payload(&mut file(&KernelBuilder::default().build()), None, ""),
    )
    .unwrap_err();
    assert!(error.to_string().contains("0x1000000"), "{error}");
}
