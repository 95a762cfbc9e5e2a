//! The state in which the boot CPU enters the kernel: 64-bit mode, flat segments, paging on, interrupts off (boot.rst,
//! "64-bit Boot Protocol").

use vm_memory::GuestMemoryMmap;

use crate::Error;
use crate::layout::{BOOT_STACK, GDT, PML4, ZERO_PAGE};

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
const CODE: Segment = Segment {
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

/// Read/write, accessed, 4 GiB.
const DATA: Segment = Segment {
    selector: BOOT_DS,
    type_: 0x3,
    l: false,
    db: true,
    ..CODE
};

/// A busy 64-bit TSS: VM entry into 64-bit mode demands one (Intel SDM volume 3, 27.3.1.2), nothing ever reads it.
const TSS: Segment = Segment {
    selector: BOOT_TSS,
    limit: 0x67,
    type_: 0xb,
    s: false,
    l: false,
    g: false,
    ..CODE
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
    /// The kernel's 64-bit entry.
    pub rip: u64,
    /// The address of the zero page.
    pub rsi: u64,
    /// The end of a small stack.
    pub rsp: u64,
    /// Flags, interrupts off.
    pub rflags: u64,
    /// Protection and paging on.
    pub cr0: u64,
    /// The identity map of the first 4 GiB.
    pub cr3: u64,
    /// Physical address extension.
    pub cr4: u64,
    /// Long mode enabled and active.
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
            rip: entry,
            rsi: ZERO_PAGE.start,
            rsp: BOOT_STACK.end(),
            rflags: RFLAGS_RESERVED,
            cr0: CR0_PE | CR0_ET | CR0_NE | CR0_PG,
            cr3: PML4.start,
            cr4: CR4_PAE,
            efer: EFER_LME | EFER_LMA,
            gdt: DescriptorTable {
                base: GDT.start,
                limit: GDT.size as u16 - 1,
            },
            idt: DescriptorTable { base: 0, limit: 0 },
            cs: CODE,
            data: DATA,
            tr: TSS,
        }
    }
}

/// Writes the descriptor table of [`BootCpu::gdt`]: two null descriptors, code, data and the TSS.
pub(crate) fn write_gdt(memory: &GuestMemoryMmap) -> Result<(), Error> {
    const TABLE: [u64; GDT.size as usize / 8] = [
        0,
        0,
        CODE.descriptor(),
        DATA.descriptor(),
        TSS.descriptor(),
        TSS.base >> 32,
    ];
    let bytes: Vec<u8> = TABLE.into_iter().flat_map(u64::to_le_bytes).collect();
    crate::write(memory, "the GDT", GDT.start, &bytes)
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
        write_gdt(&memory).unwrap();
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
}
