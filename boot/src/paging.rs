//! The page tables of the 64-bit entry: an identity map of the first 4 GiB in 2 MiB pages.
//!
//! boot.rst asks that kernel, zero page and command line be mapped to themselves; all of RAM below 4 GiB is. The kernel
//! replaces these tables with its own before it touches anything else.

use vm_memory::GuestMemoryMmap;

use crate::Error;
use crate::layout::{PAGE_DIRECTORIES, PDPT, PML4};

// Intel SDM volume 3, 4.5: bits of a paging-structure entry.
const PRESENT: u64 = 1 << 0;
const WRITABLE: u64 = 1 << 1;
const PAGE_SIZE: u64 = 1 << 7;

const ENTRIES_PER_TABLE: u64 = 512;
const DIRECTORIES: u64 = PAGE_DIRECTORIES.size / 0x1000;

/// Writes the tables; CR3 is [`PML4`].
pub(crate) fn write(memory: &GuestMemoryMmap) -> Result<(), Error> {
    let table = PRESENT | WRITABLE;
    let pml4 = [PDPT.start | table];
    let pdpt = (0..DIRECTORIES).map(|i| (PAGE_DIRECTORIES.start + 0x1000 * i) | table);
    let pages = (0..DIRECTORIES * ENTRIES_PER_TABLE).map(|i| (i << 21) | table | PAGE_SIZE);

    write_entries(memory, PML4.start, pml4)?;
    write_entries(memory, PDPT.start, pdpt)?;
    write_entries(memory, PAGE_DIRECTORIES.start, pages)
}

fn write_entries(
    memory: &GuestMemoryMmap,
    address: u64,
    entries: impl IntoIterator<Item = u64>,
) -> Result<(), Error> {
    let bytes: Vec<u8> = entries.into_iter().flat_map(u64::to_le_bytes).collect();
    crate::write(memory, "the page tables", address, &bytes)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use vm_memory::{Bytes, GuestAddress};

    use super::*;
    use crate::test_utils::{memory, platform};

    const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

    /// Translates as a CPU does: the physical address of `linear`, or `None` for a page fault.
    fn translate(memory: &GuestMemoryMmap, linear: u64) -> Option<u64> {
        let entry = |table: u64, shift: u32| -> Option<u64> {
            let index = (linear >> shift) & 0x1ff;
            let entry: u64 = memory.read_obj(GuestAddress(table + 8 * index)).unwrap();
            (entry & PRESENT != 0).then_some(entry)
        };
        let pdpt = entry(PML4.start, 39)? & ADDRESS;
        let directory = entry(pdpt, 30)? & ADDRESS;
        let page = entry(directory, 21)?;
        assert_eq!(page & (PAGE_SIZE | WRITABLE), PAGE_SIZE | WRITABLE);
        Some((page & ADDRESS) | (linear & 0x1f_ffff))
    }

    #[test]
    fn the_first_4_gib_are_mapped_to_themselves_and_nothing_else_is() {
        let memory = memory(&platform(4));
        write(&memory).unwrap();
        for linear in [0, 0x7000, 0x2_0001, 0x100_0200, 0xbfff_ffff, 0xffff_ffff] {
            assert_eq!(translate(&memory, linear), Some(linear));
        }
        for linear in [1 << 32, 1 << 39, 0x7fff_ffff_ffff] {
            assert_eq!(translate(&memory, linear), None);
        }
    }
}
