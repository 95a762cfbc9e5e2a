//! Giving guest memory back to the host. What is given back reads as zero when the guest touches it again.
#![allow(unsafe_code)]

use std::{io, sync::Arc};

use rustix::{
    fs::{FallocateFlags, fallocate, fstatfs},
    mm::{Advice, madvise},
};
use vm_memory::{Address, GuestMemoryBackend, GuestMemoryRegion, MemoryRegionAddress};

use super::PAGE;
use crate::GuestMemory;

/// `f_type` of files that are made of huge pages (statfs(2)).
const HUGETLBFS: i64 = 0x9584_58f6;

/// Gives parts of a guest's memory back.
pub(super) struct Discard {
    memory: Arc<GuestMemory>,
    /// Bytes of the least that can be given back: a page, and where the memory is made of huge pages one of those.
    granule: u64,
}

impl Discard {
    /// Of this memory.
    pub(super) fn new(memory: Arc<GuestMemory>) -> Self {
        let file = memory.iter().next().and_then(|region| region.file_offset());
        let huge = file.and_then(|file| {
            let stat = fstatfs(file.file()).ok()?;
            (stat.f_type as i64 == HUGETLBFS).then_some(stat.f_bsize as u64)
        });
        let granule = huge.unwrap_or(PAGE).max(PAGE);
        Self { memory, granule }
    }

    /// Gives the whole pages in `len` bytes from `start` back, as far as there is memory: what is none is passed over. Says
    /// how many bytes that were.
    pub(super) fn give_back(&self, start: u64, len: u64) -> io::Result<u64> {
        let end = start.saturating_add(len);
        let mut given = 0;
        for region in self.memory.iter() {
            let base = region.start_addr().raw_value();
            // From the region's start, which is at the start of a page in its file and in our memory.
            let within = |address: u64| address.saturating_sub(base).min(region.len());
            let from = within(start).next_multiple_of(self.granule);
            let to = within(end) / self.granule * self.granule;
            if from < to {
                give_back(region, from, to - from)?;
                given += to - from;
            }
        }
        Ok(given)
    }
}

/// Gives `len` bytes from `offset` of a region back, which are in it.
fn give_back(
    region: &<GuestMemory as GuestMemoryBackend>::R,
    offset: u64,
    len: u64,
) -> io::Result<()> {
    let shared = region.get_mmap().flags() & libc::MAP_SHARED != 0;
    if let Some(file) = region.file_offset().filter(|_| shared) {
        // Others map the file too: only what is gone from it is gone.
        let hole = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        fallocate(file.file(), hole, file.start() + offset, len)?;
        return Ok(());
    }
    let address = region
        .get_host_address(MemoryRegionAddress(offset))
        .map_err(io::Error::other)?;
    // SAFETY: the range is in a mapping that `region` owns and is guest memory, which is read and written by volatile
    // accesses alone, because the guest changes it at any time.
    unsafe { madvise(address.cast(), len as usize, Advice::LinuxDontNeed)? };
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::{fs::File, os::unix::fs::MetadataExt};

    use proptest::prelude::*;
    use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};
    use vm_memory::{Bytes, FileOffset, GuestAddress};

    use super::*;

    /// Two regions with a hole between them.
    const REGIONS: [(u64, usize); 2] = [(0, 0x8000), (0x1_0000, 0x4000)];
    const ALL: u64 = 0xc000;

    /// Memory in which each byte is 1; with a file behind it as vhost-user devices have it.
    fn memory(shared: bool) -> (Arc<GuestMemory>, Option<File>) {
        let file = shared.then(|| {
            let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
            let file = File::from(memfd_create("test", flags).unwrap());
            file.set_len(ALL).unwrap();
            let seals = SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL;
            fcntl_add_seals(&file, seals).unwrap();
            file
        });
        let mut offset = 0;
        let ranges = REGIONS.map(|(base, size)| {
            let file = file.as_ref().map(|file| file.try_clone().unwrap());
            let file = file.map(|file| FileOffset::new(file, offset));
            offset += size as u64;
            (GuestAddress(base), size, file)
        });
        let memory = GuestMemory::from_ranges_with_files(ranges).unwrap();
        for (base, size) in REGIONS {
            memory
                .write_slice(&vec![1; size], GuestAddress(base))
                .unwrap();
        }
        (Arc::new(memory), file)
    }

    /// Which pages of the first 20 are not as they were; None for what is no memory.
    fn zeroed(memory: &GuestMemory) -> Vec<Option<bool>> {
        let page = |n: u64| {
            let mut page = [0; PAGE as usize];
            memory.read_slice(&mut page, GuestAddress(n * PAGE)).ok()?;
            assert!(page.iter().all(|byte| *byte == page[0]), "half a page");
            Some(page[0] == 0)
        };
        (0..20).map(page).collect()
    }

    #[test]
    fn whole_pages_go_back_and_read_as_zero() {
        for shared in [false, true] {
            let (memory, file) = memory(shared);
            let discard = Discard::new(memory.clone());
            assert_eq!(discard.give_back(0x1001, 0x2fff).unwrap(), 0x2000);
            assert_eq!(discard.give_back(0x5000, 0xfff).unwrap(), 0);
            // Over the hole, to the end and beyond.
            assert_eq!(discard.give_back(0x7000, u64::MAX).unwrap(), 0x5000);
            let zero: Vec<usize> = (0..20)
                .filter(|n| zeroed(&memory)[*n] == Some(true))
                .collect();
            assert_eq!(zero, [2, 3, 7, 16, 17, 18, 19], "shared: {shared}");
            if let Some(file) = file {
                // Reading has made pages in the holes of the mapping, not in what others are to have.
                assert!(file.metadata().unwrap().blocks() * 512 <= ALL);
                assert_eq!(discard.give_back(0, u64::MAX).unwrap(), ALL);
                assert_eq!(file.metadata().unwrap().blocks(), 0);
                assert_eq!(file.metadata().unwrap().len(), ALL);
            }
        }
    }

    #[test]
    fn what_is_no_memory_is_passed_over() {
        let (memory, _) = memory(false);
        let discard = Discard::new(memory.clone());
        for (start, len) in [
            (0x8000, 0x8000),
            (0x1_4000, PAGE),
            (u64::MAX, u64::MAX),
            (0, 0),
        ] {
            assert_eq!(discard.give_back(start, len).unwrap(), 0, "{start:#x}");
        }
        assert!(zeroed(&memory).iter().flatten().all(|zero| !zero));
    }

    proptest! {
        #[test]
        fn nothing_but_whole_pages_of_the_range_is_touched(start in 0..0x1_8000_u64, len in 0..0x1_8000_u64, shared: bool) {
            let (memory, _) = memory(shared);
            let given = Discard::new(memory.clone()).give_back(start, len).unwrap();
            let mut expected = 0;
            for (n, zero) in (0..).zip(zeroed(&memory)) {
                let inside = start <= n * PAGE && (n + 1) * PAGE <= start + len;
                if let Some(zero) = zero {
                    prop_assert_eq!(zero, inside);
                    expected += u64::from(inside) * PAGE;
                }
            }
            prop_assert_eq!(given, expected);
        }
    }
}
