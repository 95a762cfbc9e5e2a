//! The kernel image: its setup header, what is checked before it is trusted, and where it is loaded.
//!
//! A bzImage is a real-mode part of `setup_sects + 1` sectors, which holds the setup header at 0x1f1 and is not loaded
//! here, and the protected-mode part behind it, whose 64-bit entry is 0x200 bytes from its start (boot.rst, "The
//! Real-Mode Kernel Header" and "64-bit Boot Protocol").

mod looks_like;

use std::io::{self, Read, Seek, SeekFrom};
use std::ops::Range;

use linux_loader::loader::bootparam::{LOADED_HIGH, XLF_KERNEL_64, setup_header};
use linux_loader::loader::{BzImage as LinuxLoaderBzImage, KernelLoader};
use vm_memory::{Address, ByteValued, GuestAddress, GuestMemoryMmap, ReadVolatile};

use crate::layout::HIGH_RAM_START;
use crate::platform::RamRange;
use looks_like::looks_like;

/// The oldest protocol that can be booted: 2.12 (Linux 3.8) brought `xloadflags`, without which an image does not say
/// whether it has the 64-bit entry. `pref_address` and `init_size`, relied on below, came with 2.10.
const MIN_VERSION: u16 = 0x020c;

const SECTOR: u64 = 512;
const BOOT_FLAG: Range<usize> = 0x1fe..0x200;
const HEADER: usize = 0x1f1;
const HEADER_MAGIC: Range<usize> = 0x202..0x206;
/// Offset of the byte that says how long the header is: it is the displacement of the jump over it.
const HEADER_JUMP: usize = 0x201;
/// The end of `handover_offset`, the last field of protocol 2.12.
const MIN_HEADER_END: usize = 0x268;
/// Offset of `startup_64` in the protected-mode part.
const ENTRY_64: u64 = 0x200;

const MIB: u64 = 1 << 20;
const FOUR_GIB: u64 = 1 << 32;

/// A kernel image that cannot be booted here.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file cannot be read: it is a directory, a pipe, or the disk is bad.
    #[error("reading the kernel image")]
    Read(#[source] io::Error),
    /// A file of no bytes.
    #[error("the kernel image is empty")]
    Empty,
    /// A file that ends before the header, or the code that the header promises.
    #[error(
        "the kernel image is cut off: {what} needs {needed} bytes and the file has {length}: copy it again"
    )]
    Truncated {
        /// What the missing bytes belong to.
        what: &'static str,
        /// How long the file would have to be.
        needed: u64,
        /// How long it is.
        length: u64,
    },
    /// Some other kind of file.
    #[error(
        "the kernel image is not a bzImage for x86 but {0}: give the file that distributions call vmlinuz and the kernel's \
         build arch/x86/boot/bzImage"
    )]
    NotBzImage(&'static str),
    /// A boot protocol before 2.12.
    #[error(
        "the kernel image speaks boot protocol {}.{}, and 2.12 (Linux 3.8) is the oldest that can be booted",
        .0 >> 8, .0 & 0xff
    )]
    TooOld(u16),
    /// No 64-bit entry.
    #[error(
        "the kernel image is for 32-bit x86 only (no XLF_KERNEL_64): give a kernel built for x86_64"
    )]
    Not64Bit,
    /// A header with a value that boot.rst rules out.
    #[error("the kernel image has a damaged setup header: {field} is {value:#x}")]
    BadField {
        /// The field's name in boot.rst.
        field: &'static str,
        /// What it holds.
        value: u64,
    },
    /// No RAM range can hold the kernel while it unpacks itself.
    #[error(
        "the kernel needs {} MiB of contiguous memory at {start:#x}: raise mem to at least {} MiB",
        needed.div_ceil(MIB), start.saturating_add(*needed).div_ceil(MIB)
    )]
    NoRoom {
        /// The lowest address at which it runs.
        start: u64,
        /// How many bytes it takes there.
        needed: u64,
    },
    /// Copying into guest memory failed although the place had been checked.
    #[error("copying the kernel image into guest memory at {address:#x}")]
    Load {
        /// Where the copy was to begin.
        address: u64,
        /// What linux-loader says.
        source: linux_loader::loader::Error,
    },
    /// The file is not any more what it was when its header was checked.
    #[error("the kernel image changed while it was loaded: start again")]
    Changed,
}

/// A bzImage whose setup header has been checked.
#[derive(Clone, Copy, Debug)]
pub struct BzImage {
    header: setup_header,
    /// Bytes of the file behind the real-mode part. A signature may follow the code that `syssize` counts.
    payload: u64,
}

/// Where a kernel is in guest memory, from its first byte to the end of what it needs to unpack itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KernelRange {
    /// Where the protected-mode part is loaded.
    pub start: u64,
    /// The first address that the kernel leaves alone before it reads the memory map.
    pub end: u64,
}

impl BzImage {
    /// Reads and checks the setup header of `image`, from its start whatever its position is.
    ///
    /// Any bytes at all may be in the file.
    pub fn read<K: Read + Seek>(image: &mut K) -> Result<Self, Error> {
        let mut head = Vec::new();
        image.rewind().map_err(Error::Read)?;
        image
            .take(looks_like::ENOUGH)
            .read_to_end(&mut head)
            .map_err(Error::Read)?;
        let length = image.seek(SeekFrom::End(0)).map_err(Error::Read)?;
        Self::parse(&head, length)
    }

    /// As [`read`](Self::read), from the first bytes of a file of `length` bytes.
    fn parse(head: &[u8], length: u64) -> Result<Self, Error> {
        let truncated = |what, needed| Error::Truncated {
            what,
            needed,
            length,
        };
        if head.is_empty() {
            return Err(Error::Empty);
        }
        let has = |range: Range<usize>, bytes: &[u8]| head.get(range) == Some(bytes);
        if !has(HEADER_MAGIC, b"HdrS") || !has(BOOT_FLAG, &[0x55, 0xaa]) {
            return Err(match looks_like(head) {
                Some(other) => Error::NotBzImage(other),
                None if head.len() < HEADER_MAGIC.end => {
                    truncated("a kernel's setup header", MIN_HEADER_END as u64)
                }
                None => Error::NotBzImage("something without its magic numbers 0xaa55 and HdrS"),
            });
        }
        if head.len() < MIN_HEADER_END {
            return Err(truncated("its setup header", MIN_HEADER_END as u64));
        }

        let header = copy_header(head);
        check_header(&header)?;

        let real_mode = SECTOR * (1 + u64::from(real_mode_sectors(&header)));
        let code = 16 * u64::from(header.syssize);
        if length < real_mode + code {
            return Err(truncated("its code", real_mode + code));
        }
        let payload = length - real_mode;
        if payload <= ENTRY_64 {
            return Err(truncated("its 64-bit entry", real_mode + ENTRY_64 + 1));
        }
        Ok(Self { header, payload })
    }

    /// The longest command line that the kernel keeps, in bytes without the NUL.
    pub fn cmdline_size(&self) -> u32 {
        self.header.cmdline_size
    }

    /// The highest address that a byte of the initrd may have.
    pub fn initrd_addr_max(&self) -> u32 {
        self.header.initrd_addr_max
    }

    /// Chooses where in `ram` (ascending) the kernel is loaded: at `pref_address` if it can be, else, if it is
    /// relocatable, at the lowest aligned address above that has the room.
    ///
    /// Loading a relocatable kernel lower would gain nothing: it then moves itself to `pref_address` before it unpacks, and
    /// needs `init_size` bytes there all the same (boot.rst, "init_size").
    pub fn place(&self, ram: &[RamRange]) -> Result<KernelRange, Error> {
        let header = &self.header;
        // Zero means "no preference" (boot.rst, "pref_address"): 1 MiB is where every bzImage may be loaded.
        let preferred = match header.pref_address {
            0 => HIGH_RAM_START,
            address => address,
        };
        let relocatable = header.relocatable_kernel != 0;
        if !relocatable && preferred < HIGH_RAM_START {
            return Err(Error::BadField {
                field: "pref_address",
                value: preferred,
            });
        }
        let alignment = match relocatable {
            true => u64::from(header.kernel_alignment),
            false => 1,
        };
        let needed = self.payload.max(u64::from(header.init_size));

        let lowest = preferred.max(HIGH_RAM_START);
        // The identity map at the entry ends at 4 GiB.
        if lowest.saturating_add(needed) > FOUR_GIB {
            return Err(Error::BadField {
                field: "pref_address",
                value: preferred,
            });
        }
        let fits = |range: &RamRange| {
            let start = lowest
                .max(range.base.raw_value())
                .checked_next_multiple_of(alignment)?;
            let end = start.checked_add(needed)?;
            let in_place = relocatable || start == preferred;
            (in_place && end <= range.end().min(FOUR_GIB)).then_some(KernelRange { start, end })
        };
        ram.iter().find_map(fits).ok_or_else(|| Error::NoRoom {
            start: lowest.checked_next_multiple_of(alignment).unwrap_or(lowest),
            needed,
        })
    }

    /// Copies the protected-mode part to `at`, a place that [`place`](Self::place) chose.
    pub(crate) fn load<K: Read + ReadVolatile + Seek>(
        &self,
        memory: &GuestMemoryMmap,
        image: &mut K,
        at: KernelRange,
    ) -> Result<(), Error> {
        let loaded = LinuxLoaderBzImage::load(memory, Some(GuestAddress(at.start)), image, None)
            .map_err(|source| Error::Load {
                address: at.start,
                source,
            })?;
        // The file was read a second time: its length must still be the one that was checked.
        match loaded.kernel_end == at.start + self.payload {
            true => Ok(()),
            false => Err(Error::Changed),
        }
    }

    /// Where the boot CPU enters the kernel loaded at `at`, in 64-bit mode.
    pub(crate) fn entry(&self, at: KernelRange) -> u64 {
        at.start + ENTRY_64
    }

    /// The setup header as the image has it, zero behind the end that it gives itself.
    pub(crate) fn header(&self) -> setup_header {
        self.header
    }
}

/// The setup header at the start of a file, of which `head` has at least [`MIN_HEADER_END`] bytes.
///
/// It ends at 0x202 plus the byte at 0x201; what is behind is code, not fields (boot.rst, "Details of Header Fields").
fn copy_header(head: &[u8]) -> setup_header {
    let mut header = setup_header::default();
    let end = (HEADER_MAGIC.start + usize::from(head[HEADER_JUMP])).min(head.len());
    let fields = &head[HEADER..end.max(HEADER)];
    let target = header.as_mut_slice();
    let length = fields.len().min(target.len());
    target[..length].copy_from_slice(&fields[..length]);
    header
}

fn check_header(header: &setup_header) -> Result<(), Error> {
    let bad = |field, value| Err(Error::BadField { field, value });
    if header.version < MIN_VERSION {
        return Err(Error::TooOld(header.version));
    }
    let jump = u64::from(header.jump);
    if HEADER_MAGIC.start as u64 + (jump >> 8) < MIN_HEADER_END as u64 {
        return bad("jump", jump);
    }
    if header.xloadflags & XLF_KERNEL_64 == 0 {
        return Err(Error::Not64Bit);
    }
    if header.loadflags & LOADED_HIGH == 0 {
        return bad("loadflags", header.loadflags.into());
    }
    if header.syssize == 0 {
        return bad("syssize", 0);
    }
    if header.relocatable_kernel != 0 && !header.kernel_alignment.is_power_of_two() {
        return bad("kernel_alignment", header.kernel_alignment.into());
    }
    Ok(())
}

/// `setup_sects`, in which 0 means 4 (boot.rst, "setup_sects").
fn real_mode_sectors(header: &setup_header) -> u8 {
    match header.setup_sects {
        0 => 4,
        sectors => sectors,
    }
}

#[cfg(test)]
mod tests;
