//! The configuration space (virtio 1.3, 5.5.4).

use std::sync::atomic::{AtomicU8, AtomicU32, Ordering};

use crate::virtio::ConfigSpace;

/// Offsets of what a driver writes.
const ACTUAL: u64 = 4;
const POISON_VAL: u64 = 12;
const SIZE: usize = 16;

/// The fields. `free_page_hint_cmd_id` stays 0: hints are not offered.
#[derive(Debug, Default)]
pub(super) struct Fields {
    num_pages: AtomicU32,
    actual: AtomicU32,
    poison_val: AtomicU32,
    generation: AtomicU8,
}

impl Fields {
    /// Pages that are wanted in the balloon.
    pub(super) fn num_pages(&self) -> u32 {
        self.num_pages.load(Ordering::Acquire)
    }

    /// Wants so many pages in the balloon.
    pub(super) fn set_num_pages(&self, pages: u32) {
        self.num_pages.store(pages, Ordering::Release);
        self.generation.fetch_add(1, Ordering::AcqRel);
    }

    /// Pages that are in the balloon, as the driver says.
    pub(super) fn actual(&self) -> u32 {
        self.actual.load(Ordering::Acquire)
    }

    /// What the driver fills free memory with, if it has said that it does.
    pub(super) fn poison_val(&self) -> u32 {
        self.poison_val.load(Ordering::Acquire)
    }

    /// Forgets what the last driver has written.
    pub(super) fn reset(&self) {
        self.actual.store(0, Ordering::Release);
        self.poison_val.store(0, Ordering::Release);
    }
}

impl ConfigSpace for Fields {
    fn read(&self, offset: u64, data: &mut [u8]) {
        let mut bytes = [0; SIZE];
        for (at, value) in [
            (0, self.num_pages()),
            (ACTUAL as usize, self.actual()),
            (POISON_VAL as usize, self.poison_val()),
        ] {
            bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
        }
        let known = usize::try_from(offset).ok();
        let known = known.and_then(|from| bytes.get(from..)).unwrap_or_default();
        let n = known.len().min(data.len());
        data[..n].copy_from_slice(&known[..n]);
        data[n..].fill(0);
    }

    /// In pieces of any size. Two vCPUs that write pieces of one field at once spoil it for themselves alone.
    fn write(&self, offset: u64, data: &[u8]) {
        for (at, field) in [(ACTUAL, &self.actual), (POISON_VAL, &self.poison_val)] {
            let mut bytes = field.load(Ordering::Acquire).to_le_bytes();
            let mut touched = false;
            for (at, byte) in (at..).zip(&mut bytes) {
                let given = at.checked_sub(offset).and_then(|n| usize::try_from(n).ok());
                if let Some(given) = given.and_then(|n| data.get(n)) {
                    *byte = *given;
                    touched = true;
                }
            }
            // Another vCPU may write the other field now.
            if touched {
                field.store(u32::from_le_bytes(bytes), Ordering::Release);
            }
        }
    }

    fn generation(&self) -> u8 {
        self.generation.load(Ordering::Acquire)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read<const N: usize>(fields: &Fields, offset: u64) -> [u8; N] {
        let mut data = [0xaa; N];
        fields.read(offset, &mut data);
        data
    }

    #[test]
    fn a_driver_writes_what_is_its_own_and_nothing_else() {
        let fields = Fields::default();
        fields.set_num_pages(0x0102_0304);
        fields.write(0, &[0xff; 16]);
        let all: [u8; 18] = read(&fields, 0);
        assert_eq!(all[..4], [4, 3, 2, 1]);
        assert_eq!(all[4..8], [0xff; 4]);
        assert_eq!(all[8..12], [0; 4]);
        assert_eq!(all[12..16], [0xff; 4]);
        assert_eq!(all[16..], [0; 2]);
        assert_eq!(read(&fields, u64::MAX), [0]);
        fields.write(u64::MAX, &[1, 2]);
        fields.write(16, &[1]);
        assert_eq!(read::<18>(&fields, 0), all);
        fields.reset();
        assert_eq!((fields.actual(), fields.poison_val()), (0, 0));
        assert_eq!(fields.num_pages(), 0x0102_0304);
    }

    #[test]
    fn a_field_can_be_written_byte_by_byte() {
        let fields = Fields::default();
        for (n, byte) in [1, 2, 3, 4].into_iter().enumerate() {
            fields.write(ACTUAL + n as u64, &[byte]);
        }
        fields.write(POISON_VAL + 2, &[0xaa, 0xbb, 0xcc]);
        assert_eq!(fields.actual(), 0x0403_0201);
        assert_eq!(fields.poison_val(), 0xbbaa_0000);
    }

    #[test]
    fn another_target_is_another_generation() {
        let fields = Fields::default();
        let before = fields.generation();
        fields.set_num_pages(7);
        assert_ne!(fields.generation(), before);
    }
}
