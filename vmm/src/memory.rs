//! Guest memory: shared exactly when a vhost-user back end needs it, never in a core dump.
#![allow(unsafe_code)]

use std::{fs::File, io, os::unix::fs::MetadataExt};

use minivmm_boot::RamRange;
use minivmm_devices::GuestMemory;
use rustix::{
    fs::{MemfdFlags, SealFlags},
    mm::Advice,
};
use vm_memory::{FileOffset, GuestMemoryBackend, GuestMemoryRegion, GuestRegionMmap, MmapRegion};

/// Who maps the guest's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sharing {
    /// The VMM alone: anonymous memory.
    Private,
    /// The VMM and vhost-user back ends: a memfd, sealed so that no back end can change its size.
    Shared,
}

/// Why there is no memory.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The memfd could not be made.
    #[error("cannot make a memfd of {mib} MiB for the guest's memory: {source}")]
    Memfd {
        /// Its size.
        mib: u64,
        /// Why.
        source: io::Error,
    },
    /// A range could not be mapped.
    #[error("cannot map {mib} MiB of guest memory: {reason}")]
    Map {
        /// The size of the range.
        mib: u64,
        /// Why.
        reason: String,
    },
}

/// Maps the RAM of a machine.
pub fn allocate(ranges: &[RamRange], sharing: Sharing) -> Result<GuestMemory, Error> {
    let total = ranges.iter().map(|r| r.size).sum();
    let memfd = match sharing {
        Sharing::Private => None,
        Sharing::Shared => Some(FileOffset::new(
            memfd(total).map_err(|source| Error::Memfd {
                mib: total >> 20,
                source,
            })?,
            0,
        )),
    };
    let mut offset = 0;
    let mut regions = Vec::with_capacity(ranges.len());
    for range in ranges {
        let wrong = |reason: String| Error::Map {
            mib: range.size >> 20,
            reason,
        };
        let size = usize::try_from(range.size).map_err(|e| wrong(e.to_string()))?;
        let (flags, file) = match &memfd {
            None => (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, None),
            Some(memfd) => (
                libc::MAP_SHARED,
                Some(FileOffset::from_arc(memfd.arc().clone(), offset)),
            ),
        };
        let mapping = MmapRegion::build(
            file,
            size,
            libc::PROT_READ | libc::PROT_WRITE,
            flags | libc::MAP_NORESERVE,
        )
        .map_err(|e| wrong(e.to_string()))?;
        advise(&mapping);
        regions.push(
            GuestRegionMmap::new(mapping, range.base)
                .ok_or_else(|| wrong("the range leaves the address space".to_owned()))?,
        );
        offset += range.size;
    }
    GuestMemory::from_regions(regions).map_err(|e| Error::Map {
        mib: total >> 20,
        reason: e.to_string(),
    })
}

/// Bytes of `memory` that anybody has touched, if a file is behind it; of private memory only the kernel knows.
pub fn allocated(memory: &GuestMemory) -> Option<u64> {
    // Of one file each range is a part.
    let file = memory.iter().next()?.file_offset()?.arc();
    let blocks = file.metadata().ok()?.blocks();
    Some(blocks * 512)
}

fn memfd(size: u64) -> io::Result<File> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let file = File::from(rustix::fs::memfd_create("guest-memory", flags)?);
    file.set_len(size)?;
    rustix::fs::fcntl_add_seals(&file, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
    Ok(file)
}

/// Huge pages where the host has them to give, and no guest memory in a core dump. Both are advice: a
/// kernel without one of them runs the VM all the same.
fn advise(mapping: &MmapRegion) {
    for advice in [Advice::LinuxHugepage, Advice::LinuxDontDump] {
        // SAFETY: the range is one that `mapping` owns, and neither advice changes what memory holds.
        let done = unsafe { rustix::mm::madvise(mapping.as_ptr().cast(), mapping.size(), advice) };
        if let Err(error) = done {
            tracing::debug!(?advice, %error, "advice about guest memory was not taken");
        }
    }
}

/// A range of guest memory as KVM takes it (KVM_SET_USER_MEMORY_REGION).
pub struct Slot {
    /// Guest physical address.
    pub guest: u64,
    /// Bytes.
    pub size: u64,
    /// Address in this process.
    pub host: u64,
}

/// The slots of `memory`, ascending by guest address.
pub fn slots(memory: &GuestMemory) -> Vec<Slot> {
    memory
        .iter()
        .map(|region| Slot {
            guest: region.start_addr().0,
            size: region.len(),
            host: region.get_mmap().as_ptr() as u64,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use vm_memory::{Bytes, GuestAddress};

    #[test]
    fn shared_memory_has_a_sealed_memfd_behind_each_range() {
        let memory = allocate(&crate::layout::ram(5 << 30), Sharing::Shared).unwrap();
        let offsets: Vec<_> = memory
            .iter()
            .map(|r| r.file_offset().map(|f| f.start()))
            .collect();
        assert_eq!(offsets, [Some(0), Some(3 << 30)]);
        let file = memory
            .iter()
            .next()
            .unwrap()
            .file_offset()
            .unwrap()
            .arc()
            .clone();
        assert!(file.set_len(1 << 20).is_err(), "a sealed memfd was shrunk");
        assert!(file.set_len(6 << 30).is_err(), "a sealed memfd grew");
        assert_eq!(allocated(&memory), Some(0));
        memory.write_obj(7u32, GuestAddress(4 << 30)).unwrap();
        assert!(allocated(&memory).unwrap() >= 4096);
    }

    #[test]
    fn private_memory_has_no_file() {
        let memory = allocate(&crate::layout::ram(64 << 20), Sharing::Private).unwrap();
        assert!(memory.iter().all(|r| r.file_offset().is_none()));
        assert_eq!(memory.read_obj::<u64>(GuestAddress(0)).unwrap(), 0);
        assert_eq!(allocated(&memory), None);
    }
}
