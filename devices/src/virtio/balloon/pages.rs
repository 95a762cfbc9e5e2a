//! The pages that a request names.

use super::PAGE;
use crate::{GuestMemory, virtio::queue::Chain};

/// Pages that are taken from one request, 16 MiB; Linux names 256 at once. What a request names beyond is left as it is:
/// the guest keeps it, which it may always do.
pub(super) const MAX_PAGES: usize = 4096;
/// Bytes that are copied at once.
const COPY: usize = 1024;

/// Page numbers, kept from request to request for their room.
#[derive(Debug, Default)]
pub(super) struct PageNumbers(Vec<u32>);

impl PageNumbers {
    /// Reads the page numbers of a request (virtio 1.3, 5.5.6), and gives the ranges that they make, ascending: start and
    /// length in bytes. Nothing says that there is memory.
    pub(super) fn ranges(
        &mut self,
        memory: &GuestMemory,
        chain: &Chain,
    ) -> impl Iterator<Item = (u64, u64)> {
        self.read(memory, chain);
        // Drivers name pages as they get them, and often downwards.
        self.0.sort_unstable();
        let neighbours = |a: &u32, b: &u32| b - a <= 1;
        self.0.chunk_by(neighbours).map(|run| {
            let (first, last) = (run[0], run[run.len() - 1]);
            (u64::from(first) * PAGE, u64::from(last - first + 1) * PAGE)
        })
    }

    /// How many the last request had.
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    fn read(&mut self, memory: &GuestMemory, chain: &Chain) {
        self.0.clear();
        let mut bytes = [0; COPY];
        while self.0.len() < MAX_PAGES {
            let n = chain.read_at(memory, 4 * self.0.len(), &mut bytes);
            let numbers = bytes[..n].chunks_exact(4);
            self.0.extend(numbers.map(|number| {
                u32::from_le_bytes(number.try_into().expect("a chunk has four bytes"))
            }));
            if n < COPY {
                break;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;
    use vm_memory::{Bytes, GuestAddress};

    use super::*;
    use crate::test_utils::{DriverQueue, guest_memory};

    const LIST: u64 = 0x1_0000;

    /// The ranges of a request that has `bytes` in two buffers.
    fn ranges(bytes: &[u8]) -> Vec<(u64, u64)> {
        let memory = guest_memory(0x4_0000);
        let mut driver = DriverQueue::new(&memory, 0x1000, 8);
        memory.write_slice(bytes, GuestAddress(LIST)).unwrap();
        let first = (bytes.len() / 3) as u64;
        let rest = bytes.len() as u64 - first;
        driver.add(&[(LIST, first as u32), (LIST + first, rest as u32)], &[]);
        let mut chain = Chain::new();
        assert!(driver.queue().pop(&memory, &mut chain).unwrap());
        PageNumbers::default().ranges(&memory, &chain).collect()
    }

    fn list(numbers: &[u32]) -> Vec<u8> {
        numbers.iter().flat_map(|n| n.to_le_bytes()).collect()
    }

    #[test]
    fn neighbours_are_one_range_in_whatever_order_they_come() {
        let numbers = [9, 8, 7, 3, 0xffff_ffff, 4, 8];
        let expected = [
            (3 * PAGE, 2 * PAGE),
            (7 * PAGE, 3 * PAGE),
            (0xffff_ffff * PAGE, PAGE),
        ];
        assert_eq!(ranges(&list(&numbers)), expected);
        let cut = &list(&[1, 2])[..7];
        assert_eq!(ranges(cut), [(PAGE, PAGE)], "half a number is none");
    }

    #[test]
    fn a_request_names_so_many_pages_and_no_more() {
        let numbers: Vec<u32> = (0..2 * MAX_PAGES as u32).collect();
        assert_eq!(ranges(&list(&numbers)), [(0, MAX_PAGES as u64 * PAGE)]);
    }

    proptest! {
        #[test]
        fn ranges_hold_exactly_the_pages_that_are_named(numbers in prop::collection::vec(0..64_u32, 0..100)) {
            let mut named: Vec<u64> = numbers.iter().map(|n| u64::from(*n)).collect();
            named.sort_unstable();
            named.dedup();
            let ranges = ranges(&list(&numbers));
            let held: Vec<u64> = ranges.iter().flat_map(|(start, len)| start / PAGE..(start + len) / PAGE).collect();
            prop_assert_eq!(held, named);
        }
    }
}
