//! The memory map that the zero page carries, in the format of BIOS call INT 15h, AX=E820h (ACPI 6.5, 15.1).

use vm_memory::Address;

use crate::layout::{EBDA_START, HIGH_RAM_START};
use crate::platform::Platform;

/// RAM ranges that fit into the zero page's table of 128 beside the entries that [`map`] adds.
pub const MAX_RAM_RANGES: usize = 64;

/// What an address range is (ACPI 6.5, table 15.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Kind {
    /// RAM that the guest may use.
    Ram = 1,
    /// Not to be used, and not free for devices either.
    Reserved = 2,
}

/// One range of the memory map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its first byte.
    pub base: u64,
    /// Its length in bytes.
    pub size: u64,
    /// What it is.
    pub kind: Kind,
}

/// The memory map of `platform` (which [`Platform::check`] must have accepted), ascending and without overlaps.
///
/// RAM from [`EBDA_START`] to 1 MiB is reserved: it holds the ACPI and SMBIOS tables and, on a PC, video memory and ROMs. So is
/// ECAM, because Linux uses ECAM only where the map or an ACPI motherboard resource reserves it; here both do.
pub fn map(platform: &Platform) -> Vec<Entry> {
    let entry = |base, end: u64, kind| Entry {
        base,
        size: end - base,
        kind,
    };
    let mut map = vec![
        entry(0, EBDA_START, Kind::Ram),
        entry(EBDA_START, HIGH_RAM_START, Kind::Reserved),
        Entry {
            base: platform.ecam.base,
            size: platform.ecam.size,
            kind: Kind::Reserved,
        },
    ];
    for range in &platform.ram {
        let base = range.base.raw_value().max(HIGH_RAM_START);
        map.push(entry(base, range.end(), Kind::Ram));
    }
    map.sort_unstable_by_key(|entry| entry.base);
    map
}

#[cfg(test)]
mod tests {
    use vm_memory::GuestAddress;

    use super::*;
    use crate::layout;
    use crate::platform::RamRange;
    use crate::test_utils::platform;

    fn kinds(map: &[Entry]) -> Vec<(u64, u64, Kind)> {
        map.iter().map(|e| (e.base, e.size, e.kind)).collect()
    }

    #[test]
    fn a_small_machine_has_ram_the_reserved_hole_more_ram_and_ecam() {
        assert_eq!(
            kinds(&map(&platform(512))),
            [
                (0, 0x9_fc00, Kind::Ram),
                (0x9_fc00, 0x6_0400, Kind::Reserved),
                (0x10_0000, (512 << 20) - 0x10_0000, Kind::Ram),
                (0xe000_0000, 1 << 20, Kind::Reserved),
            ]
        );
    }

    #[test]
    fn ram_above_4_gib_comes_last() {
        let mut platform = platform(3072);
        platform.ram.push(RamRange {
            base: GuestAddress(1 << 32),
            size: 1 << 30,
        });
        let map = map(&platform);
        assert_eq!(
            map.last().map(|e| (e.base, e.size, e.kind)),
            Some((1 << 32, 1 << 30, Kind::Ram))
        );
    }

    #[test]
    fn entries_ascend_without_overlap() {
        let map = map(&platform(3072));
        for pair in map.windows(2) {
            assert!(pair[0].base + pair[0].size <= pair[1].base, "{pair:?}");
        }
    }

    #[test]
    fn the_tables_are_in_a_reserved_entry() {
        for region in [layout::ACPI, layout::SMBIOS, layout::SMBIOS_ENTRY_POINT] {
            assert!(map(&platform(64)).iter().any(|e| {
                e.kind == Kind::Reserved
                    && e.base <= region.start
                    && region.end() <= e.base + e.size
            }));
        }
    }
}
