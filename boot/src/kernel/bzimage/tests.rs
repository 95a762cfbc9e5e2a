#![allow(clippy::unwrap_used, clippy::panic)]

use std::io::Cursor;

use proptest::prelude::*;
use vm_memory::Bytes;

use super::*;
use crate::test_utils::{KernelBuilder, memory, platform};

fn read(image: &[u8]) -> Result<BzImage, KernelError> {
    BzImage::parse(&image[..image.len().min(4096)], image.len() as u64)
}

fn ram(ranges: &[(u64, u64)]) -> Vec<RamRange> {
    let range = |&(base, size)| RamRange {
        base: GuestAddress(base),
        size,
    };
    ranges.iter().map(range).collect()
}

#[test]
fn the_image_that_a_kernel_build_makes_is_accepted() {
    let image = read(&KernelBuilder::default().build()).unwrap();
    assert_eq!(image.cmdline_size(), 2047);
    assert_eq!(image.initrd_addr_max(), 0x7fff_ffff);
    assert_eq!(image.payload, 0x2000);
}

#[test]
fn an_image_cut_off_at_any_length_is_an_error() {
    let image = KernelBuilder::default().build();
    for length in 1..image.len() {
        match read(&image[..length]) {
            Err(KernelError::Truncated {
                needed, length: l, ..
            }) => assert!(l == length as u64 && needed > l, "{length}: {needed}"),
            other => panic!("{length} bytes: {other:?}"),
        }
    }
}

#[test]
fn the_version_is_what_the_header_leads_to() {
    let mut image = KernelBuilder::default().build();
    let version = |image: &[u8]| read(image).unwrap().version(&mut Cursor::new(image));
    assert_eq!(version(&image), None);
    image[0x20e..0x210].copy_from_slice(&0x300u16.to_le_bytes());
    image[0x500..0x50c].copy_from_slice(b"6.12.9 (me)\0");
    assert_eq!(version(&image).as_deref(), Some("6.12.9 (me)"));
    image[0x503] = 0x1b;
    assert_eq!(version(&image).as_deref(), Some("6.1"));
    // Behind the real-mode part there is code.
    image[0x20e..0x210].copy_from_slice(&0x600u16.to_le_bytes());
    assert_eq!(version(&image), None);
}

#[test]
fn zero_setup_sectors_mean_four() {
    let builder = KernelBuilder {
        setup_sects: 0,
        ..Default::default()
    };
    let image = builder.build();
    assert_eq!(read(&image).unwrap().payload, 0x2000);
    assert!(matches!(
        read(&image[..image.len() - 1]),
        Err(KernelError::Truncated { .. })
    ));
}

#[test]
fn both_magic_numbers_are_needed() {
    for offset in [0x1fe, 0x1ff, 0x202, 0x205] {
        let mut image = KernelBuilder::default().build();
        image[offset] ^= 1;
        assert!(matches!(read(&image), Err(KernelError::NotAKernel(_))));
    }
}

#[test]
fn protocol_2_12_is_the_oldest() {
    let at = |version| {
        let builder = KernelBuilder {
            version,
            header_jump: 0x66,
            ..Default::default()
        };
        read(&builder.build())
    };
    assert!(at(0x020c).is_ok());
    let message = at(0x020b).unwrap_err().to_string();
    assert!(message.contains("2.11"), "{message}");
}

#[test]
fn a_32_bit_kernel_is_refused() {
    let builder = KernelBuilder {
        xloadflags: 0,
        ..Default::default()
    };
    assert!(matches!(
        read(&builder.build()),
        Err(KernelError::BzImage(Error::Not64Bit))
    ));
}

#[test]
fn damaged_fields_are_named() {
    let good = KernelBuilder::default;
    for (builder, name) in [
        (
            KernelBuilder {
                loadflags: 0,
                ..good()
            },
            "loadflags",
        ),
        (KernelBuilder { code: 0, ..good() }, "syssize"),
        (
            KernelBuilder {
                kernel_alignment: 0x30_0000,
                ..good()
            },
            "kernel_alignment",
        ),
        (
            KernelBuilder {
                kernel_alignment: 0,
                ..good()
            },
            "kernel_alignment",
        ),
        (
            KernelBuilder {
                header_jump: 0x65,
                ..good()
            },
            "jump",
        ),
    ] {
        match read(&builder.build()) {
            Err(KernelError::BzImage(Error::BadField { field, .. })) => assert_eq!(field, name),
            other => panic!("{name}: {other:?}"),
        }
    }
}

#[test]
fn code_too_short_for_the_64_bit_entry_is_refused() {
    let builder = KernelBuilder {
        code: 0x200,
        ..Default::default()
    };
    assert!(matches!(
        read(&builder.build()),
        Err(KernelError::Truncated { .. })
    ));
}

#[test]
fn fields_behind_the_header_are_not_taken_from_the_code_there() {
    let builder = KernelBuilder {
        version: 0x020c,
        header_jump: 0x66,
        ..Default::default()
    };
    let image = read(&builder.build()).unwrap();
    let header = image.header(image.place(&ram(&[(0, 64 << 20)])).unwrap());
    assert_eq!({ header.handover_offset }, 0xb0);
    assert_eq!({ header.kernel_info_offset }, 0);
}

#[test]
fn a_kernel_is_placed_at_its_preferred_address() {
    let image = read(&KernelBuilder::default().build()).unwrap();
    let range = image.place(&ram(&[(0, 64 << 20)])).unwrap();
    assert_eq!(
        range,
        KernelRange {
            start: 16 << 20,
            end: 24 << 20
        }
    );
    assert_eq!(image.entry(range), (16 << 20) + 0x200);
}

#[test]
fn memory_that_ends_exactly_behind_the_kernel_is_enough() {
    let image = read(&KernelBuilder::default().build()).unwrap();
    assert!(image.place(&ram(&[(0, 24 << 20)])).is_ok());
    let message = image
        .place(&ram(&[(0, (24 << 20) - 4096)]))
        .unwrap_err()
        .to_string();
    assert!(message.contains("8 MiB"), "{message}");
    assert!(message.contains("0x1000000"), "{message}");
    assert!(message.contains("mem to at least 24 MiB"), "{message}");
}

#[test]
fn a_relocatable_kernel_goes_above_a_hole_at_its_preferred_address() {
    let holed = ram(&[(0, 8 << 20), ((32 << 20) + 4096, 64 << 20)]);
    let image = read(&KernelBuilder::default().build()).unwrap();
    let range = image.place(&holed).unwrap();
    assert_eq!(range.start, 34 << 20);

    let fixed = KernelBuilder {
        relocatable: 0,
        ..Default::default()
    };
    let image = read(&fixed.build()).unwrap();
    assert!(matches!(
        image.place(&holed),
        Err(KernelError::NoRoom { .. })
    ));
}

#[test]
fn a_kernel_without_room_at_its_preferred_alignment_gets_a_smaller_one_and_is_told() {
    // RAM between two multiples of the preferred alignment.
    let offered = ram(&[(0, 1 << 20), ((17 << 20) + 0x1000, (8 << 20) + 0x10_0000)]);
    let place = |min_alignment| {
        let builder = KernelBuilder {
            kernel_alignment: 16 << 20,
            min_alignment,
            ..Default::default()
        };
        let image = read(&builder.build()).unwrap();
        let range = image.place(&offered).ok()?;
        Some((range.start, { image.header(range).kernel_alignment }))
    };
    assert_eq!(place(0), None);
    assert_eq!(place(21), Some((18 << 20, 2 << 20)));
    assert_eq!(place(12), Some((18 << 20, 2 << 20)));
    assert_eq!(place(22), None);
    // Absurd ones are not followed.
    assert_eq!(place(31), None);
    assert_eq!(place(255), None);
}

#[test]
fn a_kernel_at_its_preferred_alignment_keeps_its_header() {
    let image = read(&KernelBuilder::default().build()).unwrap();
    let range = image.place(&ram(&[(0, 64 << 20)])).unwrap();
    assert_eq!({ image.header(range).kernel_alignment }, 0x20_0000);
}

#[test]
fn a_kernel_without_preference_starts_at_1_mib_or_its_alignment() {
    let mut builder = KernelBuilder {
        pref_address: 0,
        ..Default::default()
    };
    let place = |builder: &KernelBuilder| {
        read(&builder.build())
            .unwrap()
            .place(&ram(&[(0, 64 << 20)]))
    };
    assert_eq!(place(&builder).unwrap().start, 2 << 20);
    builder.relocatable = 0;
    assert_eq!(place(&builder).unwrap().start, 1 << 20);
}

#[test]
fn a_kernel_that_must_run_below_1_mib_or_above_4_gib_is_refused() {
    for pref_address in [0x9000, (1 << 32) - (4 << 20), u64::MAX] {
        let builder = KernelBuilder {
            relocatable: 0,
            pref_address,
            ..Default::default()
        };
        let image = read(&builder.build()).unwrap();
        match image.place(&ram(&[(0, 3 << 30), (1 << 32, 1 << 30)])) {
            Err(KernelError::BzImage(Error::BadField { field, value })) => {
                assert_eq!((field, value), ("pref_address", pref_address));
            }
            other => panic!("{pref_address:#x}: {other:?}"),
        }
    }
}

#[test]
fn a_kernel_is_never_placed_above_the_identity_map() {
    let image = read(&KernelBuilder::default().build()).unwrap();
    assert!(
        image
            .place(&ram(&[(0, 8 << 20), (1 << 32, 1 << 30)]))
            .is_err()
    );
}

#[test]
fn a_signature_behind_the_code_counts_into_the_room_and_is_copied_harmlessly() {
    let builder = KernelBuilder {
        init_size: 0x1000,
        trailer: 0x7777,
        ..Default::default()
    };
    let image = read(&builder.build()).unwrap();
    let range = image.place(&ram(&[(0, 64 << 20)])).unwrap();
    assert_eq!(range.end - range.start, 0x2000 + 0x7777);
}

#[test]
fn loading_copies_the_protected_mode_part_and_nothing_else() {
    let platform = platform(32);
    let memory = memory(&platform);
    let bytes = KernelBuilder::default().build();
    let image = read(&bytes).unwrap();
    let range = image.place(&platform.ram).unwrap();
    image
        .load(&memory, &mut Cursor::new(&bytes), range)
        .unwrap();

    let mut loaded = vec![0; 0x2001];
    memory
        .read_slice(&mut loaded, GuestAddress(range.start))
        .unwrap();
    assert_eq!(loaded.pop(), Some(0));
    assert_eq!(loaded, bytes[bytes.len() - 0x2000..]);
}

#[test]
fn an_image_that_grew_after_its_check_is_an_error() {
    let platform = platform(32);
    let memory = memory(&platform);
    let mut bytes = KernelBuilder::default().build();
    let image = read(&bytes).unwrap();
    bytes.push(0);
    let range = image.place(&platform.ram).unwrap();
    assert!(matches!(
        image.load(&memory, &mut Cursor::new(&bytes), range),
        Err(KernelError::Changed)
    ));
}

/// Reads `image` and, if it is accepted, places it: what comes out must lie in the memory that was offered.
fn read_and_place(image: &[u8]) {
    let offered = ram(&[(0, 3 << 30), (1 << 32, 1 << 30)]);
    if let Ok(image) = read(image)
        && let Ok(range) = image.place(&offered)
    {
        assert!(range.start >= HIGH_RAM_START);
        assert!(range.start < range.end && range.end <= 3 << 30);
        assert!(image.entry(range) < range.end);
        assert!(image.payload <= range.end - range.start);
    }
}

proptest! {
    #[test]
    fn random_files_are_refused_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..8192)) {
        prop_assert!(read(&bytes).is_err());
    }

    #[test]
    fn random_setup_headers_are_refused_or_placed_inside_memory(
        header in prop::collection::vec(any::<u8>(), 0x290 - 0x1f1),
        length in 0usize..0x4000,
    ) {
        let mut image = KernelBuilder::default().build();
        image[0x1f1..0x290].copy_from_slice(&header);
        // Keep what decides whether the rest is looked at at all.
        image[0x1fe..0x202].copy_from_slice(&[0x55, 0xaa, 0xeb, 0x6a]);
        image[0x202..0x206].copy_from_slice(b"HdrS");
        image[0x206..0x208].copy_from_slice(&[0x0f, 0x02]);
        image[0x1f4..0x1f8].copy_from_slice(&[0x10, 0, 0, 0]);
        image[0x211] |= 1;
        image[0x236] |= 1;
        image.resize(length, 0);
        read_and_place(&image);
    }

    #[test]
    fn random_field_values_are_refused_or_placed_inside_memory(
        relocatable: u8,
        alignment_bit in 0u32..32,
        pref_address: u64,
        small_pref in 0u64..1 << 33,
        init_size: u32,
    ) {
        for pref_address in [pref_address, small_pref] {
            let builder = KernelBuilder {
                relocatable,
                kernel_alignment: 1 << alignment_bit,
                pref_address,
                init_size,
                ..Default::default()
            };
            read_and_place(&builder.build());
        }
    }
}
