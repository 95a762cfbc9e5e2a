//! The address map and the interrupts of the machine, as docs/architecture.md lists them.

use minivmm_boot::{AcpiHardware, CmosRtc, MmioRange, Platform, RamRange, SerialPort, Watchdog};
use minivmm_devices::{
    hypervisor::Gsi,
    legacy::{pvpanic, rtc, watchdog},
};
use vm_memory::GuestAddress;

use crate::config::VmConfig;

/// Low RAM ends here at the latest; up to [`HIGH_RAM`] there are devices.
pub const LOW_RAM_END: u64 = 0xC000_0000;
/// RAM beyond the gap begins here.
pub const HIGH_RAM: u64 = 0x1_0000_0000;

/// The window of every PCI BAR.
pub const PCI_MMIO: MmioRange = MmioRange {
    base: 0xC000_0000,
    size: 0x2000_0000,
};
/// The PCI configuration space of bus 0 (ECAM, PCI Express 5.0, 7.2.2).
pub const ECAM: MmioRange = MmioRange {
    base: 0xE000_0000,
    size: 0x10_0000,
};
/// The I/O APIC, where KVM has it.
pub const IOAPIC: u32 = 0xFEC0_0000;
/// The local APICs, where KVM has them.
pub const LAPIC: u32 = 0xFEE0_0000;
/// One page that KVM takes for itself on Intel (KVM_SET_IDENTITY_MAP_ADDR).
pub const KVM_IDENTITY_MAP: u64 = 0xFFFB_C000;
/// Three pages that KVM takes for itself on Intel (KVM_SET_TSS_ADDR).
pub const KVM_TSS: u64 = 0xFFFB_D000;

/// COM1's registers: first port and number of ports.
pub const COM1: (u16, u64) = (0x3F8, 8);
/// The keyboard controller's data and command ports; only its reset line exists.
pub const I8042: (u16, u64) = (0x60, 5);
/// The ACPI sleep control, sleep status and reset registers.
pub const ACPI_REGISTERS: (u16, u64) = (0x600, 3);
/// The CMOS real-time clock's index and data port.
pub const RTC: (u16, u64) = (0x70, rtc::SIZE);
/// pvpanic, where QEMU has it.
pub const PVPANIC: (u16, u64) = (0x505, pvpanic::SIZE);
/// The guest's watchdog.
pub const WATCHDOG: (u16, u64) = (0x610, watchdog::SIZE);
/// The PCI configuration mechanism by ports.
pub const PCI_CONFIG_PORTS: (u16, u64) = (0xCF8, 8);

/// COM1's interrupt.
pub const COM1_GSI: Gsi = Gsi(4);
/// The interrupt of the generic event device, which is the power button.
pub const GED_GSI: Gsi = Gsi(5);
/// Pins of the I/O APIC, GSI 0 to 23; MSI routes follow.
pub const IOAPIC_PINS: u32 = 24;

/// The RAM of a machine with `bytes` of memory.
pub fn ram(bytes: u64) -> Vec<RamRange> {
    let low = bytes.min(LOW_RAM_END);
    let mut ranges = vec![RamRange {
        base: GuestAddress(0),
        size: low,
    }];
    if bytes > low {
        ranges.push(RamRange {
            base: GuestAddress(HIGH_RAM),
            size: bytes - low,
        });
    }
    ranges
}

/// What the boot tables say of the machine of `config`.
pub fn platform(config: &VmConfig) -> Platform {
    Platform {
        cpus: config.vcpu,
        ram: ram(u64::from(config.mem) << 20),
        ecam: ECAM,
        pci_mmio: PCI_MMIO,
        ioapic: IOAPIC,
        lapic: LAPIC,
        com1: Some(SerialPort {
            port: COM1.0,
            gsi: COM1_GSI.0,
        }),
        acpi: AcpiHardware {
            sleep_control: ACPI_REGISTERS.0,
            sleep_status: ACPI_REGISTERS.0 + 1,
            reset: ACPI_REGISTERS.0 + 2,
            reset_value: 1,
            ged_gsi: GED_GSI.0,
        },
        cmos_rtc: Some(CmosRtc {
            port: RTC.0,
            century: rtc::CENTURY,
        }),
        pvpanic: Some(PVPANIC.0),
        watchdog: config.lifecycle.watchdog.map(|max| Watchdog {
            port: WATCHDOG.0,
            // A day at most.
            max_milliseconds: u32::try_from(max.as_millis()).unwrap_or(u32::MAX),
        }),
        smbios: config.smbios(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_parts_of_the_address_map_overlap() {
        let mut parts = vec![
            (PCI_MMIO.base, PCI_MMIO.size),
            (ECAM.base, ECAM.size),
            (IOAPIC.into(), 0x1000),
            (LAPIC.into(), 0x1000),
            (KVM_IDENTITY_MAP, 0x1000),
            (KVM_TSS, 0x3000),
        ];
        parts.extend(ram(8 << 30).iter().map(|r| (r.base.0, r.size)));
        parts.sort();
        for pair in parts.windows(2) {
            assert!(pair[0].0 + pair[0].1 <= pair[1].0, "{pair:x?}");
        }
    }

    #[test]
    fn memory_beyond_three_gib_continues_at_four() {
        let sizes = |gib: u64| {
            let ranges = ram(gib << 30);
            ranges
                .iter()
                .map(|r| (r.base.0, r.size))
                .collect::<Vec<_>>()
        };
        assert_eq!(sizes(2), [(0, 2 << 30)]);
        assert_eq!(sizes(3), [(0, 3 << 30)]);
        assert_eq!(sizes(5), [(0, 3 << 30), (4 << 30, 2 << 30)]);
    }
}
