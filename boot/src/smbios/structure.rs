//! One SMBIOS structure: a header, fields that are its type's, and the strings that they count (6.1.2 and 6.1.3).

/// Type, length, handle.
const HEADER_SIZE: usize = 4;

/// A structure without a handle yet.
#[derive(Debug)]
pub(super) struct Structure<'a> {
    kind: u8,
    fields: Vec<u8>,
    strings: Vec<&'a str>,
}

/// Numbers that no two structures share: 0 and up, as they come.
#[derive(Debug, Default)]
pub(super) struct Handles(u16);

impl Handles {
    /// The next one. There are far fewer structures than handles: each takes six bytes of [`super::MAX_STRUCTURES`], and
    /// beyond that the tables are an error.
    pub(super) fn next(&mut self) -> u16 {
        let next = self.0;
        self.0 = next.wrapping_add(1);
        next
    }
}

impl<'a> Structure<'a> {
    /// A structure of the type `kind`, with `fields` behind the header. None of `strings`, which fields number from 1, is
    /// empty.
    pub(super) fn new(kind: u8, fields: Vec<u8>, strings: Vec<&'a str>) -> Self {
        Self {
            kind,
            fields,
            strings,
        }
    }

    /// How many bytes a structure takes that has `fields` bytes of fields and `strings` bytes of strings, each with its
    /// NUL, of which there is one at least.
    pub(super) const fn size(fields: usize, strings: usize) -> usize {
        HEADER_SIZE + fields + strings + 1
    }

    /// How many bytes this one takes.
    pub(super) fn len(&self) -> usize {
        let strings: usize = self.strings.iter().map(|string| string.len() + 1).sum();
        Self::size(self.fields.len(), strings.max(1))
    }

    /// Adds the structure to `table`.
    pub(super) fn write(&self, handle: u16, table: &mut Vec<u8>) {
        // The fields of the types that are made here are a few dozen bytes.
        table.extend([self.kind, (HEADER_SIZE + self.fields.len()) as u8]);
        table.extend(handle.to_le_bytes());
        table.extend(&self.fields);
        for string in &self.strings {
            table.extend(string.as_bytes());
            table.push(0);
        }
        if self.strings.is_empty() {
            table.push(0);
        }
        table.push(0);
    }
}
