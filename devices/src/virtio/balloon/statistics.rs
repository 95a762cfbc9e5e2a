//! What a guest says of its memory (virtio 1.3, 5.5.6.3).

use crate::{GuestMemory, virtio::queue::Chain};

/// Bytes of an entry: a tag of 16 bits and a value of 64, not aligned.
const ENTRY: usize = 10;
/// Entries that are looked at: Linux has 16.
const MAX_ENTRIES: usize = 64;

/// A statistic; its number is its tag. The last one is not in the standard yet, and Linux has it from 6.12 on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Statistic {
    /// Bytes that were swapped in.
    SwapIn = 0,
    /// Bytes that were swapped out.
    SwapOut = 1,
    /// Page faults that had to read something.
    MajorFaults = 2,
    /// Those that had not.
    MinorFaults = 3,
    /// Bytes that are not used for anything.
    Free = 4,
    /// Bytes that the guest has. Linux leaves out what is in the balloon only where it may not take it out when it runs short
    /// (no DEFLATE_ON_OOM).
    Total = 5,
    /// Bytes that programs could have without swapping: what is free, and what can be made free.
    Available = 6,
    /// Bytes in caches that can be made free at once.
    Caches = 7,
    /// Huge pages that were allocated.
    HugePagesAllocated = 8,
    /// Huge pages that there were none of.
    HugePagesFailed = 9,
    /// Programs that were killed because there was no memory.
    OomKills = 10,
}

impl Statistic {
    /// All of them, by their tags.
    pub const ALL: [Self; 11] = [
        Self::SwapIn,
        Self::SwapOut,
        Self::MajorFaults,
        Self::MinorFaults,
        Self::Free,
        Self::Total,
        Self::Available,
        Self::Caches,
        Self::HugePagesAllocated,
        Self::HugePagesFailed,
        Self::OomKills,
    ];

    /// Its name, with its unit if that is bytes.
    pub fn name(self) -> &'static str {
        match self {
            Self::SwapIn => "swap_in_bytes",
            Self::SwapOut => "swap_out_bytes",
            Self::MajorFaults => "major_faults",
            Self::MinorFaults => "minor_faults",
            Self::Free => "free_bytes",
            Self::Total => "total_bytes",
            Self::Available => "available_bytes",
            Self::Caches => "caches_bytes",
            Self::HugePagesAllocated => "huge_pages_allocated",
            Self::HugePagesFailed => "huge_pages_failed",
            Self::OomKills => "oom_kills",
        }
    }
}

/// The statistics that a guest has given. They are its word and nothing more.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Statistics([Option<u64>; Statistic::ALL.len()]);

impl Statistics {
    /// Reads the statistics in a buffer. What has an unknown tag is passed over; of two with one tag the last counts.
    pub(super) fn read(memory: &GuestMemory, chain: &Chain) -> Self {
        let mut statistics = Self::default();
        let mut bytes = [0; ENTRY * MAX_ENTRIES];
        let n = chain.read_at(memory, 0, &mut bytes);
        for entry in bytes[..n].chunks_exact(ENTRY) {
            let (tag, value) = entry.split_at(2);
            let tag = u16::from_le_bytes(tag.try_into().expect("split after two bytes"));
            let value = u64::from_le_bytes(value.try_into().expect("ten bytes but two"));
            if let Some(known) = statistics.0.get_mut(usize::from(tag)) {
                *known = Some(value);
            }
        }
        statistics
    }

    /// One of them, if the guest has given it.
    pub fn get(&self, statistic: Statistic) -> Option<u64> {
        self.0[statistic as usize]
    }

    /// Those that the guest has given.
    pub fn iter(&self) -> impl Iterator<Item = (Statistic, u64)> {
        let all = Statistic::ALL.into_iter();
        all.filter_map(|statistic| Some((statistic, self.get(statistic)?)))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use vm_memory::{Bytes, GuestAddress};

    use super::*;
    use crate::test_utils::{DriverQueue, guest_memory};

    fn read(bytes: &[u8]) -> Statistics {
        let memory = guest_memory(0x4_0000);
        let mut driver = DriverQueue::new(&memory, 0x1000, 8);
        memory.write_slice(bytes, GuestAddress(0x1_0000)).unwrap();
        driver.add(&[(0x1_0000, bytes.len() as u32)], &[]);
        let mut chain = Chain::new();
        assert!(driver.queue().pop(&memory, &mut chain).unwrap());
        Statistics::read(&memory, &chain)
    }

    fn entry(tag: u16, value: u64) -> Vec<u8> {
        [tag.to_le_bytes().to_vec(), value.to_le_bytes().to_vec()].concat()
    }

    #[test]
    fn entries_come_in_any_order_and_unknown_ones_are_passed_over() {
        let mut bytes = [
            entry(5, 512 << 20),
            entry(99, 1),
            entry(u16::MAX, 2),
            entry(4, u64::MAX),
            entry(5, 256 << 20),
        ]
        .concat();
        bytes.extend([6, 0, 1]);
        let statistics = read(&bytes);
        let given: Vec<_> = statistics.iter().collect();
        let expected = [(Statistic::Free, u64::MAX), (Statistic::Total, 256 << 20)];
        assert_eq!(given, expected);
        assert_eq!(statistics.get(Statistic::Available), None);
    }

    #[test]
    fn a_buffer_of_any_length_is_looked_at_for_so_long_and_no_longer() {
        assert_eq!(read(&[]), Statistics::default());
        let mut bytes = entry(99, 0).repeat(MAX_ENTRIES);
        bytes.extend(entry(4, 1));
        assert_eq!(read(&bytes), Statistics::default());
    }

    #[test]
    fn a_statistic_is_where_its_tag_says() {
        for (n, statistic) in Statistic::ALL.into_iter().enumerate() {
            assert_eq!(statistic as usize, n);
        }
    }
}
