//! Names a file that is no kernel by its first bytes, so that whoever gave the wrong one knows which it was.

/// What `head`, the start of a file without a bzImage's magic numbers, is; `None` if nothing known.
pub(super) fn looks_like(head: &[u8]) -> Option<&'static str> {
    // The EFI stub of arm64 and riscv is the kernel image itself: their magic is in its 64-byte header.
    match head.get(0x38..0x3c) {
        Some(b"ARM\x64") => return Some("a kernel for arm64"),
        Some(b"RSC\x05") => return Some("a kernel for RISC-V"),
        _ => (),
    }
    if head.starts_with(b"MZ") {
        return pe(head);
    }
    MAGICS
        .iter()
        .find(|(magic, _)| head.starts_with(magic))
        .map(|&(_, name)| name)
}

const MAGICS: [(&[u8], &str); 13] = [
    (b"\x1f\x8b", "a gzip archive"),
    (b"\xfd7zXZ\0", "an xz archive"),
    (b"\x28\xb5\x2f\xfd", "a zstd archive"),
    (b"BZh", "a bzip2 archive"),
    (b"\x02\x21\x4c\x18", "an lz4 archive"),
    (b"\x04\x22\x4d\x18", "an lz4 archive"),
    (b"070701", "an initrd (a cpio archive)"),
    (b"070702", "an initrd (a cpio archive)"),
    (b"\x27\x05\x19\x56", "a U-Boot image"),
    (b"\xd0\x0d\xfe\xed", "a device tree or FIT image"),
    (b"QFI\xfb", "a qcow2 disk image"),
    (b"!<arch>\n", "a Debian package or other ar archive"),
    (b"#!", "a script"),
];

/// Names a DOS or EFI program; `None` if it ends before one can tell it from the start of a bzImage, which has an EFI
/// stub too.
fn pe(head: &[u8]) -> Option<&'static str> {
    if head.get(4..8) == Some(b"zimg") {
        return Some("a compressed EFI kernel (zboot) of another architecture");
    }
    // Behind its setup header is where a bzImage has its magic numbers: there they were looked for already.
    if head.len() < super::bzimage::MIN_HEADER_END {
        return None;
    }
    let machine = head
        .get(0x3c..0x40)
        .and_then(|bytes| Some(u32::from_le_bytes(bytes.try_into().ok()?)))
        .and_then(|offset| usize::try_from(offset).ok())
        .and_then(|pe| {
            let is_pe = head.get(pe..pe.checked_add(4)?)? == b"PE\0\0";
            is_pe.then(|| u16_at(head, pe.checked_add(4)?)).flatten()
        });
    Some(match machine {
        Some(0x8664) => "an EFI program for x86_64 (a unified kernel image or boot loader)",
        Some(0xaa64) => "an EFI program for arm64",
        Some(0x014c) => "an EFI program for 32-bit x86",
        Some(_) => "an EFI program for another architecture",
        None => "a DOS program",
    })
}

fn u16_at(bytes: &[u8], offset: usize) -> Option<u16> {
    let bytes = bytes.get(offset..offset.checked_add(2)?)?;
    Some(u16::from_le_bytes([bytes[0], bytes[1]]))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A file of 4 KiB with `parts` at their offsets.
    fn file(parts: &[(usize, &[u8])]) -> Vec<u8> {
        let mut file = vec![0; 4096];
        for &(offset, bytes) in parts {
            file[offset..offset + bytes.len()].copy_from_slice(bytes);
        }
        file
    }

    fn pe_for(machine: u16) -> Vec<u8> {
        file(&[
            (0, b"MZ"),
            (0x3c, &[0x80, 0, 0, 0]),
            (0x80, b"PE\0\0"),
            (0x84, &machine.to_le_bytes()),
        ])
    }

    #[test]
    fn files_that_people_mistake_for_a_kernel_are_named() {
        for (file, name) in [
            (file(&[(0x38, b"ARM\x64")]), "a kernel for arm64"),
            (
                file(&[(0, b"MZ"), (0x38, b"ARM\x64")]),
                "a kernel for arm64",
            ),
            (
                file(&[(0, b"MZ"), (0x38, b"RSC\x05")]),
                "a kernel for RISC-V",
            ),
            (
                file(&[(0, b"MZ\0\0zimg")]),
                "a compressed EFI kernel (zboot) of another architecture",
            ),
            (
                pe_for(0x8664),
                "an EFI program for x86_64 (a unified kernel image or boot loader)",
            ),
            (pe_for(0xaa64), "an EFI program for arm64"),
            (pe_for(0x6264), "an EFI program for another architecture"),
            (file(&[(0, b"MZ")]), "a DOS program"),
            (b"\x1f\x8b\x08".to_vec(), "a gzip archive"),
            (b"070701".to_vec(), "an initrd (a cpio archive)"),
            (b"#!/bin/sh\n".to_vec(), "a script"),
        ] {
            assert_eq!(looks_like(&file), Some(name));
        }
    }

    #[test]
    fn the_cut_off_start_of_a_bzimage_is_not_called_a_program() {
        assert_eq!(looks_like(&pe_for(0x8664)[..0x200]), None);
    }

    #[test]
    fn a_pe_header_outside_the_file_is_not_followed() {
        for offset in [4092u32, 4096, u32::MAX - 3, u32::MAX] {
            let file = file(&[(0, b"MZ"), (0x3c, &offset.to_le_bytes())]);
            assert_eq!(looks_like(&file), Some("a DOS program"));
        }
    }

    proptest! {
        #[test]
        fn any_bytes_behind_any_magic_are_looked_at_without_panic(
            magic in prop::sample::select(vec![&b""[..], b"MZ", b"MZ\0\0zimg"]),
            rest in prop::collection::vec(any::<u8>(), 0..1024),
        ) {
            let mut file = magic.to_vec();
            file.extend(rest);
            let _ = looks_like(&file);
        }
    }
}
