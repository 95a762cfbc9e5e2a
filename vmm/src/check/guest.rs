//! The tiny guest: 64-bit code without an operating system, and the memory that it runs in.
#![allow(unsafe_code)]

use std::arch::global_asm;

use kvm_bindings::kvm_segment;
use kvm_ioctls::VcpuFd;
use minivmm_devices::GuestMemory;
use vm_memory::{Bytes, GuestAddress, GuestMemoryError};

/// Bytes of the guest's memory.
pub const MEMORY: u64 = 0x20_0000;
/// The guest writes the number of each step that it has passed to this port.
pub const REPORT_PORT: u16 = 0xF4;
/// Instructions of the counted loop: two in each round.
pub const LOOP_INSTRUCTIONS: u64 = 2 * LOOP_ROUNDS;

const LOOP_ROUNDS: u64 = 20_000_000;

const GDT: u64 = 0x500;
const PML4: u64 = 0x1000;
const PDPT: u64 = 0x2000;
const PAGE_DIRECTORY: u64 = 0x3000;
const DATA: u64 = 0x4000;
const XSAVE_AREA: u64 = 0x5000;
const CODE: u64 = 0x8000;

/// Selectors, in the order that SYSCALL and SYSRET demand (AMD APM volume 2, 6.1.1): kernel code, kernel
/// data, then user data, user code.
const DESCRIPTORS: [u64; 5] = [
    0,
    0x00AF_9B00_0000_FFFF,
    0x00CF_9300_0000_FFFF,
    0x00CF_F300_0000_FFFF,
    0x00AF_FB00_0000_FFFF,
];

global_asm!(
    ".pushsection .rodata.minivmm_check_guest, \"a\"",
    ".global minivmm_check_guest_start",
    ".global minivmm_check_guest_end",
    "minivmm_check_guest_start:",
    "mov al, 1",
    "out {port}, al",
    // 1:2 in memory equals rdx:rax, so rcx:rbx replaces it.
    "mov rsi, {data}",
    "mov qword ptr [rsi], 1",
    "mov qword ptr [rsi + 8], 2",
    "mov eax, 1",
    "mov edx, 2",
    "mov ebx, 3",
    "mov ecx, 4",
    "lock cmpxchg16b [rsi]",
    "jnz 9f",
    "cmp qword ptr [rsi], 3",
    "jne 9f",
    "cmp qword ptr [rsi + 8], 4",
    "jne 9f",
    "mov al, 2",
    "out {port}, al",
    // xmm0 survives xsave, a change and xrstor.
    "mov rbx, 0x1122334455667788",
    "movq xmm0, rbx",
    "mov rsi, {xsave}",
    "mov eax, 3",
    "xor edx, edx",
    "xsave [rsi]",
    "pxor xmm0, xmm0",
    "xrstor [rsi]",
    "movq rax, xmm0",
    "cmp rax, rbx",
    "jne 9f",
    "mov al, 3",
    "out {port}, al",
    // STAR, LSTAR, FMASK, EFER.SCE, then to user mode and back.
    "mov ecx, 0xC0000081",
    "xor eax, eax",
    "mov edx, 0x00100008",
    "wrmsr",
    "mov ecx, 0xC0000082",
    "lea rax, [rip + 2f]",
    "xor edx, edx",
    "wrmsr",
    "mov ecx, 0xC0000084",
    "xor eax, eax",
    "wrmsr",
    "mov ecx, 0xC0000080",
    "rdmsr",
    "or eax, 1",
    "wrmsr",
    "lea rcx, [rip + 3f]",
    "mov r11d, 2",
    "sysretq",
    "3:",
    "mov eax, cs",
    "and eax, 3",
    "cmp eax, 3",
    "jne 4f",
    "syscall",
    "4:",
    "ud2",
    "2:",
    "mov eax, cs",
    "and eax, 3",
    "jnz 9f",
    "mov al, 4",
    "out {port}, al",
    "mov ecx, {rounds}",
    "5:",
    "dec ecx",
    "jnz 5b",
    "mov al, 5",
    "out {port}, al",
    "hlt",
    "9:",
    "mov al, 0xFF",
    "out {port}, al",
    "hlt",
    "minivmm_check_guest_end:",
    ".popsection",
    port = const REPORT_PORT,
    data = const DATA,
    xsave = const XSAVE_AREA,
    rounds = const LOOP_ROUNDS,
);

unsafe extern "C" {
    static minivmm_check_guest_start: u8;
    static minivmm_check_guest_end: u8;
}

fn code() -> &'static [u8] {
    // SAFETY: both symbols are defined above, in one read-only section and in this order.
    unsafe {
        let start = &raw const minivmm_check_guest_start;
        let end = &raw const minivmm_check_guest_end;
        std::slice::from_raw_parts(start, end.offset_from_unsigned(start))
    }
}

/// Writes descriptors, page tables and code.
pub fn load(memory: &GuestMemory) -> Result<(), GuestMemoryError> {
    for (n, descriptor) in (0u64..).zip(DESCRIPTORS) {
        memory.write_obj(descriptor, GuestAddress(GDT + 8 * n))?;
    }
    // Present, writable, for user mode too; the last one maps 2 MiB.
    memory.write_obj(PDPT | 0x7, GuestAddress(PML4))?;
    memory.write_obj(PAGE_DIRECTORY | 0x7, GuestAddress(PDPT))?;
    memory.write_obj(0x87u64, GuestAddress(PAGE_DIRECTORY))?;
    memory.write_slice(code(), GuestAddress(CODE))
}

/// Long mode with paging, at the first instruction.
pub fn set_registers(vcpu: &VcpuFd) -> Result<(), kvm_ioctls::Error> {
    let mut sregs = vcpu.get_sregs()?;
    sregs.cr0 = 0x8000_0033; // PG, NE, ET, MP, PE
    sregs.cr3 = PML4;
    sregs.cr4 = 0x4_0620; // OSXSAVE, OSXMMEXCPT, OSFXSR, PAE
    sregs.efer = 0x500; // LMA, LME
    sregs.gdt.base = GDT;
    sregs.gdt.limit = (8 * DESCRIPTORS.len() - 1) as u16;
    sregs.cs = segment(0x8, 0xB, true);
    let data = segment(0x10, 0x3, false);
    (sregs.ds, sregs.es, sregs.ss) = (data, data, data);
    vcpu.set_sregs(&sregs)?;
    // x87 and SSE state. Set from here and not by the guest's XSETBV, because QEMU's software CPU lets a
    // nested guest's XSETBV pass by the KVM that it runs under, which then loads its own idea of XCR0.
    let mut xcrs = vcpu.get_xcrs()?;
    xcrs.nr_xcrs = 1;
    (xcrs.xcrs[0].xcr, xcrs.xcrs[0].value) = (0, 3);
    vcpu.set_xcrs(&xcrs)?;
    let mut regs = vcpu.get_regs()?;
    regs.rip = CODE;
    regs.rflags = 2;
    regs.rsp = CODE;
    vcpu.set_regs(&regs)
}

fn segment(selector: u16, type_: u8, long: bool) -> kvm_segment {
    kvm_segment {
        base: 0,
        limit: u32::MAX,
        selector,
        type_,
        present: 1,
        dpl: 0,
        db: u8::from(!long),
        s: 1,
        l: u8::from(long),
        g: 1,
        ..Default::default()
    }
}
