//! Who owns which address below 1 MiB, where the kernel is not: what the boot CPU's first instructions need, and the
//! ACPI and SMBIOS tables.
//!
//! Everything here but the tables and the reset vector is the guest's to overwrite once it has been read: the e820 map
//! calls it RAM.

/// A range of guest-physical addresses with one owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Region {
    /// Its first byte.
    pub start: u64,
    /// Its length in bytes.
    pub size: u64,
}

impl Region {
    /// The first address behind the region.
    pub const fn end(&self) -> u64 {
        self.start + self.size
    }
}

/// The boot CPU's global descriptor table, six descriptors: behind the interrupt vectors and the BIOS data area of a PC,
/// both of which stay zero (Linux reads two words of the latter, at 0x40e and 0x413, and takes zero for "not there").
pub const GDT: Region = Region {
    start: 0x500,
    size: 6 * 8,
};

/// `struct hvm_start_info` with its module list and memory map, for a kernel that is entered by PVH.
pub const START_INFO: Region = Region {
    start: 0x6000,
    size: 0x1000,
};

/// `struct boot_params`, "the zero page" (boot.rst, "64-bit Boot Protocol").
pub const ZERO_PAGE: Region = Region {
    start: 0x7000,
    size: 0x1000,
};

/// The boot CPU's stack, growing down from its end. The 64-bit entry sets up its own; this one is there for a kernel
/// that pushes before it has.
pub const BOOT_STACK: Region = Region {
    start: 0x8000,
    size: 0x1000,
};

/// The page-map level-4 table of the identity map.
pub const PML4: Region = Region {
    start: 0x9000,
    size: 0x1000,
};

/// The page-directory-pointer table, its one entry's target.
pub const PDPT: Region = Region {
    start: 0xa000,
    size: 0x1000,
};

/// Four page directories, each mapping 1 GiB in 2 MiB pages.
pub const PAGE_DIRECTORIES: Region = Region {
    start: 0xb000,
    size: 0x4000,
};

/// The command line with its NUL. Kernels take far less: 2047 bytes (`COMMAND_LINE_SIZE` of x86) at the time of
/// writing.
pub const CMDLINE: Region = Region {
    start: 0x2_0000,
    size: 0x1_0000,
};

/// The SMBIOS structures, page-aligned. On a PC this is video memory and option ROMs: RAM here is nothing that a guest
/// would miss.
pub const SMBIOS: Region = Region {
    start: 0xa_0000,
    size: 240 << 10,
};

/// The RSDP and all tables behind it: where an operating system without another hint searches for the RSDP, in steps
/// of 16 bytes (ACPI 6.5, 5.2.5.1), although Linux is told its address in the zero page.
pub const ACPI: Region = Region {
    start: 0xe_0000,
    size: SMBIOS_ENTRY_POINT.start - 0xe_0000,
};

/// The 64-bit entry point of the SMBIOS tables: where an operating system without EFI searches for it, in steps of 16 bytes
/// from 0xf0000 on (SMBIOS 3.7, 5.2).
pub const SMBIOS_ENTRY_POINT: Region = Region {
    start: 0xf_0000,
    size: 0x18,
};

/// Where a CPU in real mode goes for a reset, F000:FFF0.
pub const RESET_VECTOR: Region = Region {
    start: 0xf_fff0,
    size: 0x10,
};

/// The end of low RAM in the e820 map, where a PC's extended BIOS data area begins. Up to [`HIGH_RAM_START`] the map
/// says "reserved".
pub const EBDA_START: u64 = 0x9_fc00;

/// 1 MiB: kernel and initrd are loaded at or above it.
pub const HIGH_RAM_START: u64 = 0x10_0000;

/// The smallest RAM that holds what is here and leaves anything above 1 MiB. What a kernel needs is far more; its
/// image says how much.
pub const MIN_RAM: u64 = 2 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [(&str, Region); 12] = [
        ("SMBIOS", SMBIOS),
        ("SMBIOS entry point", SMBIOS_ENTRY_POINT),
        ("start info", START_INFO),
        ("reset vector", RESET_VECTOR),
        ("GDT", GDT),
        ("zero page", ZERO_PAGE),
        ("boot stack", BOOT_STACK),
        ("PML4", PML4),
        ("PDPT", PDPT),
        ("page directories", PAGE_DIRECTORIES),
        ("command line", CMDLINE),
        ("ACPI", ACPI),
    ];

    #[test]
    fn no_two_regions_overlap() {
        for (i, (name, region)) in ALL.iter().enumerate() {
            for (other_name, other) in &ALL[i + 1..] {
                assert!(
                    region.end() <= other.start || other.end() <= region.start,
                    "{name} overlaps {other_name}"
                );
            }
        }
    }

    #[test]
    fn every_region_lies_behind_the_bios_data_area_and_below_1_mib() {
        for (name, region) in ALL {
            assert!(region.start >= 0x500, "{name}");
            assert!(region.end() <= HIGH_RAM_START, "{name}");
        }
    }

    #[test]
    fn what_the_guest_reads_at_any_time_is_in_reserved_memory_and_nothing_else_is() {
        let kept = [ACPI, SMBIOS, SMBIOS_ENTRY_POINT, RESET_VECTOR];
        for (name, region) in ALL {
            assert_eq!(kept.contains(&region), region.end() > EBDA_START, "{name}");
            assert_eq!(kept.contains(&region), region.start >= EBDA_START, "{name}");
        }
    }

    #[test]
    fn entry_points_are_where_guests_search_for_them() {
        assert_eq!(ACPI.start, 0xe_0000);
        assert_eq!(SMBIOS_ENTRY_POINT.start % 16, 0);
        assert!((0xf_0000..0x10_0000).contains(&SMBIOS_ENTRY_POINT.start));
    }

    #[test]
    fn what_must_be_page_aligned_is() {
        for region in [ZERO_PAGE, PML4, PDPT, PAGE_DIRECTORIES, SMBIOS] {
            assert_eq!(region.start % 0x1000, 0);
        }
    }
}
