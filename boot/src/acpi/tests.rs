#![allow(clippy::unwrap_used, clippy::panic)]

use std::fs;
use std::path::Path;
use std::process::Command;

use vm_memory::{Bytes, GuestAddress};

use super::*;
use crate::platform::{MmioRange, Watchdog};
use crate::test_utils::{memory, platform};

fn table(platform: &Platform, name: &str) -> Table {
    let tables = tables(platform).unwrap();
    tables.iter().find(|t| t.name == name).unwrap().clone()
}

fn u16_at(table: &Table, offset: usize) -> u16 {
    u16::from_le_bytes(table.bytes[offset..offset + 2].try_into().unwrap())
}

fn u32_at(table: &Table, offset: usize) -> u32 {
    u32::from_le_bytes(table.bytes[offset..offset + 4].try_into().unwrap())
}

fn u64_at(table: &Table, offset: usize) -> u64 {
    u64::from_le_bytes(table.bytes[offset..offset + 8].try_into().unwrap())
}

fn sum(bytes: &[u8]) -> u8 {
    bytes
        .iter()
        .fold(0, |sum: u8, byte| sum.wrapping_add(*byte))
}

fn with_watchdog() -> Platform {
    Platform {
        watchdog: Some(Watchdog {
            port: 0x610,
            max_milliseconds: 30_000,
        }),
        ..platform(64)
    }
}

/// The smallest and the largest machine, and those in which a table looks different.
fn machines() -> Vec<(&'static str, Platform)> {
    let with = |change: fn(&mut Platform)| {
        let mut platform = platform(64);
        change(&mut platform);
        platform
    };
    vec![
        ("two CPUs", platform(64)),
        ("one CPU", with(|p| p.cpus = 1)),
        ("255 CPUs", with(|p| p.cpus = 255)),
        ("no serial port", with(|p| p.com1 = None)),
        ("no real-time clock", with(|p| p.cmos_rtc = None)),
        ("no pvpanic", with(|p| p.pvpanic = None)),
        ("a watchdog", with_watchdog()),
    ]
}

/// Runs a program of ACPICA in `directory` and returns what it said; the test fails if it reports failure.
fn acpica(program: &str, directory: &Path, arguments: &[&str]) -> String {
    let output = Command::new(program)
        .args(arguments)
        .current_dir(directory)
        .output()
        .unwrap_or_else(|error| {
            panic!(
                "cannot run {program} ({error}): install Debian's acpica-tools, which this test needs"
            )
        });
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}:\n{said}");
    said.into_owned()
}

fn iasl(directory: &Path, arguments: &[&str]) -> String {
    acpica("iasl", directory, arguments)
}

/// What ACPICA's interpreter, the one in Linux, says of calling a method of the DSDT.
fn execute(call: &str) -> String {
    let directory = tempfile::tempdir().unwrap();
    let dsdt = table(&platform(64), "DSDT");
    fs::write(directory.path().join("DSDT.dat"), &dsdt.bytes).unwrap();
    acpica(
        "acpiexec",
        directory.path(),
        &["-b", &format!("execute {call}"), "DSDT.dat"],
    )
}

#[test]
fn iasl_disassembles_every_table_and_compiles_the_dsdt_again_without_a_word() {
    // iasl reads no file with an RSDP: it takes the signature's second half for a table's length.
    for (machine, platform) in machines() {
        let directory = tempfile::tempdir().unwrap();
        let tables = tables(&platform).unwrap();
        for table in tables.iter().filter(|table| table.name != "RSDP") {
            let file = format!("{}.dat", table.name);
            fs::write(directory.path().join(&file), &table.bytes).unwrap();
            let said = iasl(directory.path(), &["-d", &file]);
            let source = directory.path().join(format!("{}.dsl", table.name));
            let source = fs::read_to_string(source).unwrap();
            for complaint in ["Error", "Warning", "Invalid", "Incorrect", "Unknown"] {
                assert!(
                    !said.contains(complaint) && !source.contains(complaint),
                    "{machine}, {}:\n{said}\n{source}",
                    table.name
                );
            }
        }
        let said = iasl(directory.path(), &["-oa", "-p", "again", "DSDT.dsl"]);
        assert!(
            said.contains("0 Errors, 0 Warnings, 0 Remarks"),
            "{machine}:\n{said}"
        );
        // But for the header, which names the compiler, the disassembly lost nothing.
        let dsdt = fs::read(directory.path().join("DSDT.dat")).unwrap();
        let again = fs::read(directory.path().join("again.aml")).unwrap();
        assert!(dsdt[36..] == again[36..], "{machine}");
    }
}

#[test]
fn the_dsdt_says_what_the_machine_is() {
    let directory = tempfile::tempdir().unwrap();
    let dsdt = table(&platform(64), "DSDT");
    fs::write(directory.path().join("DSDT.dat"), &dsdt.bytes).unwrap();
    iasl(directory.path(), &["-d", "DSDT.dat"]);
    let source = fs::read_to_string(directory.path().join("DSDT.dsl")).unwrap();
    // The disassembler adds comments and wraps lines.
    let source: String = source
        .lines()
        .map(|line| line.split("//").next().unwrap())
        .flat_map(str::split_whitespace)
        .collect::<Vec<_>>()
        .join(" ");
    for part in [
        "Device (C000) { Name (_HID, \"ACPI0007\"",
        "Device (C001)",
        "Device (PCI0)",
        "EisaId (\"PNP0A08\")",
        "0xC0000000,",
        "0xDFFFFFFF,",
        "0x20000000,",
        "ToUUID (\"33db4d5b-1ff7-401c-9657-7441c03dd766\")",
        "Memory32Fixed (ReadWrite, 0xE0000000,",
        "EisaId (\"PNP0501\")",
        "IO (Decode16, 0x03F8, 0x03F8, 0x01, 0x08, )",
        "Interrupt (ResourceConsumer, Edge, ActiveHigh, Exclusive, ,, ) { 0x00000004, }",
        "EisaId (\"PNP0B00\")",
        "IO (Decode16, 0x0070, 0x0070, 0x01, 0x02, )",
        "Device (PEVT) { Name (_HID, \"QEMU0001\"",
        "Name (_STA, 0x0F)",
        "IO (Decode16, 0x0505, 0x0505, 0x01, 0x01, )",
        "\"ACPI0013\"",
        "Interrupt (ResourceConsumer, Edge, ActiveHigh, Exclusive, ,, ) { 0x00000005, }",
        "If ((Arg0 == 0x05)) { Notify (\\_SB.PWRB, 0x80)",
        "EisaId (\"PNP0C0C\")",
        "Name (\\_S5, Package (0x04) { 0x05, Zero, Zero, Zero })",
    ] {
        assert!(
            without_comments(&source).contains(part),
            "no {part} in:\n{source}"
        );
    }
}

#[test]
fn the_event_interrupt_and_no_other_presses_the_power_button() {
    let pressed = "Device Notify on [PWRB]";
    let said = execute("\\_SB.GED0._EVT 5");
    assert!(
        said.contains(pressed) && said.contains("Value 0x80"),
        "{said}"
    );
    let said = execute("\\_SB.GED0._EVT 4");
    assert!(!said.contains(pressed), "{said}");
}

#[test]
fn the_host_bridge_grants_what_is_asked_and_refuses_what_it_does_not_know() {
    let pci = "5b 4d db 33 f7 1f 1c 40 96 57 74 41 c0 3d d7 66";
    let osc = |uuid: &str, revision: u32| {
        execute(&format!(
            "\\_SB.PCI0._OSC ({uuid}) {revision} 3 (00 00 00 00 1f 00 00 00 1d 00 00 00)"
        ))
    };
    for (said, answer) in [
        (osc(pci, 1), "00 00 00 00 1F 00 00 00 1D 00 00 00"),
        (osc(pci, 2), "08 00 00 00 1F 00 00 00 1D 00 00 00"),
        (
            osc(&pci.replace("66", "67"), 1),
            "04 00 00 00 1F 00 00 00 1D 00 00 00",
        ),
    ] {
        assert!(said.contains(answer), "no {answer} in:\n{said}");
    }
}

/// ASL without its `/* … */`.
fn without_comments(source: &str) -> String {
    let mut plain = String::new();
    let mut rest = source;
    while let Some((before, comment)) = rest.split_once("/*") {
        plain.push_str(before.trim_end());
        plain.push(' ');
        rest = comment
            .split_once("*/")
            .map_or("", |(_, rest)| rest)
            .trim_start();
    }
    plain + rest
}

#[test]
fn checksums_and_lengths_are_right() {
    for (machine, platform) in machines() {
        for table in tables(&platform).unwrap().iter() {
            let name = table.name;
            assert_eq!(sum(&table.bytes), 0, "{machine}, {name}");
            if name == "RSDP" {
                assert_eq!(sum(&table.bytes[..20]), 0, "{machine}");
                assert_eq!(u32_at(table, 20), 36);
            } else {
                assert_eq!(
                    u32_at(table, 4) as usize,
                    table.bytes.len(),
                    "{machine}, {name}"
                );
            }
        }
    }
}

#[test]
fn the_guest_finds_every_table_from_the_rsdp() {
    let platform = platform(64);
    let memory = memory(&platform);
    let tables = tables(&platform).unwrap();
    tables.write(&memory).unwrap();
    let u64_in = |address: u64| memory.read_obj::<u64>(GuestAddress(address)).unwrap();
    let signature = |address: u64| memory.read_obj::<[u8; 4]>(GuestAddress(address)).unwrap();

    assert_eq!(tables.rsdp() % 16, 0);
    assert_eq!(signature(tables.rsdp()), *b"RSD ");
    let xsdt = u64_in(tables.rsdp() + 24);
    assert_eq!(signature(xsdt), *b"XSDT");
    let entries: Vec<u64> = (0..3).map(|i| u64_in(xsdt + 36 + 8 * i)).collect();
    let signatures: Vec<_> = entries.iter().map(|&entry| signature(entry)).collect();
    assert_eq!(signatures, [*b"FACP", *b"APIC", *b"MCFG"]);
    let dsdt = u64_in(entries[0] + 140);
    assert_eq!(signature(dsdt), *b"DSDT");
}

#[test]
fn tables_of_the_largest_machine_stay_in_their_place_without_overlap() {
    let mut platform = platform(64);
    platform.cpus = 255;
    let tables = tables(&platform).unwrap();
    let mut end = layout::ACPI.start;
    for table in tables.iter() {
        assert!(table.address >= end, "{}", table.name);
        end = table.address + table.bytes.len() as u64;
    }
    assert!(end <= layout::ACPI.end());
}

#[test]
fn the_fadt_describes_a_hardware_reduced_machine() {
    let fadt = table(&platform(64), "FADT");
    assert_eq!((fadt.bytes[8], fadt.bytes.len()), (6, 276));
    let flags = u32_at(&fadt, 112);
    for (bit, name) in [
        (0, "WBINVD"),
        (4, "PWR_BUTTON"),
        (5, "SLP_BUTTON"),
        (10, "RESET_REG_SUP"),
        (12, "HEADLESS"),
        (20, "HW_REDUCED_ACPI"),
    ] {
        assert!(flags & (1 << bit) != 0, "{name}");
    }
    // SystemIO, 8 bits at offset 0, byte access.
    let port = |offset: usize| {
        assert_eq!(fadt.bytes[offset..offset + 4], [1, 8, 0, 1]);
        u64_at(&fadt, offset + 4)
    };
    assert_eq!(port(116), 0x602, "RESET_REG");
    assert_eq!(fadt.bytes[128], 1, "RESET_VALUE");
    assert_eq!(port(244), 0x600, "SLEEP_CONTROL_REG");
    assert_eq!(port(256), 0x601, "SLEEP_STATUS_REG");
}

#[test]
fn the_fadt_denies_what_the_machine_has_not() {
    let mut platform = platform(64);
    let vga_not_present = 1 << 2;
    let cmos_rtc_not_present = 1 << 5;
    let fadt = table(&platform, "FADT");
    assert_eq!(u16_at(&fadt, 109), vga_not_present);
    assert_eq!(fadt.bytes[108], 0x32, "CENTURY");
    platform.cmos_rtc = None;
    let fadt = table(&platform, "FADT");
    assert_eq!(u16_at(&fadt, 109), vga_not_present | cmos_rtc_not_present);
    assert_eq!(fadt.bytes[108], 0, "CENTURY");
}

#[test]
fn the_madt_has_a_local_apic_for_each_cpu_and_the_io_apic() {
    let madt = table(&platform(64), "MADT");
    assert_eq!(u32_at(&madt, 36), 0xfee0_0000);
    assert_eq!(u32_at(&madt, 40), 0, "PCAT_COMPAT");
    assert_eq!(madt.bytes[44..52], [0, 8, 0, 0, 1, 0, 0, 0]);
    assert_eq!(madt.bytes[52..60], [0, 8, 1, 1, 1, 0, 0, 0]);
    assert_eq!(
        madt.bytes[60..],
        [1, 12, 0, 0, 0x00, 0x00, 0xc0, 0xfe, 0, 0, 0, 0]
    );
}

#[test]
fn the_mcfg_names_bus_0_alone() {
    let mcfg = table(&platform(64), "MCFG");
    assert_eq!(mcfg.bytes.len(), 60);
    assert_eq!(u64_at(&mcfg, 44), 0xe000_0000);
    assert_eq!(mcfg.bytes[52..], [0; 8]);
}

#[test]
fn the_wdat_says_which_access_is_which_action() {
    let platform = with_watchdog();
    let directory = tempfile::tempdir().unwrap();
    let wdat = table(&platform, "WDAT");
    fs::write(directory.path().join("WDAT.dat"), &wdat.bytes).unwrap();
    iasl(directory.path(), &["-d", "WDAT.dat"]);
    let source = fs::read_to_string(directory.path().join("WDAT.dsl")).unwrap();
    let fields: Vec<(&str, &str)> = source
        .lines()
        .filter_map(|line| {
            let (name, value) = line.split_once(" : ")?;
            Some((name.rsplit(']').next()?.trim(), value.trim()))
        })
        .collect();
    let values = |name: &str| -> Vec<&str> {
        let of_name = fields.iter().filter(|(field, _)| *field == name);
        of_name.map(|(_, value)| *value).collect()
    };
    for (name, value) in [
        ("Header Length", "00000020"),
        ("PCI Segment", "00FF"),
        ("Timer Period", "00000001"),
        ("Max Count", "00007530"),
        ("Min Count", "00000001"),
        ("Enabled", "1"),
        ("Stopped When Asleep", "0"),
        ("Watchdog Entry Count", "0000000A"),
    ] {
        assert_eq!(values(name), [value], "{name}:\n{source}");
    }
    let actions = values("Watchdog Action");
    assert_eq!(
        actions,
        ["01", "04", "05", "06", "08", "09", "0A", "0B", "20", "21"],
        "{source}"
    );
    let instructions = values("Instruction");
    assert_eq!(
        instructions,
        ["02", "01", "01", "03", "00", "02", "00", "02", "00", "02"],
        "{source}"
    );
    let ports: Vec<_> = values("Address").iter().map(|port| &port[13..]).collect();
    assert_eq!(
        ports,
        [
            "618", "618", "614", "614", "610", "610", "610", "610", "61C", "61C"
        ],
        "{source}"
    );
    assert!(values("Bit Width").iter().all(|width| *width == "20"));
    assert!(
        values("Encoded Access Width")
            .iter()
            .all(|width| width.starts_with("03"))
    );
    // The guest finds it.
    let xsdt = table(&platform, "XSDT");
    assert_eq!(u64_at(&xsdt, 36 + 3 * 8), wdat.address);
}

#[test]
fn a_pci_window_beyond_32_bits_is_an_error() {
    for (base, size) in [
        (1 << 32, 1 << 20),
        (0xffff_0000, 0x1_0001),
        (0, 0),
        (0, 1 << 32),
    ] {
        let mut platform = platform(64);
        platform.pci_mmio = MmioRange { base, size };
        assert!(matches!(tables(&platform), Err(Error::Range { .. })));
    }
}

#[test]
fn powering_off_writes_slp_typ_5_and_slp_en() {
    assert_eq!(S5_SLEEP_CONTROL, 0x34);
}
