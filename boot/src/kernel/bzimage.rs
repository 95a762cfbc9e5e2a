//! A bzImage: its setup header, what is checked before it is trusted, and where it is loaded.
//!
//! A bzImage is a real-mode part of `setup_sects + 1` sectors, which holds the setup header at 0x1f1 and is not loaded
//! here, and the protected-mode part behind it, whose 64-bit entry is 0x200 bytes from its start (boot.rst, "The
//! Real-Mode Kernel Header" and "64-bit Boot Protocol").

use std::io::{Read, Seek, SeekFrom};
use std::ops::Range;

use linux_loader::loader::bootparam::{LOADED_HIGH, XLF_KERNEL_64, setup_header};
use linux_loader::loader::{BzImage as LinuxLoaderBzImage, KernelLoader};
use vm_memory::{ByteValued, GuestAddress, GuestMemoryMmap, ReadVolatile};

use super::looks_like::looks_like;
use super::{Error as KernelError, FOUR_GIB, KernelRange, find_room};
use crate::layout::HIGH_RAM_START;
use crate::platform::RamRange;

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
pub(super) const MIN_HEADER_END: usize = 0x268;
/// Offset of `startup_64` in the protected-mode part.
const ENTRY_64: u64 = 0x200;

/// A bzImage that cannot be booted here.
#[derive(Debug, thiserror::Error)]
pub enum Error {
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
    /// The PVH entry was asked for, which only the ELF file inside has.
    #[error(
        "the kernel image is a bzImage, and PVH is a way into an ELF kernel: leave kernel.entry out, or give the vmlinux \
         that the kernel's scripts/extract-vmlinux takes out of it"
    )]
    NoPvhEntry,
}

/// A bzImage whose setup header has been checked.
#[derive(Clone, Copy, Debug)]
pub struct BzImage {
    header: setup_header,
    /// Bytes of the file behind the real-mode part. A signature may follow the code that `syssize` counts.
    payload: u64,
}

impl BzImage {
    /// Checks the setup header in `head`, the first bytes of a file of `length` bytes.
    pub(super) fn parse(head: &[u8], length: u64) -> Result<Self, KernelError> {
        let truncated = |what, needed| KernelError::Truncated {
            what,
            needed,
            length,
        };
        let has = |range: Range<usize>, bytes: &[u8]| head.get(range) == Some(bytes);
        if !has(HEADER_MAGIC, b"HdrS") || !has(BOOT_FLAG, &[0x55, 0xaa]) {
            return Err(match looks_like(head) {
                Some(other) => KernelError::NotAKernel(other),
                None if head.len() < HEADER_MAGIC.end => {
                    truncated("a kernel's setup header", MIN_HEADER_END as u64)
                }
                None => {
                    KernelError::NotAKernel("something without the magic numbers 0xaa55 and HdrS")
                }
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

    /// The version of the boot protocol, the major number in the high byte.
    pub(super) fn protocol_version(&self) -> u16 {
        self.header.version
    }

    /// The text that `kernel_version` leads to (boot.rst): printable characters up to a NUL, in the real-mode part.
    pub(super) fn version<K: Read + Seek>(&self, image: &mut K) -> Option<String> {
        const MAX: u64 = 256;
        let offset = u64::from(self.header.kernel_version);
        if offset == 0 || offset >= SECTOR * u64::from(real_mode_sectors(&self.header)) {
            return None;
        }
        let mut bytes = Vec::new();
        image.seek(SeekFrom::Start(SECTOR + offset)).ok()?;
        image.take(MAX).read_to_end(&mut bytes).ok()?;
        let text = bytes.split(|byte| *byte == 0).next()?;
        let printable = |byte: &u8| byte.is_ascii_graphic() || *byte == b' ';
        let text: Vec<u8> = text.iter().copied().take_while(printable).collect();
        let text = String::from_utf8(text).ok()?;
        (!text.is_empty()).then_some(text)
    }

    /// The longest command line that the kernel keeps, in bytes without the NUL.
    pub(super) fn cmdline_size(&self) -> u32 {
        self.header.cmdline_size
    }

    /// The highest address that a byte of the initrd may have.
    pub(super) fn initrd_addr_max(&self) -> u32 {
        self.header.initrd_addr_max
    }

    /// Chooses where in `ram` (ascending) the kernel is loaded: at `pref_address` if it can be, else, if it is
    /// relocatable, at the lowest aligned address above that has the room. Nothing is put above 4 GiB, whatever
    /// `xloadflags` says of it.
    ///
    /// Loading a relocatable kernel lower would gain nothing: it then moves itself to `pref_address` before it unpacks, and
    /// needs `init_size` bytes there all the same (boot.rst, "init_size").
    pub(super) fn place(&self, ram: &[RamRange]) -> Result<KernelRange, KernelError> {
        let header = &self.header;
        // Zero means "no preference" (boot.rst, "pref_address"): 1 MiB is where every bzImage may be loaded.
        let preferred = match header.pref_address {
            0 => HIGH_RAM_START,
            address => address,
        };
        let relocatable = header.relocatable_kernel != 0;
        if !relocatable && preferred < HIGH_RAM_START {
            return Err(bad_field("pref_address", preferred).into());
        }
        let needed = self.payload.max(u64::from(header.init_size));

        let lowest = preferred.max(HIGH_RAM_START);
        // The identity map at the entry ends at 4 GiB.
        if lowest.saturating_add(needed) > FOUR_GIB {
            return Err(bad_field("pref_address", preferred).into());
        }
        self.alignments()
            .filter_map(|alignment| find_room(ram, lowest, alignment, needed))
            .find(|range| relocatable || range.start == preferred)
            .ok_or_else(|| {
                let alignment = self.alignments().next().unwrap_or(1);
                let start = lowest.checked_next_multiple_of(alignment);
                KernelError::NoRoom {
                    start: start.unwrap_or(lowest),
                    needed,
                }
            })
    }

    /// The alignments to try, the one that the kernel prefers first: each power of two from `kernel_alignment` down to
    /// `min_alignment`, if that is given (boot.rst, "min_alignment"). A kernel that cannot be moved has none.
    fn alignments(&self) -> impl Iterator<Item = u64> + use<> {
        let header = &self.header;
        let (preferred, least) = match (header.relocatable_kernel, header.min_alignment) {
            (0, _) => (1, 1),
            (_, 0) => (header.kernel_alignment, header.kernel_alignment),
            (_, bits) => (header.kernel_alignment, 1 << bits.min(31)),
        };
        let smaller = move |alignment: &u32| Some(alignment / 2).filter(|half| *half >= least);
        std::iter::successors(Some(preferred), smaller).map(u64::from)
    }

    /// Copies the protected-mode part to `at`, a place that [`place`](Self::place) chose.
    pub(super) fn load<K: Read + ReadVolatile + Seek>(
        &self,
        memory: &GuestMemoryMmap,
        image: &mut K,
        at: KernelRange,
    ) -> Result<(), KernelError> {
        let loaded = LinuxLoaderBzImage::load(memory, Some(GuestAddress(at.start)), image, None)
            .map_err(|source| KernelError::Load {
                address: at.start,
                source: source.into(),
            })?;
        // The file was read a second time: its length must still be the one that was checked.
        match loaded.kernel_end == at.start + self.payload {
            true => Ok(()),
            false => Err(KernelError::Changed),
        }
    }

    /// Where the boot CPU enters the kernel loaded at `at`, in 64-bit mode.
    pub(super) fn entry(&self, at: KernelRange) -> u64 {
        at.start + ENTRY_64
    }

    /// The setup header for the zero page of the kernel loaded at `at`: as the image has it, zero behind the end that it
    /// gives itself, but for an alignment smaller than the preferred one, of which a kernel must be told.
    pub(super) fn header(&self, at: KernelRange) -> setup_header {
        let mut header = self.header;
        if let Some(used) = self
            .alignments()
            .find(|used| at.start.is_multiple_of(*used))
            && header.relocatable_kernel != 0
        {
            // At most the field's own value.
            header.kernel_alignment = used as u32;
        }
        header
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
    let bad = |field, value| Err(bad_field(field, value));
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

fn bad_field(field: &'static str, value: u64) -> Error {
    Error::BadField { field, value }
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
