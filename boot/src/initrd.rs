//! The initial RAM disk: as high in memory as the kernel takes it, clear of the kernel's own room.

mod whole;

use std::fs::File;
use std::io::{self, Seek, SeekFrom};

use vm_memory::{Address, Bytes, GuestAddress, GuestMemoryMmap};

use crate::kernel::KernelRange;
use crate::layout::HIGH_RAM_START;
use crate::platform::RamRange;

const PAGE: u64 = 4096;
const MIB: u64 = 1 << 20;

/// An initrd that cannot be given to the kernel.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file cannot be read: it is a directory, a pipe, or the disk is bad.
    #[error("reading the initrd")]
    Read(#[source] io::Error),
    /// A file of no bytes: no kernel makes anything of it.
    #[error("the initrd is empty: give one, or leave kernel.initrd out")]
    Empty,
    /// A file that ends in the middle of an archive.
    #[error("the initrd is cut off: its {size} bytes end in the middle of {what}: copy it again")]
    Truncated {
        /// What is not complete.
        what: &'static str,
        /// Size of the initrd in bytes.
        size: u64,
    },
    /// More memory would help.
    #[error(
        "the initrd has {} MiB and the largest free part of memory that the kernel takes it from has {} MiB: raise mem to \
         at least {} MiB or make the initrd smaller", size.div_ceil(MIB), free / MIB, enough.div_ceil(MIB)
    )]
    NoRoom {
        /// Size of the initrd in bytes.
        size: u64,
        /// The largest free part in bytes.
        free: u64,
        /// The RAM size in bytes from which on it fits.
        enough: u64,
    },
    /// The kernel takes no initrd of this size, however much memory there is.
    #[error(
        "the initrd has {} MiB, and below {limit:#x}, where this kernel wants it, only {} MiB can ever be free: make it \
         smaller", size.div_ceil(MIB), free / MIB
    )]
    TooLarge {
        /// Size of the initrd in bytes.
        size: u64,
        /// The first address that no byte of it may have.
        limit: u64,
        /// The largest free part below in bytes.
        free: u64,
    },
    /// Copying into guest memory failed although the place had been checked.
    #[error("copying the initrd of {size} bytes into guest memory at {address:#x}")]
    Load {
        /// Where the copy was to begin.
        address: u64,
        /// How many bytes were to be copied.
        size: u64,
        /// What guest memory, or the file, says.
        source: vm_memory::GuestMemoryError,
    },
}

/// Where an initrd is in guest memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InitrdRange {
    /// Its first byte, page-aligned and below 4 GiB.
    pub start: u32,
    /// Its length in bytes.
    pub size: u32,
}

/// The length of `file` in bytes.
pub(crate) fn size(file: &mut File) -> Result<u64, Error> {
    // A directory would have a length, of no meaning, and fail only when it is read.
    if file.metadata().map_err(Error::Read)?.is_dir() {
        return Err(Error::Read(io::ErrorKind::IsADirectory.into()));
    }
    file.seek(SeekFrom::End(0)).map_err(Error::Read)
}

/// Fails if `file`, of `size` bytes, is visibly not all of an initrd.
pub(crate) fn check_whole(file: &mut File, size: u64) -> Result<(), Error> {
    whole::check(file, size)
}

/// Chooses where an initrd of `size` bytes goes: page-aligned, as high in `ram` (ascending) as `initrd_addr_max` allows,
/// not below 1 MiB, not over the kernel.
pub(crate) fn place(
    size: u64,
    initrd_addr_max: u32,
    ram: &[RamRange],
    kernel: KernelRange,
) -> Result<InitrdRange, Error> {
    if size == 0 {
        return Err(Error::Empty);
    }
    // initrd_addr_max is the last address that the initrd may occupy (boot.rst, "initrd_addr_max").
    let limit = u64::from(initrd_addr_max) + 1;
    let free = free_parts(ram, limit, kernel);
    let place = free.iter().rev().find_map(|&(start, end)| {
        let at = end.checked_sub(size)? / PAGE * PAGE;
        (at >= start).then_some(at)
    });
    match place {
        // Both are below the limit, which is at most 4 GiB.
        Some(at) => match (u32::try_from(at), u32::try_from(size)) {
            (Ok(start), Ok(size)) => Ok(InitrdRange { start, size }),
            _ => Err(too_large(size, limit, &free)),
        },
        None => {
            let enough = kernel.end.saturating_add(PAGE).saturating_add(size);
            if enough <= limit {
                let free = largest(&free);
                Err(Error::NoRoom { size, free, enough })
            } else {
                Err(too_large(size, limit, &free))
            }
        }
    }
}

/// The parts of `ram` from 1 MiB to `limit` that `kernel` leaves free, ascending, as start (page-aligned) and end.
fn free_parts(ram: &[RamRange], limit: u64, kernel: KernelRange) -> Vec<(u64, u64)> {
    let mut parts = Vec::new();
    for range in ram {
        let start = range.base.raw_value().max(HIGH_RAM_START);
        let end = range.end().min(limit);
        let below = (start, end.min(kernel.start));
        let above = (start.max(kernel.end.next_multiple_of(PAGE)), end);
        parts.extend(
            [below, above]
                .into_iter()
                .filter(|(start, end)| start < end),
        );
    }
    parts
}

fn largest(parts: &[(u64, u64)]) -> u64 {
    parts
        .iter()
        .map(|(start, end)| end - start)
        .max()
        .unwrap_or(0)
}

fn too_large(size: u64, limit: u64, free: &[(u64, u64)]) -> Error {
    Error::TooLarge {
        size,
        limit,
        free: largest(free),
    }
}

/// Reads `file` from its start into guest memory at `at`.
pub(crate) fn load(
    memory: &GuestMemoryMmap,
    file: &mut File,
    at: InitrdRange,
) -> Result<(), Error> {
    file.rewind().map_err(Error::Read)?;
    memory
        .read_exact_volatile_from(GuestAddress(at.start.into()), file, at.size as usize)
        .map_err(|source| Error::Load {
            address: at.start.into(),
            size: at.size.into(),
            source,
        })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]

    use std::io::Write;

    use proptest::prelude::*;

    use super::*;
    use crate::test_utils::{memory, platform};

    const KERNEL: KernelRange = KernelRange {
        start: 16 << 20,
        end: 24 << 20,
    };
    const ADDR_MAX: u32 = 0x7fff_ffff;

    fn in_mib(mib: u64, size: u64) -> Result<InitrdRange, Error> {
        place(size, ADDR_MAX, &platform(mib).ram, KERNEL)
    }

    #[test]
    fn an_initrd_ends_in_the_last_page_of_memory() {
        let range = in_mib(64, 0x1801).unwrap();
        assert_eq!(u64::from(range.start), (64 << 20) - 0x2000);
        assert_eq!(range.size, 0x1801);
    }

    #[test]
    fn an_initrd_stays_below_what_the_kernel_allows() {
        let range = place(0x1000, 0x1fff_ffff, &platform(1024).ram, KERNEL).unwrap();
        assert_eq!(range.start, 0x1fff_f000);
        let range = place(0x1000, 0x1fff_fffe, &platform(1024).ram, KERNEL).unwrap();
        assert_eq!(range.start, 0x1fff_e000);
    }

    #[test]
    fn an_initrd_uses_all_that_the_kernel_leaves() {
        let range = in_mib(64, 40 << 20).unwrap();
        assert_eq!(u64::from(range.start), KERNEL.end);
    }

    #[test]
    fn an_initrd_goes_below_the_kernel_when_there_is_no_room_above() {
        let range = in_mib(25, 8 << 20).unwrap();
        assert_eq!(u64::from(range.start), KERNEL.start - (8 << 20));
    }

    #[test]
    fn an_initrd_is_never_put_above_4_gib() {
        let mut platform = platform(64);
        platform.ram.push(RamRange {
            base: GuestAddress(1 << 32),
            size: 1 << 30,
        });
        let range = place(0x1000, u32::MAX, &platform.ram, KERNEL).unwrap();
        assert!(range.start < 64 << 20);
    }

    #[test]
    fn an_initrd_without_room_is_an_error_that_says_how_much_memory_is_enough() {
        let size = (40 << 20) + 1;
        let error = in_mib(64, size).unwrap_err();
        let Error::NoRoom { enough, .. } = error else {
            panic!("{error}");
        };
        let message = error.to_string();
        assert!(message.contains("41 MiB"), "{message}");
        assert!(message.contains("40 MiB"), "{message}");
        assert!(message.contains("raise mem"), "{message}");
        assert!(in_mib(enough.div_ceil(MIB), size).is_ok());
    }

    #[test]
    fn an_initrd_beyond_the_limit_of_the_kernel_is_not_blamed_on_memory() {
        let error = place(600 << 20, 0x1fff_ffff, &platform(2048).ram, KERNEL).unwrap_err();
        assert!(matches!(error, Error::TooLarge { .. }), "{error}");
        assert!(error.to_string().contains("0x20000000"), "{error}");
        assert!(matches!(in_mib(64, u64::MAX), Err(Error::TooLarge { .. })));
    }

    #[test]
    fn an_empty_initrd_and_a_directory_are_errors() {
        assert!(matches!(in_mib(64, 0), Err(Error::Empty)));
        let directory = tempfile::tempdir().unwrap();
        let mut file = File::open(directory.path()).unwrap();
        assert!(matches!(size(&mut file), Err(Error::Read(_))));
    }

    #[test]
    fn loading_reads_the_whole_file_from_its_start() {
        let memory = memory(&platform(32));
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"070701 and so on").unwrap();
        let length = size(&mut file).unwrap();
        let at = in_mib(32, length).unwrap();
        load(&memory, &mut file, at).unwrap();
        let mut loaded = vec![0; 16];
        memory
            .read_slice(&mut loaded, GuestAddress(at.start.into()))
            .unwrap();
        assert_eq!(loaded, b"070701 and so on");
    }

    #[test]
    fn an_initrd_that_shrank_after_its_check_is_an_error() {
        let memory = memory(&platform(32));
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"0707").unwrap();
        let at = in_mib(32, 5).unwrap();
        assert!(matches!(
            load(&memory, &mut file, at),
            Err(Error::Load { .. })
        ));
    }

    proptest! {
        #[test]
        fn wherever_an_initrd_goes_it_is_in_ram_below_the_limit_and_clear_of_the_kernel(
            mib in 32u64..3072,
            size in 1u64..1 << 32,
            addr_max: u32,
            kernel_start in (1u64 << 20)..(16 << 20),
            kernel_size in 1u64..(8 << 20),
        ) {
            let kernel = KernelRange { start: kernel_start, end: kernel_start + kernel_size };
            if let Ok(at) = place(size, addr_max, &platform(mib).ram, kernel) {
                let start = u64::from(at.start);
                let end = start + size;
                prop_assert_eq!(start % PAGE, 0);
                prop_assert!(start >= HIGH_RAM_START);
                prop_assert!(end <= mib << 20 && end <= u64::from(addr_max) + 1);
                prop_assert!(end <= kernel.start || start >= kernel.end);
            }
        }
    }
}
