//! `struct boot_params`, the zero page: what the kernel learns from its loader (boot.rst, "64-bit Boot Protocol";
//! its fields are in Linux' `Documentation/arch/x86/zero-page.rst`).

use linux_loader::loader::bootparam::{boot_e820_entry, boot_params, setup_header};
use vm_memory::{ByteValued, GuestMemoryMmap};

use crate::initrd::InitrdRange;
use crate::kernel::KernelRange;
use crate::layout::{CMDLINE, ZERO_PAGE};
use crate::platform::Platform;
use crate::{Error, e820};

/// A loader without an assigned number (boot.rst, "type_of_loader").
const TYPE_OF_LOADER_UNDEFINED: u8 = 0xff;

/// Writes the zero page for a kernel loaded at `kernel` whose image has the setup header `header`.
///
/// All fields but those of the kernel's own setup header and the ones named here are zero, as boot.rst demands.
pub(crate) fn write(
    memory: &GuestMemoryMmap,
    platform: &Platform,
    header: setup_header,
    kernel: KernelRange,
    initrd: Option<InitrdRange>,
    rsdp: u64,
) -> Result<(), Error> {
    let mut params = boot_params {
        hdr: header,
        acpi_rsdp_addr: rsdp,
        ..Default::default()
    };
    let header = &mut params.hdr;
    header.type_of_loader = TYPE_OF_LOADER_UNDEFINED;
    header.ext_loader_ver = 0;
    header.ext_loader_type = 0;
    // Kernels are placed, and these regions lie, below 4 GiB; the 64-bit entry does not use code32_start.
    header.code32_start = kernel.start as u32;
    header.cmd_line_ptr = CMDLINE.start as u32;
    header.ramdisk_image = initrd.map_or(0, |initrd| initrd.start);
    header.ramdisk_size = initrd.map_or(0, |initrd| initrd.size);
    // A list in guest memory that the loader owns; the image has no say in it.
    header.setup_data = 0;

    let map = e820::map(platform);
    for (slot, entry) in params.e820_table.iter_mut().zip(&map) {
        *slot = boot_e820_entry {
            addr: entry.base,
            size: entry.size,
            r#type: entry.kind as u32,
        };
        params.e820_entries += 1;
    }
    crate::write(memory, "the zero page", ZERO_PAGE.start, params.as_slice())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]

    use std::io::Cursor;

    use vm_memory::{Bytes, GuestAddress};

    use super::*;
    use crate::kernel::{Entry, Kernel, Protocol};
    use crate::test_utils::{KernelBuilder, memory, platform, u32_at, u64_at};

    fn page(platform: &Platform, initrd: Option<InitrdRange>) -> Vec<u8> {
        let memory = memory(platform);
        let mut image = Cursor::new(KernelBuilder::default().build());
        let kernel = Kernel::read(&mut image, Entry::Linux64).unwrap();
        let at = kernel.place(&platform.ram).unwrap();
        let Protocol::Linux64 { header, .. } = kernel.protocol(at) else {
            panic!("a bzImage is entered in 64-bit mode");
        };
        write(&memory, platform, header, at, initrd, 0xe_0000).unwrap();
        let mut page = vec![0; 0x1000];
        memory
            .read_slice(&mut page, GuestAddress(ZERO_PAGE.start))
            .unwrap();
        page
    }

    #[test]
    fn fields_are_where_the_kernel_reads_them() {
        let initrd = InitrdRange {
            start: 0x1ff_0000,
            size: 0x1234,
        };
        let page = page(&platform(512), Some(initrd));
        assert_eq!(u64_at(&page, 0x70), 0xe_0000, "acpi_rsdp_addr");
        assert_eq!(page[0x1ef], 0, "sentinel");
        assert_eq!(page[0x1fe..0x200], [0x55, 0xaa], "boot_flag");
        assert_eq!(page[0x202..0x206], *b"HdrS", "header");
        assert_eq!(page[0x210], 0xff, "type_of_loader");
        assert_eq!(page[0x211], 1, "loadflags");
        assert_eq!(u32_at(&page, 0x214), 16 << 20, "code32_start");
        assert_eq!(u32_at(&page, 0x218), 0x1ff_0000, "ramdisk_image");
        assert_eq!(u32_at(&page, 0x21c), 0x1234, "ramdisk_size");
        assert_eq!(u32_at(&page, 0x228), 0x2_0000, "cmd_line_ptr");
        assert_eq!(u64_at(&page, 0x250), 0, "setup_data");
        assert_eq!(u32_at(&page, 0x260), 8 << 20, "init_size");
    }

    #[test]
    fn a_guest_without_initrd_sees_none() {
        let page = page(&platform(512), None);
        assert_eq!(u64_at(&page, 0x218), 0);
    }

    #[test]
    fn code_behind_the_setup_header_is_not_copied() {
        let page = page(&platform(512), None);
        assert!(page[0x26c..0x2d0].iter().all(|&byte| byte == 0));
    }

    #[test]
    fn the_memory_map_is_the_one_of_e820() {
        let platform = platform(512);
        let page = page(&platform, None);
        let map = e820::map(&platform);
        assert_eq!(usize::from(page[0x1e8]), map.len());
        for (i, entry) in map.iter().enumerate() {
            let at = 0x2d0 + 20 * i;
            assert_eq!(u64_at(&page, at), entry.base);
            assert_eq!(u64_at(&page, at + 8), entry.size);
            assert_eq!(u32_at(&page, at + 16), entry.kind as u32);
        }
    }

    #[test]
    fn every_machine_that_is_accepted_has_a_memory_map_that_fits() {
        const { assert!(e820::MAX_RAM_RANGES + 3 <= 128) };
    }
}
