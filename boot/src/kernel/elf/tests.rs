#![allow(clippy::unwrap_used, clippy::panic)]

use std::io::Cursor;

use proptest::prelude::*;

use super::super::Kernel;
use super::*;
use crate::test_utils::{ElfBuilder, ElfSegment, KernelBuilder, memory, platform};

const PVH_NOTE: usize = 2;

fn read(image: &[u8], entry: Entry) -> Result<Kernel, KernelError> {
    Kernel::read(&mut Cursor::new(image), entry)
}

/// What is wrong with the image that `change` makes, entered in 64-bit mode.
fn error(change: impl FnOnce(&mut ElfBuilder)) -> KernelError {
    error_at(Entry::Linux64, change)
}

fn error_at(entry: Entry, change: impl FnOnce(&mut ElfBuilder)) -> KernelError {
    let mut builder = ElfBuilder::default();
    change(&mut builder);
    read(&builder.build(), entry).unwrap_err()
}

fn field(error: KernelError) -> &'static str {
    match error {
        KernelError::Elf(Error::BadField { field, .. }) => field,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_vmlinux_goes_where_its_segments_say_and_is_entered_at_its_entry() {
    let kernel = read(&ElfBuilder::default().build(), Entry::Linux64).unwrap();
    let range = kernel.place(&platform(64).ram).unwrap();
    assert_eq!(range.start..range.end, ElfBuilder::RANGE);
    assert_eq!(
        (kernel.cmdline_size(), kernel.initrd_addr_max()),
        (2047, 0x7fff_ffff)
    );
    let Protocol::Linux64 { entry, header } = kernel.protocol(range) else {
        panic!("not entered in 64-bit mode");
    };
    assert_eq!(entry, ElfBuilder::ENTRIES.0);
    assert_eq!({ header.boot_flag }, 0xaa55);
}

#[test]
fn the_pvh_entry_is_the_one_in_the_note() {
    let kernel = read(&ElfBuilder::default().build(), Entry::Pvh).unwrap();
    let range = kernel.place(&platform(64).ram).unwrap();
    match kernel.protocol(range) {
        Protocol::Pvh { entry } => assert_eq!(entry, ElfBuilder::ENTRIES.1),
        other => panic!("{other:?}"),
    }
}

#[test]
fn loading_copies_each_segment_and_leaves_the_rest_zero() {
    let platform = platform(64);
    let memory = memory(&platform);
    let image = ElfBuilder::default().build();
    let kernel = read(&image, Entry::Linux64).unwrap();
    let range = kernel.place(&platform.ram).unwrap();
    kernel
        .load(&memory, &mut Cursor::new(&image), range)
        .unwrap();
    let mut loaded = vec![0; (range.end - range.start) as usize];
    memory
        .read_slice(&mut loaded, GuestAddress(range.start))
        .unwrap();
    let mut expected = vec![0; loaded.len()];
    for (offset, byte) in expected.iter_mut().take(0x2000).enumerate() {
        *byte = KernelBuilder::code_byte(offset);
    }
    expected[0x20_0000..0x20_0123].fill(0xda);
    assert!(loaded == expected);
}

#[test]
fn an_image_cut_off_at_any_length_is_an_error() {
    let image = ElfBuilder::default().build();
    for length in 6..image.len() {
        let kernel = read(&image[..length], Entry::Pvh);
        match kernel {
            Err(KernelError::Truncated {
                needed, length: l, ..
            }) => assert!(l == length as u64 && needed > l, "{length}: {needed}"),
            other => panic!("{length} bytes: {other:?}"),
        }
    }
}

#[test]
fn an_image_that_shrank_after_its_check_is_an_error() {
    let platform = platform(64);
    let image = ElfBuilder::default().build();
    let kernel = read(&image, Entry::Linux64).unwrap();
    let range = kernel.place(&platform.ram).unwrap();
    let loaded = kernel.load(
        &memory(&platform),
        &mut Cursor::new(&image[..0x1000]),
        range,
    );
    assert!(
        matches!(loaded, Err(KernelError::Load { .. })),
        "{loaded:?}"
    );
}

#[test]
fn an_elf_file_for_something_else_is_named() {
    let named = |change: fn(&mut ElfBuilder)| error(change).to_string();
    for (message, name) in [
        (named(|e| e.class = 1), "32-bit"),
        (named(|e| e.data = 2), "another architecture"),
        (named(|e| e.machine = 3), "32-bit x86"),
        (named(|e| e.machine = 183), "arm64"),
        (named(|e| e.machine = 243), "RISC-V"),
        (named(|e| e.machine = 21), "another architecture"),
        (named(|e| e.kind = 1), "object file, module"),
        (named(|e| e.kind = 4), "core dump"),
        (
            named(|e| e.segments[2].kind = 3),
            "a program for Linux itself",
        ),
    ] {
        assert!(message.contains(name), "{message}");
        assert!(message.contains("vmlinuz"), "{message}");
    }
}

#[test]
fn damaged_headers_are_named_by_their_field() {
    assert_eq!(field(error(|e| e.program_header_size = 32)), "e_phentsize");
    assert_eq!(
        field(error(|e| e.segments[1].size = Some(0x122))),
        "p_filesz"
    );
    let many = error(|e| e.segments = vec![e.segments[0].clone(); 65]);
    assert_eq!(field(many), "e_phnum");
    let notes = error_at(Entry::Pvh, |e| {
        e.segments[PVH_NOTE].bytes = vec![0; 0x1_0001]
    });
    assert_eq!(field(notes), "p_filesz");
    let size = error_at(Entry::Pvh, |e| {
        e.segments[PVH_NOTE].bytes = crate::test_utils::note(b"Xen\0", 18, &[1])
    });
    assert_eq!(field(size), "n_descsz of the PVH entry");
}

#[test]
fn offsets_that_overflow_are_damage_and_not_a_panic() {
    let mut image = ElfBuilder::default().build();
    image[32..40].copy_from_slice(&u64::MAX.to_le_bytes());
    assert_eq!(field(read(&image, Entry::Linux64).unwrap_err()), "e_phoff");
    let mut image = ElfBuilder::default().build();
    image[64 + 8..64 + 16].copy_from_slice(&u64::MAX.to_le_bytes());
    assert_eq!(field(read(&image, Entry::Linux64).unwrap_err()), "p_offset");
}

#[test]
fn a_file_without_loadable_segments_is_refused() {
    for change in [
        |e: &mut ElfBuilder| e.segments.clear(),
        |e: &mut ElfBuilder| e.segments.drain(..2).for_each(drop),
    ] {
        let error = error(change);
        assert!(
            matches!(error, KernelError::Elf(Error::NoSegment)),
            "{error:?}"
        );
    }
}

#[test]
fn segments_below_1_mib_or_above_4_gib_are_refused() {
    for (address, size) in [
        (0, None),
        (0x7000, None),
        (0xf_f000, Some(0x2000)),
        (0xffff_f000, Some(0x2000)),
        (1 << 32, None),
        (u64::MAX - 0x123, None),
    ] {
        let error = error(|e| {
            e.segments[1].address = address;
            e.segments[1].size = size;
        });
        assert!(
            matches!(error, KernelError::Elf(Error::Segment { .. })),
            "{address:#x}: {error:?}"
        );
    }
}

#[test]
fn a_segment_of_which_the_memory_has_a_part_is_told_how_much_memory_to_give() {
    let kernel = read(&ElfBuilder::default().build(), Entry::Linux64).unwrap();
    let error = kernel.place(&platform(23).ram).unwrap_err().to_string();
    assert!(error.contains("mem to at least 24 MiB"), "{error}");
    assert!(kernel.place(&platform(24).ram).is_ok());
}

#[test]
fn an_entry_outside_of_what_is_loaded_is_refused() {
    // Before, behind, and in the part of a segment that only memory has.
    for entry in [0, 0xff_ffff, 0x100_2000, 0x120_0123, 0xffff_ffff_8100_0000] {
        let error = error(|e| e.entry = entry);
        assert!(
            matches!(error, KernelError::Elf(Error::Entry(address)) if address == entry),
            "{entry:#x}: {error:?}"
        );
    }
    let error = error_at(Entry::Pvh, |e| {
        e.segments[PVH_NOTE].bytes = crate::test_utils::note(b"Xen\0", 18, &[0; 8]);
    });
    assert!(
        matches!(error, KernelError::Elf(Error::Entry(0))),
        "{error:?}"
    );
}

#[test]
fn a_kernel_without_pvh_note_is_refused_for_that_entry_alone() {
    let mut builder = ElfBuilder::default();
    builder.segments.remove(PVH_NOTE);
    assert!(read(&builder.build(), Entry::Linux64).is_ok());
    let error = read(&builder.build(), Entry::Pvh).unwrap_err();
    assert!(
        matches!(error, KernelError::Elf(Error::NoPvhEntry)),
        "{error:?}"
    );
    assert!(error.to_string().contains("kernel.entry"), "{error}");
}

#[test]
fn the_pvh_entry_is_found_in_the_second_of_two_note_segments() {
    let mut builder = ElfBuilder::default();
    let other = ElfSegment {
        bytes: crate::test_utils::note(b"GNU\0", 3, &[1; 20]),
        ..builder.segments[PVH_NOTE].clone()
    };
    builder.segments.insert(PVH_NOTE, other);
    assert!(read(&builder.build(), Entry::Pvh).is_ok());
}

proptest! {
    #[test]
    fn random_headers_are_refused_or_placed_inside_memory(
        entry in prop::sample::select(vec![Entry::Linux64, Entry::Pvh]),
        damage in prop::collection::vec((0usize..64 + 3 * 56, any::<u8>()), 0..12),
        length in 0usize..0x3000,
    ) {
        let mut image = ElfBuilder::default().build();
        for (offset, byte) in damage {
            image[offset] = byte;
        }
        image.truncate(length);
        let ram = platform(64).ram;
        if let Ok(kernel) = read(&image, entry)
            && let Ok(range) = kernel.place(&ram)
        {
            prop_assert!(range.start >= HIGH_RAM_START && range.start < range.end);
            prop_assert!(range.end <= 64 << 20);
            let entry = match kernel.protocol(range) {
                Protocol::Linux64 { entry, .. } => entry,
                Protocol::Pvh { entry } => entry.into(),
            };
            prop_assert!((range.start..range.end).contains(&entry));
        }
    }
}
