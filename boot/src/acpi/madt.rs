//! MADT (ACPI 6.5, 5.2.12): the CPUs' local APICs and the I/O APIC.

use acpi_tables::madt::{
    EnabledStatus, IoApic, LocalInterruptController, MADT, ProcessorLocalApic,
};

use super::{OEM_ID, OEM_REVISION, OEM_TABLE_ID};
use crate::platform::Platform;

/// The I/O APIC's id, which is also what KVM's I/O APIC has in its id register after reset.
const IOAPIC_ID: u8 = 0;
const IOAPIC_GSI_BASE: u32 = 0;

/// The MADT, with one local APIC structure (type 0) for each CPU.
///
/// Type 0 is right for CPUs in x2APIC mode too: ids below 255 must use it, only those from 255 on the x2APIC structure
/// (type 9; ACPI 6.5, 5.2.12.12), and [`Platform::cpus`] has none of the latter. Nor would both do: older Linux counts
/// an id that is in both twice, newer Linux ignores its type 9 entry. Which mode a CPU is in is not the table's to say:
/// the guest finds x2APIC in CPUID and turns it on.
///
/// There is no interrupt source override: overrides are for ISA interrupts that differ from "identity-mapped, edge, active
/// high", and the devices here name their GSIs and triggers in the DSDT. `PCAT_COMPAT` is clear: no 8259 need be masked.
pub(super) fn madt(platform: &Platform) -> MADT {
    let mut madt = MADT::new(
        OEM_ID,
        OEM_TABLE_ID,
        OEM_REVISION,
        LocalInterruptController::Address(platform.lapic),
    );
    for id in 0..platform.cpus {
        madt.add_structure(ProcessorLocalApic::new(id, id, EnabledStatus::Enabled));
    }
    madt.add_structure(IoApic::new(IOAPIC_ID, platform.ioapic, IOAPIC_GSI_BASE));
    madt
}
