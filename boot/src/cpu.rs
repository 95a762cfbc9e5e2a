//! The state in which the boot CPU enters the kernel: flat segments, interrupts off, and either 64-bit mode with paging
//! (boot.rst, "64-bit Boot Protocol") or 32-bit protected mode without (Xen, "x86/HVM direct boot ABI").

use vm_memory::GuestMemoryMmap;

use crate::Error;
use crate::layout::{BOOT_STACK, GDT, PML4, START_INFO, ZERO_PAGE};

// Intel SDM volume 3, 2.5 and 2.2.1; AMD64 APM volume 2, 3.1.
const CR0_PE: u64 = 1 << 0;
const CR0_ET: u64 = 1 << 4;
const CR0_NE: u64 = 1 << 5;
const CR0_PG: u64 = 1 << 31;
const CR4_PAE: u64 = 1 << 5;
const EFER_LME: u64 = 1 << 8;
const EFER_LMA: u64 = 1 << 10;
/// Bit 1 of RFLAGS is always one; interrupts are off.
const RFLAGS_RESERVED: u64 = 1 << 1;

/// The code segment selector that boot.rst calls `__BOOT_CS`.
const BOOT_CS: u16 = 0x10;
/// The data segment selector that boot.rst calls `__BOOT_DS`.
const BOOT_DS: u16 = 0x18;
/// The task state segment; a 64-bit descriptor of two slots.
const BOOT_TSS: u16 = 0x20;

/// A segment register with its hidden part, field by field as in a descriptor (Intel SDM volume 3, 3.4.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// The visible part.
    pub selector: u16,
    /// Base address.
    pub base: u64,
    /// Limit in bytes: the last valid offset, whatever `g` is.
    pub limit: u32,
    /// Type, 4 bits.
    pub type_: u8,
    /// Code or data, not a system segment.
    pub s: bool,
    /// Descriptor privilege level, 0 to 3.
    pub dpl: u8,
    /// Present.
    pub present: bool,
    /// 64-bit code.
    pub l: bool,
    /// Default operation size 32 bits.
    pub db: bool,
    /// Limit counted in pages of 4 KiB.
    pub g: bool,
}

impl Segment {
    /// The descriptor that loads this segment, without the upper half of a system segment's base.
    const fn descriptor(&self) -> u64 {
        let limit = if self.g { self.limit >> 12 } else { self.limit } as u64;
        let base = self.base;
        (limit & 0xffff)
            | (base & 0xff_ffff) << 16
            | (self.type_ as u64 & 0xf) << 40
            | (self.s as u64) << 44
            | (self.dpl as u64 & 3) << 45
            | (self.present as u64) << 47
            | (limit >> 16 & 0xf) << 48
            | (self.l as u64) << 53
            | (self.db as u64) << 54
            | (self.g as u64) << 55
            | (base >> 24 & 0xff) << 56
    }
}

/// Execute/read, accessed, 64-bit, 4 GiB.
const CODE_64: Segment = Segment {
    selector: BOOT_CS,
    base: 0,
    limit: u32::MAX,
    type_: 0xb,
    s: true,
    dpl: 0,
    present: true,
    l: true,
    db: false,
    g: true,
};

/// Execute/read, accessed, 32-bit, 4 GiB.
const CODE_32: Segment = Segment {
    l: false,
    db: true,
    ..CODE_64
};

/// Read/write, accessed, 4 GiB.
const DATA: Segment = Segment {
    selector: BOOT_DS,
    type_: 0x3,
    ..CODE_32
};

/// A busy TSS, of 64 bits or 32 alike: VM entry demands one (Intel SDM volume 3, 27.3.1.2), and so does PVH, with this
/// limit. Nothing ever reads it.
const TSS: Segment = Segment {
    selector: BOOT_TSS,
    limit: 0x67,
    type_: 0xb,
    s: false,
    l: false,
    g: false,
    ..CODE_64
};

/// GDTR or IDTR.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DescriptorTable {
    /// Address of the table.
    pub base: u64,
    /// Its last valid offset.
    pub limit: u16,
}

/// The registers of the boot CPU at the kernel's entry; all that are not here keep their reset values, general-purpose
/// registers zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BootCpu {
    /// The kernel's entry.
    pub rip: u64,
    /// At the 64-bit entry the address of the zero page, else zero.
    pub rsi: u64,
    /// At the PVH entry the address of `struct hvm_start_info`, else zero.
    pub rbx: u64,
    /// The end of a small stack.
    pub rsp: u64,
    /// Flags, interrupts off.
    pub rflags: u64,
    /// Protection on; at the 64-bit entry paging as well.
    pub cr0: u64,
    /// At the 64-bit entry the identity map of the first 4 GiB, else zero.
    pub cr3: u64,
    /// At the 64-bit entry physical address extension, else zero.
    pub cr4: u64,
    /// At the 64-bit entry long mode, enabled and active, else zero.
    pub efer: u64,
    /// The descriptor table that `cs`, `data` and `tr` come from.
    pub gdt: DescriptorTable,
    /// Empty: an exception before the kernel has its own table is a triple fault.
    pub idt: DescriptorTable,
    /// CS.
    pub cs: Segment,
    /// DS, ES, FS, GS and SS.
    pub data: Segment,
    /// TR.
    pub tr: Segment,
}

impl BootCpu {
    /// The state at `entry`, the 64-bit entry of a kernel in guest memory beside its tables.
    pub(crate) fn at_64bit_entry(entry: u64) -> Self {
        Self {
            rsi: ZERO_PAGE.start,
            cr0: CR0_PE | CR0_ET | CR0_NE | CR0_PG,
            cr3: PML4.start,
            cr4: CR4_PAE,
            efer: EFER_LME | EFER_LMA,
            ..Self::flat(entry, CODE_64)
        }
    }

    /// The state at `entry`, the PVH entry: all of CR0 that can be zero is, but for PE.
    pub(crate) fn at_pvh_entry(entry: u32) -> Self {
        Self {
            rbx: START_INFO.start,
            ..Self::flat(entry.into(), CODE_32)
        }
    }

    /// Protected mode with a stack and no paging, the code segment `cs`.
    fn flat(entry: u64, cs: Segment) -> Self {
        Self {
            rip: entry,
            rsi: 0,
            rbx: 0,
            rsp: BOOT_STACK.end(),
            rflags: RFLAGS_RESERVED,
            cr0: CR0_PE | CR0_ET,
            cr3: 0,
            cr4: 0,
            efer: 0,
            gdt: DescriptorTable {
                base: GDT.start,
                limit: GDT.size as u16 - 1,
            },
            idt: DescriptorTable { base: 0, limit: 0 },
            cs,
            data: DATA,
            tr: TSS,
        }
    }

    /// Writes the descriptor table of [`gdt`](Self::gdt): two null descriptors, code, data and the TSS.
    pub(crate) fn write_gdt(&self, memory: &GuestMemoryMmap) -> Result<(), Error> {
        let table: [u64; GDT.size as usize / 8] = [
            0,
            0,
            self.cs.descriptor(),
            self.data.descriptor(),
            self.tr.descriptor(),
            self.tr.base >> 32,
        ];
        let bytes: Vec<u8> = table.into_iter().flat_map(u64::to_le_bytes).collect();
        crate::write(memory, "the GDT", GDT.start, &bytes)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use vm_memory::{Bytes, GuestAddress};

    use super::*;
    use crate::test_utils::{memory, platform};

    #[test]
    fn the_descriptors_are_those_of_flat_segments() {
        let memory = memory(&platform(4));
        BootCpu::at_64bit_entry(0).write_gdt(&memory).unwrap();
        let descriptor = |selector: u16| -> u64 {
            memory
                .read_obj(GuestAddress(GDT.start + u64::from(selector)))
                .unwrap()
        };
        assert_eq!(descriptor(0), 0);
        assert_eq!(descriptor(BOOT_CS), 0x00af_9b00_0000_ffff);
        assert_eq!(descriptor(BOOT_DS), 0x00cf_9300_0000_ffff);
        assert_eq!(descriptor(BOOT_TSS), 0x0000_8b00_0000_0067);
        assert_eq!(descriptor(BOOT_TSS + 8), 0);
    }

    #[test]
    fn a_base_is_spread_over_the_descriptor() {
        let segment = Segment {
            base: 0x1234_5678,
            ..TSS
        };
        assert_eq!(segment.descriptor(), 0x1200_8b34_5678_0067);
    }

    #[test]
    fn the_selectors_are_those_of_the_boot_protocol_and_inside_the_table() {
        let cpu = BootCpu::at_64bit_entry(0x100_0200);
        assert_eq!((cpu.cs.selector, cpu.data.selector), (0x10, 0x18));
        assert_eq!(cpu.gdt.limit, 0x2f);
        assert!(cpu.tr.selector + 15 <= cpu.gdt.limit);
    }

    #[test]
    fn the_cpu_is_in_64_bit_mode_with_interrupts_off() {
        let cpu = BootCpu::at_64bit_entry(0x100_0200);
        assert_eq!(cpu.rip, 0x100_0200);
        assert_eq!(cpu.rsi, 0x7000);
        assert_eq!(cpu.cr0, 0x8000_0031);
        assert_eq!(cpu.cr3, 0x9000);
        assert_eq!(cpu.cr4, 0x20);
        assert_eq!(cpu.efer, 0x500);
        assert_eq!(cpu.rflags, 2);
        assert!(cpu.cs.l && !cpu.cs.db);
    }

    #[test]
    fn at_the_pvh_entry_the_cpu_is_in_32_bit_mode_without_paging() {
        let cpu = BootCpu::at_pvh_entry(0x100_0a30);
        assert_eq!((cpu.rip, cpu.rbx, cpu.rsi), (0x100_0a30, 0x6000, 0));
        assert_eq!(cpu.cr0, 0x11);
        assert_eq!((cpu.cr3, cpu.cr4, cpu.efer), (0, 0, 0));
        assert_eq!(cpu.rflags, 2);
        assert!(!cpu.cs.l && cpu.cs.db);
        for segment in [cpu.cs, cpu.data] {
            assert_eq!((segment.base, segment.limit), (0, u32::MAX));
        }
        assert_eq!((cpu.tr.type_, cpu.tr.limit), (0xb, 0x67));
    }
}
