//! FADT (ACPI 6.5, 5.2.9): what kind of machine this is, and its sleep and reset registers.

use acpi_tables::fadt::{FADT, FADTBuilder, Flags};
use acpi_tables::gas::{AccessSize, AddressSpace, GAS};

use super::{OEM_ID, OEM_REVISION, OEM_TABLE_ID};
use crate::platform::Platform;

// IAPC_BOOT_ARCH (ACPI 6.5, 5.2.9.3). That bit 1, "8042", is clear keeps Linux from probing for a keyboard; that bit
// 3, "MSI not supported", is clear lets it use MSI-X.
const VGA_NOT_PRESENT: u16 = 1 << 2;
const CMOS_RTC_NOT_PRESENT: u16 = 1 << 5;

pub(super) fn fadt(platform: &Platform, dsdt: u64) -> FADT {
    let hardware = &platform.acpi;
    let mut fadt = FADTBuilder::new(OEM_ID, OEM_TABLE_ID, OEM_REVISION)
        .dsdt_64(dsdt)
        .flag(Flags::HwReducedAcpi)
        .flag(Flags::Wbinvd)
        // Set means that power and sleep button are devices in the DSDT, or not there, rather than fixed hardware.
        .flag(Flags::PwrButton)
        .flag(Flags::SlpButton)
        .flag(Flags::ResetRegSup)
        .flag(Flags::Headless);
    fadt.reset_reg = port(hardware.reset);
    fadt.reset_value = hardware.reset_value;
    fadt.sleep_control_reg = port(hardware.sleep_control);
    fadt.sleep_status_reg = port(hardware.sleep_status);
    let no_rtc = match platform.cmos_rtc {
        Some(rtc) => {
            fadt.century = rtc.century;
            0
        }
        None => CMOS_RTC_NOT_PRESENT,
    };
    fadt.iapc_boot_arch = (VGA_NOT_PRESENT | no_rtc).into();
    fadt.finalize()
}

/// A register of one byte in I/O space, the only kind that the three may be (ACPI 6.5, 4.8.3.6 and 4.8.3.7).
fn port(port: u16) -> GAS {
    GAS::new(
        AddressSpace::SystemIo,
        8,
        0,
        AccessSize::ByteAccess,
        port.into(),
    )
}
