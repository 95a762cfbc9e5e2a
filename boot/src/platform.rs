//! The machine as its tables describe it: one value, filled by whoever builds the machine.

use vm_memory::{Address, GuestAddress};

use crate::smbios::Smbios;
use crate::{e820, layout};

const FOUR_GIB: u64 = 1 << 32;

/// Everything that the guest-visible tables and the boot protocol must know of the machine.
#[derive(Clone, Debug)]
pub struct Platform {
    /// Number of CPUs, at least 1; their local APIC ids are `0..cpus`.
    pub cpus: u8,
    /// RAM, ascending; the first range starts at 0, RAM above the 32-bit MMIO gap at 4 GiB.
    pub ram: Vec<RamRange>,
    /// PCI Express configuration space (ECAM) of segment 0, bus 0: 1 MiB below 4 GiB.
    pub ecam: MmioRange,
    /// The window for the BARs of PCI devices, below 4 GiB.
    pub pci_mmio: MmioRange,
    /// Address of the I/O APIC, whose pins are GSI 0 and up.
    pub ioapic: u32,
    /// Address of the local APICs in xAPIC mode.
    pub lapic: u32,
    /// The first serial port, if there is one.
    pub com1: Option<SerialPort>,
    /// The CMOS real-time clock; without one the guest is told not to look for it.
    pub cmos_rtc: Option<CmosRtc>,
    /// The I/O port of pvpanic, if there is one.
    pub pvpanic: Option<u16>,
    /// The guest's watchdog, if there is one.
    pub watchdog: Option<Watchdog>,
    /// The registers and interrupt behind ACPI's sleep, reset and power button.
    pub acpi: AcpiHardware,
    /// What the machine is called, and what is passed on to the guest in strings.
    pub smbios: Smbios,
}

/// A watchdog of four registers of 32 bits (`wdat`): control, period, what is left of it, status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Watchdog {
    /// I/O port of the first register.
    pub port: u16,
    /// The longest period.
    pub max_milliseconds: u32,
}

/// A range of guest RAM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RamRange {
    /// Its first byte, page-aligned.
    pub base: GuestAddress,
    /// Its length in bytes, a multiple of 4 KiB.
    pub size: u64,
}

impl RamRange {
    /// The first address behind the range.
    ///
    /// Saturates; [`Platform::check`] refuses a range that would.
    pub fn end(&self) -> u64 {
        self.base.raw_value().saturating_add(self.size)
    }
}

/// A range of guest-physical addresses that are not RAM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MmioRange {
    /// Its first byte.
    pub base: u64,
    /// Its length in bytes.
    pub size: u64,
}

/// A 16550 serial port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SerialPort {
    /// The first of its eight I/O ports.
    pub port: u16,
    /// Its interrupt, edge-triggered and active high.
    pub gsi: u32,
}

/// A CMOS real-time clock without an interrupt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CmosRtc {
    /// The first of its two I/O ports; guests without ACPI expect 0x70.
    pub port: u16,
    /// The register that has the century.
    pub century: u8,
}

/// What hardware-reduced ACPI (ACPI 6.5, 4.1) needs of the machine: three one-byte I/O ports and an interrupt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AcpiHardware {
    /// SLEEP_CONTROL_REG (ACPI 6.5, 4.8.3.7). The guest powers off by writing [`acpi::S5_SLEEP_CONTROL`].
    ///
    /// [`acpi::S5_SLEEP_CONTROL`]: crate::acpi::S5_SLEEP_CONTROL
    pub sleep_control: u16,
    /// SLEEP_STATUS_REG (ACPI 6.5, 4.8.3.7); the guest writes WAK_STS (0x80) to clear it before it sleeps.
    pub sleep_status: u16,
    /// RESET_REG (ACPI 6.5, 4.8.3.6).
    pub reset: u16,
    /// What the guest writes to `reset` to be reset.
    pub reset_value: u8,
    /// The interrupt of the generic event device, edge-triggered and active high: the power button was pressed.
    pub ged_gsi: u32,
}

/// A machine that its tables cannot describe: a mistake of the program that built the [`Platform`].
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// No CPU.
    #[error("a machine needs at least one CPU")]
    NoCpu,
    /// The first RAM range does not begin at 0, or ends before the kernel could begin.
    #[error(
        "RAM must start at address 0 and have at least {} MiB: raise mem",
        layout::MIN_RAM >> 20
    )]
    LowRam,
    /// A RAM range that is empty, not made of whole pages or runs over the end of the address space.
    #[error("the RAM range of {size:#x} bytes at {base:#x} is empty, not page-aligned or too long")]
    RamRange {
        /// Its first byte.
        base: u64,
        /// Its length in bytes.
        size: u64,
    },
    /// More RAM ranges than an e820 map of the zero page holds.
    #[error("{0} RAM ranges are more than the {max} that the memory map holds", max = e820::MAX_RAM_RANGES)]
    TooManyRamRanges(usize),
    /// ECAM that is not 1 MiB, aligned to it.
    #[error("ECAM of {size:#x} bytes at {base:#x} is not the 1 MiB-aligned 1 MiB of one bus")]
    Ecam {
        /// Its first byte.
        base: u64,
        /// Its length in bytes.
        size: u64,
    },
    /// An MMIO range that is empty or does not end at or below 4 GiB.
    #[error("{what} of {size:#x} bytes at {base:#x} is empty or not below 4 GiB")]
    Mmio {
        /// Which range.
        what: &'static str,
        /// Its first byte.
        base: u64,
        /// Its length in bytes.
        size: u64,
    },
    /// Two ranges that share an address, or RAM ranges that do not ascend.
    #[error("the range at {second:#x} overlaps or precedes the one at {first:#x}")]
    Overlap {
        /// First byte of the one that should come first.
        first: u64,
        /// First byte of the other.
        second: u64,
    },
}

impl Platform {
    /// Checks what the rest of the crate relies on.
    pub fn check(&self) -> Result<(), Error> {
        if self.cpus == 0 {
            return Err(Error::NoCpu);
        }
        self.check_ram()?;
        let MmioRange { base, size } = self.ecam;
        if size != 1 << 20 || base % size != 0 {
            return Err(Error::Ecam { base, size });
        }

        let mut ranges: Vec<(u64, u64)> = self
            .ram
            .iter()
            .map(|range| (range.base.raw_value(), range.end()))
            .collect();
        for (what, MmioRange { base, size }) in
            [("ECAM", self.ecam), ("the PCI window", self.pci_mmio)]
        {
            match base.checked_add(size) {
                Some(end) if size > 0 && end <= FOUR_GIB => ranges.push((base, end)),
                _ => return Err(Error::Mmio { what, base, size }),
            }
        }
        ranges.sort_unstable();
        for pair in ranges.windows(2) {
            let ((first, first_end), (second, _)) = (pair[0], pair[1]);
            if second < first_end {
                return Err(Error::Overlap { first, second });
            }
        }
        Ok(())
    }

    fn check_ram(&self) -> Result<(), Error> {
        match self.ram.first() {
            Some(low) if low.base.raw_value() == 0 && low.size >= layout::MIN_RAM => (),
            _ => return Err(Error::LowRam),
        }
        if self.ram.len() > e820::MAX_RAM_RANGES {
            return Err(Error::TooManyRamRanges(self.ram.len()));
        }
        for range in &self.ram {
            let (base, size) = (range.base.raw_value(), range.size);
            let whole_pages = (base | size) % 4096 == 0;
            if size == 0 || !whole_pages || base.checked_add(size).is_none() {
                return Err(Error::RamRange { base, size });
            }
        }
        for pair in self.ram.windows(2) {
            if pair[1].base.raw_value() < pair[0].end() {
                return Err(Error::Overlap {
                    first: pair[0].base.raw_value(),
                    second: pair[1].base.raw_value(),
                });
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::test_utils::platform;

    fn ram(base: u64, size: u64) -> RamRange {
        RamRange {
            base: GuestAddress(base),
            size,
        }
    }

    #[test]
    fn a_machine_with_ram_on_both_sides_of_the_gap_is_accepted() {
        let mut platform = platform(3072);
        platform.ram.push(ram(FOUR_GIB, 0x1000));
        assert_eq!(platform.check(), Ok(()));
    }

    #[test]
    fn a_machine_without_cpus_is_refused() {
        let mut platform = platform(64);
        platform.cpus = 0;
        assert_eq!(platform.check(), Err(Error::NoCpu));
    }

    #[test]
    fn ram_that_no_kernel_could_start_in_is_refused() {
        let mut platform = platform(64);
        for bad in [vec![], vec![ram(0x1000, 64 << 20)], vec![ram(0, 1 << 20)]] {
            platform.ram = bad;
            assert_eq!(platform.check(), Err(Error::LowRam));
        }
    }

    #[test]
    fn ram_ranges_that_are_odd_empty_or_endless_are_refused() {
        for (base, size) in [
            (FOUR_GIB, 0),
            (FOUR_GIB, 0x800),
            (FOUR_GIB + 1, 0x1000),
            (FOUR_GIB, !0xfff),
        ] {
            let mut platform = platform(64);
            platform.ram.push(ram(base, size));
            assert_eq!(platform.check(), Err(Error::RamRange { base, size }));
        }
    }

    #[test]
    fn ram_ranges_that_overlap_or_descend_are_refused() {
        let mut overlapping = platform(64);
        overlapping.ram.push(ram(63 << 20, 2 << 20));
        assert!(matches!(overlapping.check(), Err(Error::Overlap { .. })));

        let mut descending = platform(64);
        descending.ram.push(ram(2 * FOUR_GIB, 0x1000));
        descending.ram.push(ram(FOUR_GIB, 0x1000));
        assert!(matches!(descending.check(), Err(Error::Overlap { .. })));
    }

    #[test]
    fn mmio_over_ram_or_over_other_mmio_is_refused() {
        let mut over_ram = platform(64);
        over_ram.pci_mmio.base = 32 << 20;
        assert!(matches!(over_ram.check(), Err(Error::Overlap { .. })));

        let mut over_ecam = platform(64);
        over_ecam.pci_mmio.size = (512 << 20) + 1;
        assert!(matches!(over_ecam.check(), Err(Error::Overlap { .. })));
    }

    #[test]
    fn mmio_that_32_bit_tables_cannot_name_is_refused() {
        for (base, size) in [(FOUR_GIB, 1 << 20), (0xffff_0000, 0x1_0001), (u64::MAX, 2)] {
            let mut platform = platform(64);
            platform.pci_mmio = MmioRange { base, size };
            assert!(matches!(platform.check(), Err(Error::Mmio { .. })));
        }
    }

    #[test]
    fn ecam_of_other_than_one_bus_is_refused() {
        let mut platform = platform(64);
        platform.ecam.size = 2 << 20;
        assert!(matches!(platform.check(), Err(Error::Ecam { .. })));
    }
}
