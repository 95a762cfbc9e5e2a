//! `struct hvm_start_info`: what the kernel learns at its PVH entry (Xen, `public/arch-x86/hvm/start_info.h`).

use linux_loader::loader::elf::start_info::{
    XEN_HVM_START_MAGIC_VALUE, hvm_memmap_table_entry, hvm_modlist_entry, hvm_start_info,
};
use vm_memory::{ByteValued, GuestMemoryMmap};

use crate::initrd::InitrdRange;
use crate::layout::{CMDLINE, START_INFO};
use crate::platform::Platform;
use crate::{Error, e820};

/// Version 1 brought the memory map.
const VERSION: u32 = 1;

// The three parts of the region, each at a multiple of 8.
const MODULES: u64 = START_INFO.start + 0x40;
const MEMMAP: u64 = START_INFO.start + 0x80;

/// Writes the structure and what it points to: the initrd as the only module, and the memory map, whose types are those
/// of e820.
pub(crate) fn write(
    memory: &GuestMemoryMmap,
    platform: &Platform,
    initrd: Option<InitrdRange>,
    rsdp: u64,
) -> Result<(), Error> {
    let map = e820::map(platform);
    let info = hvm_start_info {
        magic: XEN_HVM_START_MAGIC_VALUE,
        version: VERSION,
        nr_modules: initrd.is_some().into(),
        modlist_paddr: initrd.map_or(0, |_| MODULES),
        cmdline_paddr: CMDLINE.start,
        rsdp_paddr: rsdp,
        memmap_paddr: MEMMAP,
        // At most 128, as the zero page has room for.
        memmap_entries: map.len() as u32,
        ..Default::default()
    };
    let what = "the PVH start info";
    crate::write(memory, what, START_INFO.start, info.as_slice())?;
    if let Some(initrd) = initrd {
        let module = hvm_modlist_entry {
            paddr: initrd.start.into(),
            size: initrd.size.into(),
            ..Default::default()
        };
        crate::write(memory, what, MODULES, module.as_slice())?;
    }
    let map: Vec<u8> = map
        .iter()
        .flat_map(|entry| {
            let entry = hvm_memmap_table_entry {
                addr: entry.base,
                size: entry.size,
                type_: entry.kind as u32,
                reserved: 0,
            };
            entry.as_slice().to_vec()
        })
        .collect();
    crate::write(memory, what, MEMMAP, &map)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use vm_memory::{Bytes, GuestAddress};

    use super::*;
    use crate::test_utils::{memory, platform, u32_at, u64_at};

    fn page(initrd: Option<InitrdRange>) -> Vec<u8> {
        let platform = platform(64);
        let memory = memory(&platform);
        write(&memory, &platform, initrd, 0xe_0000).unwrap();
        let mut page = vec![0; START_INFO.size as usize];
        memory
            .read_slice(&mut page, GuestAddress(START_INFO.start))
            .unwrap();
        page
    }

    #[test]
    fn fields_are_where_the_abi_has_them() {
        let initrd = InitrdRange {
            start: 0x1ff_0000,
            size: 0x1234,
        };
        let page = page(Some(initrd));
        assert_eq!(u32_at(&page, 0), 0x336e_c578, "magic");
        assert_eq!(u32_at(&page, 4), 1, "version");
        assert_eq!(u32_at(&page, 8), 0, "flags");
        assert_eq!(u32_at(&page, 12), 1, "nr_modules");
        assert_eq!(u64_at(&page, 24), 0x2_0000, "cmdline_paddr");
        assert_eq!(u64_at(&page, 32), 0xe_0000, "rsdp_paddr");

        let module = (u64_at(&page, 16) - START_INFO.start) as usize;
        assert_eq!(u64_at(&page, module), 0x1ff_0000);
        assert_eq!(u64_at(&page, module + 8), 0x1234);
        assert_eq!(u64_at(&page, module + 16), 0, "no command line of its own");
    }

    #[test]
    fn a_guest_without_initrd_has_no_module() {
        let page = page(None);
        assert_eq!((u32_at(&page, 12), u64_at(&page, 16)), (0, 0));
    }

    #[test]
    fn the_memory_map_is_the_one_of_e820() {
        let page = page(None);
        let map = e820::map(&platform(64));
        assert_eq!(u32_at(&page, 48) as usize, map.len());
        let table = (u64_at(&page, 40) - START_INFO.start) as usize;
        for (n, entry) in map.iter().enumerate() {
            let at = table + 24 * n;
            assert_eq!(u64_at(&page, at), entry.base);
            assert_eq!(u64_at(&page, at + 8), entry.size);
            assert_eq!(u32_at(&page, at + 16), entry.kind as u32);
        }
    }

    #[test]
    fn every_memory_map_fits() {
        let entries = e820::MAX_RAM_RANGES as u64 + 3;
        assert!(MEMMAP + 24 * entries <= START_INFO.end());
    }
}
