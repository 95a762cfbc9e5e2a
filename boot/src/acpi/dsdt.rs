//! DSDT: the devices that a guest cannot discover by itself, in AML.
//!
//! The comments show each part as ASL.

use acpi_tables::Aml;
use acpi_tables::aml::{
    AddressSpace, AddressSpaceCacheable, Arg, CreateDWordField, Device, EISAName, Else, Equal, IO,
    If, Interrupt, Memory32Fixed, Method, Name, NotEqual, Notify, ONE, Or, Package, Path,
    ResourceTemplate, Return, Scope, Uuid, ZERO,
};
use acpi_tables::sdt::Sdt;

use super::{Error, OEM_ID, OEM_REVISION, OEM_TABLE_ID, SLP_TYP_S5, bytes};
use crate::platform::{AcpiHardware, CmosRtc, MmioRange, Platform, SerialPort};

/// The length of a table's header, to which the AML is appended.
const HEADER_SIZE: u32 = 36;
/// From revision 2 on integers have 64 bits (ACPI 6.5, 5.2.11.1).
const REVISION: u8 = 2;

const PCI_CONFIG_ADDRESS: u16 = 0xcf8;
const PCI_CONFIG_PORTS: u8 = 8;

/// `Notify` value of a pressed power button (ACPI 6.5, table 5.141).
const POWER_BUTTON_PRESSED: u8 = 0x80;
/// `_STA`: present, enabled, shown, working (ACPI 6.5, 6.3.7).
const STATUS_WORKING: u8 = 0xf;
/// Host bridge _OSC (PCI Firmware Specification 3.3, 4.5.1).
const PCI_OSC_UUID: &str = "33db4d5b-1ff7-401c-9657-7441c03dd766";
const PCI_OSC_REVISION: u8 = 1;
// _OSC status bits in the first DWORD (ACPI 6.5, 6.2.11).
const OSC_UNRECOGNIZED_UUID: u8 = 1 << 2;
const OSC_UNRECOGNIZED_REVISION: u8 = 1 << 3;

pub(super) fn dsdt(platform: &Platform) -> Result<Sdt, Error> {
    let mut aml = cpus(platform.cpus);
    aml.extend(pci_host_bridge(platform.pci_mmio)?);
    aml.extend(motherboard_resources(platform)?);
    if let Some(port) = platform.com1 {
        aml.extend(com1(port));
    }
    if let Some(rtc) = platform.cmos_rtc {
        aml.extend(real_time_clock(rtc));
    }
    if let Some(port) = platform.pvpanic {
        aml.extend(pvpanic(port));
    }
    aml.extend(power_button());
    aml.extend(generic_event_device(&platform.acpi));
    let system_bus = Scope::raw(Path::new("\\_SB_"), aml);

    let mut dsdt = Sdt::new(
        *b"DSDT",
        HEADER_SIZE,
        REVISION,
        OEM_ID,
        OEM_TABLE_ID,
        OEM_REVISION,
    );
    dsdt.append_slice(&system_bus);
    dsdt.append_slice(&soft_off());
    Ok(dsdt)
}

/// `Device (C000) { Name (_HID, "ACPI0007") Name (_UID, 0) }` and so on: every processor of the MADT must be in the
/// namespace (ACPI 6.5, 8.4), matched by `_UID`.
fn cpus(count: u8) -> Vec<u8> {
    (0..count)
        .flat_map(|uid| {
            device(
                &format!("C{uid:03X}"),
                &[
                    &Name::new("_HID".into(), &"ACPI0007"),
                    &Name::new("_UID".into(), &uid),
                ],
            )
        })
        .collect()
}

/// PCI Express root of segment 0, bus 0:
///
/// ```asl
/// Device (PCI0) {
///     Name (_HID, EisaId ("PNP0A08")) Name (_CID, EisaId ("PNP0A03"))
///     Name (_UID, 0) Name (_SEG, 0) Name (_BBN, 0)
///     Name (_CRS, ResourceTemplate () { … })
///     Method (_OSC, 4, Serialized) { … }
/// }
/// ```
///
/// There is no `_PRT`: no device has an INTx pin, all interrupts are MSI-X.
fn pci_host_bridge(window: MmioRange) -> Result<Vec<u8>, Error> {
    let (first, last) = first_and_last("the PCI window", window)?;
    let config_end = PCI_CONFIG_ADDRESS + u16::from(PCI_CONFIG_PORTS);
    let resources = current_resources(&[
        &AddressSpace::new_bus_number(0u16, 0u16),
        &IO::new(PCI_CONFIG_ADDRESS, PCI_CONFIG_ADDRESS, 1, PCI_CONFIG_PORTS),
        &AddressSpace::new_io(0u16, PCI_CONFIG_ADDRESS - 1, None),
        &AddressSpace::new_io(config_end, u16::MAX, None),
        &AddressSpace::new_memory(AddressSpaceCacheable::NotCacheable, true, first, last, None),
    ]);
    Ok(device(
        "PCI0",
        &[
            &Name::new("_HID".into(), &EISAName::new("PNP0A08")),
            &Name::new("_CID".into(), &EISAName::new("PNP0A03")),
            &Name::new("_UID".into(), &ZERO),
            &Name::new("_SEG".into(), &ZERO),
            &Name::new("_BBN".into(), &ZERO),
            &resources,
            &operating_system_capabilities(),
        ],
    ))
}

/// A host bridge with PNP0A08 must have `_OSC` (PCI Firmware Specification 3.3, 4.5). There is no firmware that could want
/// to keep control of a PCI Express feature, so that the guest gets what it asks for:
///
/// ```asl
/// Method (_OSC, 4, Serialized) {
///     CreateDWordField (Arg3, 0, CDW1)
///     If (Arg0 == ToUUID ("33db4d5b-1ff7-401c-9657-7441c03dd766")) {
///         If (Arg1 != 1) { CDW1 |= 8 }    // unrecognized revision
///     } Else { CDW1 |= 4 }                // unrecognized UUID
///     Return (Arg3)
/// }
/// ```
fn operating_system_capabilities() -> impl Aml {
    let status = Path::new("CDW1");
    let uuid = Uuid::new(PCI_OSC_UUID);
    let create = CreateDWordField::new(&status, &Arg(3), &ZERO);
    let bad_revision = Or::new(&status, &status, &OSC_UNRECOGNIZED_REVISION);
    let is_other_revision = NotEqual::new(&Arg(1), &PCI_OSC_REVISION);
    let check_revision = If::new(&is_other_revision, vec![&bad_revision]);
    let bad_uuid = Or::new(&status, &status, &OSC_UNRECOGNIZED_UUID);
    let is_pci = Equal::new(&Arg(0), &uuid);
    let accept = If::new(&is_pci, vec![&check_revision]);
    let reject = Else::new(vec![&bad_uuid]);
    let result = Return::new(&Arg(3));
    Raw(bytes(&Method::new(
        "_OSC".into(),
        4,
        true,
        vec![&create, &accept, &reject, &result],
    )))
}

/// What no driver claims and nothing else may take: ECAM, which Linux uses only if it is reserved here or in e820, and
/// the registers of [`AcpiHardware`].
///
/// `Device (MBRS) { Name (_HID, EisaId ("PNP0C02")) Name (_UID, 0) Name (_CRS, …) }`
fn motherboard_resources(platform: &Platform) -> Result<Vec<u8>, Error> {
    let (first, last) = first_and_last("ECAM", platform.ecam)?;
    let AcpiHardware {
        sleep_control,
        sleep_status,
        reset,
        ..
    } = platform.acpi;
    let resources = current_resources(&[
        &Memory32Fixed::new(true, first, last - first + 1),
        &IO::new(sleep_control, sleep_control, 1, 1),
        &IO::new(sleep_status, sleep_status, 1, 1),
        &IO::new(reset, reset, 1, 1),
    ]);
    Ok(device(
        "MBRS",
        &[
            &Name::new("_HID".into(), &EISAName::new("PNP0C02")),
            &Name::new("_UID".into(), &ZERO),
            &resources,
        ],
    ))
}

/// `Device (COM1) { Name (_HID, EisaId ("PNP0501")) Name (_UID, 1) Name (_CRS, …) }`
fn com1(port: SerialPort) -> Vec<u8> {
    let resources = current_resources(&[
        &IO::new(port.port, port.port, 1, 8),
        &edge_active_high(port.gsi),
    ]);
    device(
        "COM1",
        &[
            &Name::new("_HID".into(), &EISAName::new("PNP0501")),
            &Name::new("_UID".into(), &ONE),
            &resources,
        ],
    )
}

/// `Device (RTC0) { Name (_HID, EisaId ("PNP0B00")) Name (_CRS, …) }`, without an interrupt: Linux then has no alarm.
fn real_time_clock(rtc: CmosRtc) -> Vec<u8> {
    let resources = current_resources(&[&IO::new(rtc.port, rtc.port, 1, 2)]);
    device(
        "RTC0",
        &[
            &Name::new("_HID".into(), &EISAName::new("PNP0B00")),
            &resources,
        ],
    )
}

/// `Device (PEVT) { Name (_HID, "QEMU0001") Name (_STA, 0x0F) Name (_CRS, …) }`, as QEMU's docs/specs/pvpanic.rst has it.
fn pvpanic(port: u16) -> Vec<u8> {
    let resources = current_resources(&[&IO::new(port, port, 1, 1)]);
    device(
        "PEVT",
        &[
            &Name::new("_HID".into(), &"QEMU0001"),
            &Name::new("_STA".into(), &STATUS_WORKING),
            &resources,
        ],
    )
}

/// `Device (PWRB) { Name (_HID, EisaId ("PNP0C0C")) Name (_UID, 0) }`
fn power_button() -> Vec<u8> {
    device(
        "PWRB",
        &[
            &Name::new("_HID".into(), &EISAName::new("PNP0C0C")),
            &Name::new("_UID".into(), &ZERO),
        ],
    )
}

/// The generic event device (ACPI 6.5, 5.6.9), whose interrupt means that the power button was pressed:
///
/// ```asl
/// Device (GED0) {
///     Name (_HID, "ACPI0013") Name (_UID, 0) Name (_CRS, …)
///     Method (_EVT, 1, Serialized) { If (Arg0 == 5) { Notify (\_SB.PWRB, 0x80) } }
/// }
/// ```
fn generic_event_device(hardware: &AcpiHardware) -> Vec<u8> {
    let resources = current_resources(&[&edge_active_high(hardware.ged_gsi)]);
    let button = Path::new("\\_SB_.PWRB");
    let notify = Notify::new(&button, &POWER_BUTTON_PRESSED);
    let is_button = Equal::new(&Arg(0), &hardware.ged_gsi);
    let dispatch = If::new(&is_button, vec![&notify]);
    device(
        "GED0",
        &[
            &Name::new("_HID".into(), &"ACPI0013"),
            &Name::new("_UID".into(), &ZERO),
            &resources,
            &Method::new("_EVT".into(), 1, true, vec![&dispatch]),
        ],
    )
}

/// `Name (\_S5, Package () { 5, 0, 0, 0 })`: only the first element, SLP_TYPa, is used without fixed hardware (ACPI
/// 6.5, 7.4.2).
fn soft_off() -> Vec<u8> {
    let package = Package::new(vec![&SLP_TYP_S5, &ZERO, &ZERO, &ZERO]);
    bytes(&Name::new(Path::new("\\_S5_"), &package))
}

fn device(name: &str, children: &[&dyn Aml]) -> Vec<u8> {
    bytes(&Device::new(name.into(), children.to_vec()))
}

/// `Name (_CRS, ResourceTemplate () { … })`
fn current_resources(descriptors: &[&dyn Aml]) -> Name {
    Name::new("_CRS".into(), &ResourceTemplate::new(descriptors.to_vec()))
}

/// `Interrupt (ResourceConsumer, Edge, ActiveHigh, Exclusive) { gsi }`
fn edge_active_high(gsi: u32) -> Interrupt {
    Interrupt::new(true, true, false, false, gsi)
}

/// The first and the last address of `range`, which must be expressible in the 32 bits of the descriptors here.
fn first_and_last(what: &'static str, range: MmioRange) -> Result<(u32, u32), Error> {
    let MmioRange { base, size } = range;
    let last = size
        .checked_sub(1)
        .and_then(|length| base.checked_add(length));
    match (u32::try_from(base), last.map(u32::try_from)) {
        (Ok(first), Some(Ok(last))) if size <= u32::MAX.into() => Ok((first, last)),
        _ => Err(Error::Range { what, base, size }),
    }
}

/// AML that has been made already.
struct Raw(Vec<u8>);

impl Aml for Raw {
    fn to_aml_bytes(&self, sink: &mut dyn acpi_tables::AmlSink) {
        sink.vec(&self.0);
    }
}
