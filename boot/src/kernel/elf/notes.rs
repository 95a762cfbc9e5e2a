//! The notes of an ELF file, among which is the PVH entry.

use super::{Error, bad_field, u32_at};

/// "The entry point, as a physical address, in 32-bit mode with paging disabled" (Xen, `public/elfnote.h`).
const XEN_ELFNOTE_PHYS32_ENTRY: u32 = 18;
const XEN: &[u8] = b"Xen\0";

/// A note is three words, a name and a descriptor, both of these filled up to a multiple of 4 bytes (as the GNU tools
/// and Linux have it for 64-bit files as well).
const HEADER_SIZE: usize = 12;
const ALIGNMENT: usize = 4;

/// The address in the first XEN_ELFNOTE_PHYS32_ENTRY of a note segment, if it has one. A note that runs over the end of
/// the segment is not one.
pub(super) fn pvh_entry(segment: &[u8]) -> Result<Option<u32>, Error> {
    let mut rest = segment;
    while let Some((note, behind)) = Note::first(rest) {
        if note.kind == XEN_ELFNOTE_PHYS32_ENTRY && note.name == XEN {
            return note.address().map(Some);
        }
        rest = behind;
    }
    Ok(None)
}

struct Note<'a> {
    kind: u32,
    name: &'a [u8],
    descriptor: &'a [u8],
}

impl<'a> Note<'a> {
    /// The note at the start of `bytes`, and what follows it.
    fn first(bytes: &'a [u8]) -> Option<(Self, &'a [u8])> {
        let (header, rest) = bytes.split_at_checked(HEADER_SIZE)?;
        let size = |offset| usize::try_from(u32_at(header, offset)).ok();
        let (name, rest) = field(rest, size(0)?)?;
        let (descriptor, rest) = field(rest, size(4)?)?;
        let kind = u32_at(header, 8);
        let note = Self {
            kind,
            name,
            descriptor,
        };
        Some((note, rest))
    }

    /// The descriptor as an address: 32 bits, for which a 64-bit kernel may take 64.
    fn address(&self) -> Result<u32, Error> {
        let size = self.descriptor.len();
        if size != 4 && size != 8 {
            return Err(bad_field("n_descsz of the PVH entry", size as u64));
        }
        let (low, high) = (u32_at(self.descriptor, 0), u32_at(self.descriptor, 4));
        match high {
            0 => Ok(low),
            _ => Err(Error::Entry(u64::from(high) << 32 | u64::from(low))),
        }
    }
}

/// The first `size` of `bytes`, and what is behind them and their filling. The last field of a segment may lack the
/// filling.
fn field(bytes: &[u8], size: usize) -> Option<(&[u8], &[u8])> {
    let (field, rest) = bytes.split_at_checked(size)?;
    let filling = size.wrapping_neg() % ALIGNMENT;
    Some((field, rest.get(filling..).unwrap_or(&[])))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::test_utils::note;

    const ENTRY: [u8; 8] = [0x30, 0x0a, 0, 1, 0, 0, 0, 0];

    #[test]
    fn the_entry_is_found_behind_other_notes() {
        let notes = [
            note(b"Linux\0", 18, &[1, 2, 3, 4]),
            note(b"Xen\0", 6, b"linux\0"),
            note(b"GNU\0", 3, &[7; 20]),
            note(b"Xen\0", 18, &ENTRY),
            note(b"Xen\0", 18, &[0xff; 4]),
        ];
        assert_eq!(pvh_entry(&notes.concat()), Ok(Some(0x0100_0a30)));
    }

    #[test]
    fn an_entry_of_32_bits_is_one_and_of_other_sizes_is_none() {
        assert_eq!(
            pvh_entry(&note(b"Xen\0", 18, &ENTRY[..4])),
            Ok(Some(0x0100_0a30))
        );
        for size in [0, 3, 5, 7] {
            let error = pvh_entry(&note(b"Xen\0", 18, &ENTRY[..size]));
            assert!(
                matches!(error, Err(Error::BadField { .. })),
                "{size}: {error:?}"
            );
        }
    }

    #[test]
    fn an_entry_above_4_gib_is_an_error() {
        let descriptor = 0x1_0000_0000u64.to_le_bytes();
        assert_eq!(
            pvh_entry(&note(b"Xen\0", 18, &descriptor)),
            Err(Error::Entry(1 << 32))
        );
    }

    #[test]
    fn notes_that_run_over_the_end_are_none() {
        let whole = note(b"Xen\0", 18, &ENTRY);
        for length in 0..whole.len() {
            assert_eq!(pvh_entry(&whole[..length]), Ok(None), "{length}");
        }
        let mut endless = whole.clone();
        endless[4..8].copy_from_slice(&u32::MAX.to_le_bytes());
        assert_eq!(pvh_entry(&endless), Ok(None));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..256)) {
            let _ = pvh_entry(&bytes);
        }
    }
}
