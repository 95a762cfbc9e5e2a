#![allow(clippy::unwrap_used, clippy::panic)]

use std::fs;
use std::process::Command;

use proptest::prelude::*;
use vm_memory::{Bytes, GuestAddress};

use super::*;
use crate::test_utils::{memory, platform};

fn smbios(oem_strings: &[&str]) -> Smbios {
    Smbios {
        oem_strings: oem_strings.iter().map(|s| (*s).to_owned()).collect(),
        ..platform(64).smbios
    }
}

fn sum(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0, |sum, byte| sum.wrapping_add(*byte))
}

/// What dmidecode says of `tables`, called with `arguments`.
fn dmidecode(tables: &Tables, arguments: &[&str]) -> String {
    // Its dumps have the structures at 0x20, and an entry point that says so.
    const STRUCTURES: usize = 0x20;
    let mut dump = tables.entry_point.to_vec();
    dump[16..].copy_from_slice(&(STRUCTURES as u64).to_le_bytes());
    dump[5] = dump[5].wrapping_sub(sum(&dump));
    dump.resize(STRUCTURES, 0);
    dump.extend(tables.structures.iter());
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("dump");
    fs::write(&file, dump).unwrap();
    let output = Command::new("dmidecode")
        .args(arguments)
        .arg("--from-dump")
        .arg(&file)
        .output()
        .unwrap_or_else(|error| {
            panic!(
                "cannot run dmidecode ({error}): install Debian's dmidecode, which this test needs"
            )
        });
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    for complaint in [
        "Invalid",
        "Wrong",
        "broken",
        "truncated",
        "BAD",
        "OUT OF SPEC",
    ] {
        assert!(!said.contains(complaint), "{said}");
    }
    said.into_owned()
}

#[test]
fn the_entry_point_is_the_one_of_the_specification() {
    let tables = tables(&smbios(&[])).unwrap();
    let entry_point = tables.entry_point;
    assert_eq!(entry_point[..5], *b"_SM3_");
    assert_eq!(entry_point[6..12], [0x18, 3, 7, 0, 1, 0]);
    assert_eq!(
        entry_point[12..16],
        (tables.structures.len() as u32).to_le_bytes()
    );
    assert_eq!(entry_point[16..], 0xa_0000u64.to_le_bytes());
    assert_eq!(sum(&entry_point), 0);
}

#[test]
fn the_structures_are_these_bytes() {
    let expected: [&[u8]; 6] = [
        &[
            &[
                0, 26, 0, 0, 1, 0, 0, 0, 2, 0, 8, 0, 0, 0, 0, 0, 0, 0, 1, 0x10,
            ][..],
            &[0xff, 0xff, 0xff, 0xff, 0, 0],
            b"minivmm\0",
            b"01/01/2026\0\0",
        ]
        .concat(),
        &[
            &[1, 27, 1, 0, 1, 2, 0, 3][..],
            &[0x33, 0x22, 0x11, 0x00, 0x55, 0x44, 0x77, 0x66],
            &[0x88, 0x99, 0xaa, 0xbb, 0xcc, 0xdd, 0xee, 0xff],
            &[6, 0, 4],
            b"minivmm\0KVM virtual machine\0test\0Virtual Machine\0\0",
        ]
        .concat(),
        &[
            &[
                3, 22, 2, 0, 1, 1, 0, 0, 0, 3, 3, 3, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0,
            ][..],
            b"minivmm\0\0",
        ]
        .concat(),
        &[&[11, 5, 3, 0, 2][..], b"one\0the other\0\0"].concat(),
        &[32, 11, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        &[127, 4, 5, 0, 0, 0],
    ];
    let tables = tables(&smbios(&["one", "the other"])).unwrap();
    assert_eq!(*tables.structures, expected.concat());
}

#[test]
fn dmidecode_reads_what_was_said() {
    let tables = tables(&smbios(&["io.systemd.credential:a=b", "grüße"])).unwrap();
    for (keyword, value) in [
        ("system-uuid", "00112233-4455-6677-8899-aabbccddeeff"),
        ("system-manufacturer", "minivmm"),
        ("system-product-name", "KVM virtual machine"),
        ("system-serial-number", "test"),
        ("system-family", "Virtual Machine"),
        ("bios-vendor", "minivmm"),
        ("bios-release-date", "01/01/2026"),
        ("chassis-type", "Other"),
        ("chassis-manufacturer", "minivmm"),
    ] {
        let said = dmidecode(&tables, &["--string", keyword]);
        assert_eq!(said.lines().last(), Some(value), "{keyword}:\n{said}");
    }
    let said = dmidecode(&tables, &["--oem-string", "1"]);
    assert!(said.contains("io.systemd.credential:a=b"), "{said}");
    let said = dmidecode(&tables, &[]);
    for words in [
        "SMBIOS 3.7.0 present",
        "ACPI is supported",
        "System is a virtual machine",
        "Wake-up Type: Power Switch",
        "Status: No errors detected",
        "End Of Table",
    ] {
        assert!(said.contains(words), "no `{words}`:\n{said}");
    }
}

#[test]
fn dmidecode_reads_tables_of_the_largest_size() {
    let many: Vec<String> = (0..1900).map(|n| format!("{n:0120}")).collect();
    let tables = tables(&Smbios {
        oem_strings: many,
        ..smbios(&[])
    })
    .unwrap();
    assert!(tables.structures.len() > MAX_STRUCTURES * 9 / 10);
    let said = dmidecode(&tables, &["--type", "11"]);
    assert!(said.contains(&format!("String 1: {:0120}", 0)), "{said}");
}

#[test]
fn every_byte_of_the_limit_can_be_used_and_none_more() {
    let with = |length| {
        tables(&Smbios {
            oem_strings: vec!["x".repeat(length)],
            ..smbios(&[])
        })
    };
    let rest = with(1).unwrap().structures.len() - 1;
    let largest = MAX_STRUCTURES - rest;
    assert_eq!(MAX_STRUCTURES, 245_760);
    assert_eq!(with(largest).unwrap().structures.len(), MAX_STRUCTURES);
    let error = with(largest + 1).unwrap_err();
    assert_eq!(
        error,
        Error::TooLarge {
            needed: 245_761,
            largest: vec![]
        }
    );
    let message = error.to_string();
    for words in ["245761", "245760", "take 1 bytes away"] {
        assert!(message.contains(words), "{message}");
    }
}

fn credential(name: &str, size: usize) -> Credential {
    Credential {
        name: name.to_owned(),
        value: Zeroizing::new(vec![7; size]),
    }
}

#[test]
fn credentials_are_strings_behind_the_others() {
    let tables = tables(&Smbios {
        credentials: vec![credential("one", 3), credential("two", 0)],
        ..smbios(&["first"])
    })
    .unwrap();
    let structures = read(&tables.structures);
    let (_, _, fields, strings) = structures.iter().find(|s| s.0 == 11).unwrap();
    assert_eq!(*fields, [3]);
    assert_eq!(
        *strings,
        [
            "first",
            "io.systemd.credential.binary:one=BwcH",
            "io.systemd.credential.binary:two="
        ]
    );
    // It was reserved at once, so nothing of it was left behind elsewhere.
    assert_eq!(tables.structures.capacity(), tables.structures.len());
}

#[test]
fn credentials_beyond_the_limit_are_named_by_size() {
    let credentials = [("a", 3000), ("b", 180_000), ("c", 6), ("d", 9000)];
    let error = tables(&Smbios {
        credentials: credentials
            .map(|(name, size)| credential(name, size))
            .into(),
        ..smbios(&[])
    });
    let message = error.unwrap_err().to_string();
    assert!(
        message.ends_with("are `b` (240031), `d` (12031), `a` (4031)"),
        "{message}"
    );
}

#[test]
fn strings_that_smbios_cannot_carry_are_refused_by_their_number() {
    assert_eq!(
        tables(&smbios(&["a", ""])),
        Err(Error::Empty {
            what: "string 2".to_owned()
        })
    );
    for character in ['\0', '\n', '\u{1b}', '\u{7f}', '\u{85}'] {
        assert_eq!(
            tables(&smbios(&[&format!("a{character}b")])),
            Err(Error::ControlCharacter {
                what: "string 1".to_owned(),
                character
            })
        );
    }
    let nameless = Smbios {
        serial: String::new(),
        ..smbios(&[])
    };
    assert!(matches!(tables(&nameless), Err(Error::Empty { .. })));
}

#[test]
fn a_guest_that_searches_finds_the_structures() {
    let platform = platform(64);
    let memory = memory(&platform);
    let tables = tables(&platform.smbios).unwrap();
    tables.write(&memory).unwrap();
    let at = (0xf_0000..0x10_0000u64)
        .step_by(16)
        .find(|at| memory.read_obj::<[u8; 5]>(GuestAddress(*at)).unwrap() == *b"_SM3_")
        .unwrap();
    let address: u64 = memory.read_obj(GuestAddress(at + 16)).unwrap();
    let mut found = vec![0; tables.structures.len()];
    memory
        .read_slice(&mut found, GuestAddress(address))
        .unwrap();
    assert!(found == *tables.structures);
}

/// The structures of a table as (type, handle, fields, strings), read as a guest does.
fn read(mut table: &[u8]) -> Vec<(u8, u16, Vec<u8>, Vec<String>)> {
    let mut structures = Vec::new();
    while !table.is_empty() {
        let (kind, length) = (table[0], usize::from(table[1]));
        let handle = u16::from_le_bytes([table[2], table[3]]);
        let fields = table[4..length].to_vec();
        let end = length
            + table[length..]
                .windows(2)
                .position(|w| w == [0, 0])
                .unwrap();
        let strings = table[length..end]
            .split(|byte| *byte == 0)
            .filter(|string| !string.is_empty())
            .map(|string| String::from_utf8(string.to_vec()).unwrap());
        structures.push((kind, handle, fields, strings.collect()));
        table = &table[end + 2..];
    }
    structures
}

proptest! {
    // Each has up to a quarter of a megabyte of text.
    #![proptest_config(ProptestConfig::with_cases(16))]

    #[test]
    fn all_strings_arrive_in_order_and_handles_differ(
        strings in prop::collection::vec("[ -~]{1,3000}", 0..80),
    ) {
        let smbios = Smbios { oem_strings: strings.clone(), ..smbios(&[]) };
        if let Ok(tables) = tables(&smbios) {
            let structures = read(&tables.structures);
            let types: Vec<u8> = structures.iter().map(|s| s.0).filter(|t| *t != 11).collect();
            prop_assert_eq!(types, [0, 1, 3, 32, 127]);
            prop_assert!(structures.iter().enumerate().all(|(n, s)| usize::from(s.1) == n));
            let arrived = structures.iter().filter(|s| s.0 == 11).flat_map(|s| s.3.clone());
            prop_assert_eq!(arrived.collect::<Vec<_>>(), strings);
        }
    }
}
