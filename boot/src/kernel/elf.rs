//! A vmlinux: an ELF file whose segments say where they go, entered in 64-bit mode or by PVH.
//!
//! A file says of itself what it likes, so every header is checked before anything is copied: the segments lie inside
//! the file, above 1 MiB and, once [placed](super::Kernel::place), inside RAM; the entry lies in one of them.

mod notes;

use std::io::{Read, Seek, SeekFrom};
use std::ops::Range;

use linux_loader::loader::bootparam::{LOADED_HIGH, XLF_KERNEL_64, setup_header};
use vm_memory::{Address, Bytes, GuestAddress, GuestMemoryMmap, ReadVolatile};

use super::{Entry, Error as KernelError, FOUR_GIB, KernelRange, Protocol};
use crate::layout::HIGH_RAM_START;
use crate::platform::RamRange;

/// The first bytes of every ELF file.
pub(super) const MAGIC: &[u8] = b"\x7fELF";

/// What a vmlinux does not say and every Linux for x86_64 has: `COMMAND_LINE_SIZE` without the NUL.
pub(super) const CMDLINE_SIZE: u32 = 2047;
/// Likewise, `initrd_addr_max` in the setup header of every bzImage for x86_64.
pub(super) const INITRD_ADDR_MAX: u32 = 0x7fff_ffff;

/// Program headers of a file at most. A vmlinux has five.
pub const MAX_PROGRAM_HEADERS: u16 = 64;
/// Bytes of a note segment at most. A vmlinux has half a kilobyte.
pub const MAX_NOTES: u64 = 64 << 10;

// ELF-64 Object File Format 1.5: sizes of headers, and values of their fields.
const HEADER_SIZE: usize = 64;
const PROGRAM_HEADER_SIZE: u16 = 56;
const ELFCLASS64: u8 = 2;
const ELFDATA2LSB: u8 = 1;
const ET_EXEC: u16 = 2;
const ET_DYN: u16 = 3;
const EM_386: u16 = 3;
const EM_X86_64: u16 = 62;
const EM_AARCH64: u16 = 183;
const EM_RISCV: u16 = 243;
const PT_LOAD: u32 = 1;
const PT_INTERP: u32 = 3;
const PT_NOTE: u32 = 4;

/// An ELF file for x86_64 that cannot be booted here.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// A header with a value that the format rules out, or an absurd one.
    #[error("the kernel image has a damaged ELF header: {field} is {value:#x}")]
    BadField {
        /// The field's name in the ELF specification.
        field: &'static str,
        /// What it holds.
        value: u64,
    },
    /// Nothing that would be copied into memory.
    #[error(
        "the kernel image is an ELF file without a loadable segment: give a vmlinux, not its debug symbols or a module"
    )]
    NoSegment,
    /// A segment that would lie on what the loader itself puts into memory, or beyond what the entry can reach.
    #[error(
        "the kernel image wants {size:#x} bytes at {address:#x}, and kernels can be put from {HIGH_RAM_START:#x} to \
         {FOUR_GIB:#x} only: give a vmlinux linked for there"
    )]
    Segment {
        /// The segment's physical address.
        address: u64,
        /// Its size in memory.
        size: u64,
    },
    /// An entry where the file has nothing.
    #[error(
        "the kernel image begins at {0:#x}, which is in none of its segments: give an undamaged vmlinux"
    )]
    Entry(u64),
    /// No note XEN_ELFNOTE_PHYS32_ENTRY.
    #[error(
        "the kernel image has no PVH entry (built without CONFIG_PVH): say kernel.entry = \"linux64\" or leave it out"
    )]
    NoPvhEntry,
}

/// A loadable segment: `file_size` bytes from `offset` of the file go to `address`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Segment {
    offset: u64,
    address: u64,
    file_size: u64,
    /// In memory, where what the file does not have is zero.
    size: u64,
}

impl Segment {
    /// The addresses that get bytes of the file.
    fn loaded(&self) -> Range<u64> {
        self.address..self.address + self.file_size
    }

    fn end(&self) -> u64 {
        self.address + self.size
    }
}

/// An ELF file whose headers have been checked.
#[derive(Clone, Debug)]
pub struct Elf {
    segments: Vec<Segment>,
    entry: Protocol,
}

impl Elf {
    /// Reads and checks the headers of `image`, a file of `length` bytes that begins with `head` and [`MAGIC`].
    pub(super) fn read<K: Read + Seek>(
        image: &mut K,
        head: &[u8],
        length: u64,
        entry: Entry,
    ) -> Result<Self, KernelError> {
        let header = Header::parse(head, length)?;
        let table = header.program_headers(image, length)?;
        let mut segments = Vec::new();
        let mut pvh_entry = None;
        for bytes in table.chunks_exact(PROGRAM_HEADER_SIZE.into()) {
            let program_header = ProgramHeader::parse(bytes);
            match program_header.kind {
                PT_LOAD if program_header.size > 0 => {
                    segments.push(program_header.segment(length)?);
                }
                PT_INTERP => return Err(KernelError::NotAKernel("a program for Linux itself")),
                PT_NOTE if entry == Entry::Pvh && pvh_entry.is_none() => {
                    let notes = program_header.notes(image, length)?;
                    pvh_entry = notes::pvh_entry(&notes)?;
                }
                _ => (),
            }
        }
        if segments.is_empty() {
            return Err(Error::NoSegment.into());
        }
        let entry = match entry {
            Entry::Linux64 => Protocol::Linux64 {
                entry: header.entry,
                header: synthetic_setup_header(),
            },
            Entry::Pvh => Protocol::Pvh {
                entry: pvh_entry.ok_or(Error::NoPvhEntry)?,
            },
        };
        let address = match entry {
            Protocol::Linux64 { entry, .. } => entry,
            Protocol::Pvh { entry } => entry.into(),
        };
        match segments.iter().any(|s| s.loaded().contains(&address)) {
            true => Ok(Self { segments, entry }),
            false => Err(Error::Entry(address).into()),
        }
    }

    /// Where the segments say that they go: nothing can be chosen, only be found too small.
    pub(super) fn place(&self, ram: &[RamRange]) -> Result<KernelRange, KernelError> {
        let start = self.segments.iter().map(|s| s.address).min().unwrap_or(0);
        let end = self.segments.iter().map(Segment::end).max().unwrap_or(0);
        match ram
            .iter()
            .any(|range| range.base.raw_value() <= start && end <= range.end())
        {
            true => Ok(KernelRange { start, end }),
            false => Err(KernelError::NoRoom {
                start,
                needed: end - start,
            }),
        }
    }

    /// Copies the segments. What a segment has in memory and not in the file is zero already.
    pub(super) fn load<K: ReadVolatile + Seek>(
        &self,
        memory: &GuestMemoryMmap,
        image: &mut K,
    ) -> Result<(), KernelError> {
        for segment in &self.segments {
            let failed = |source| KernelError::Load {
                address: segment.address,
                source,
            };
            // Checked against the file's length, which no file system has above 2^63.
            let size = usize::try_from(segment.file_size).map_err(|e| failed(e.into()))?;
            image
                .seek(SeekFrom::Start(segment.offset))
                .map_err(KernelError::Read)?;
            memory
                .read_exact_volatile_from(GuestAddress(segment.address), image, size)
                .map_err(|error| failed(error.into()))?;
        }
        Ok(())
    }

    /// How the kernel is entered.
    pub(super) fn protocol(&self) -> Protocol {
        self.entry
    }
}

/// The setup header of a kernel that has none: what a loader would have found in the bzImage around it.
fn synthetic_setup_header() -> setup_header {
    setup_header {
        boot_flag: 0xaa55,
        header: u32::from_le_bytes(*b"HdrS"),
        version: 0x020f,
        loadflags: LOADED_HIGH,
        xloadflags: XLF_KERNEL_64,
        initrd_addr_max: INITRD_ADDR_MAX,
        cmdline_size: CMDLINE_SIZE,
        ..Default::default()
    }
}

/// What is needed of the ELF header.
struct Header {
    entry: u64,
    table: u64,
    count: u16,
}

impl Header {
    fn parse(head: &[u8], length: u64) -> Result<Self, KernelError> {
        // Which class and which machine is told as long as the file goes that far: it says most about a mistake.
        if head.get(4).is_some_and(|class| *class != ELFCLASS64) {
            return Err(KernelError::NotAKernel("an ELF file for a 32-bit machine"));
        }
        if head.get(5).is_some_and(|data| *data != ELFDATA2LSB) {
            return Err(KernelError::NotAKernel(
                "an ELF file for another architecture",
            ));
        }
        let Some(head) = head.first_chunk::<HEADER_SIZE>() else {
            return Err(KernelError::Truncated {
                what: "its ELF header",
                needed: HEADER_SIZE as u64,
                length,
            });
        };
        match u16_at(head, 18) {
            EM_X86_64 => (),
            EM_386 => return Err(KernelError::NotAKernel("an ELF file for 32-bit x86")),
            EM_AARCH64 => return Err(KernelError::NotAKernel("an ELF file for arm64")),
            EM_RISCV => return Err(KernelError::NotAKernel("an ELF file for RISC-V")),
            _ => {
                return Err(KernelError::NotAKernel(
                    "an ELF file for another architecture",
                ));
            }
        }
        let kind = u16_at(head, 16);
        if kind != ET_EXEC && kind != ET_DYN {
            return Err(KernelError::NotAKernel(
                "an ELF object file, module or core dump",
            ));
        }
        let size = u16_at(head, 54);
        let count = u16_at(head, 56);
        if count > 0 && size != PROGRAM_HEADER_SIZE {
            return Err(bad_field("e_phentsize", size.into()).into());
        }
        if count > MAX_PROGRAM_HEADERS {
            return Err(bad_field("e_phnum", count.into()).into());
        }
        Ok(Self {
            entry: u64_at(head, 24),
            table: u64_at(head, 32),
            count,
        })
    }

    /// The bytes of the program header table.
    fn program_headers<K: Read + Seek>(
        &self,
        image: &mut K,
        length: u64,
    ) -> Result<Vec<u8>, KernelError> {
        let size = u64::from(self.count) * u64::from(PROGRAM_HEADER_SIZE);
        read_at(
            image,
            "its program headers",
            "e_phoff",
            self.table,
            size,
            length,
        )
    }
}

/// What is needed of a program header.
struct ProgramHeader {
    kind: u32,
    offset: u64,
    address: u64,
    file_size: u64,
    size: u64,
}

impl ProgramHeader {
    /// `bytes` are the [`PROGRAM_HEADER_SIZE`] of one.
    fn parse(bytes: &[u8]) -> Self {
        Self {
            kind: u32_at(bytes, 0),
            offset: u64_at(bytes, 8),
            address: u64_at(bytes, 24),
            file_size: u64_at(bytes, 32),
            size: u64_at(bytes, 40),
        }
    }

    fn segment(&self, length: u64) -> Result<Segment, KernelError> {
        if self.file_size > self.size {
            return Err(bad_field("p_filesz", self.file_size).into());
        }
        let end = self
            .offset
            .checked_add(self.file_size)
            .ok_or_else(|| bad_field("p_offset", self.offset))?;
        if end > length {
            return Err(KernelError::Truncated {
                what: "a segment",
                needed: end,
                length,
            });
        }
        let reachable = self
            .address
            .checked_add(self.size)
            .is_some_and(|end| end <= FOUR_GIB);
        if self.address < HIGH_RAM_START || !reachable {
            return Err(Error::Segment {
                address: self.address,
                size: self.size,
            }
            .into());
        }
        Ok(Segment {
            offset: self.offset,
            address: self.address,
            file_size: self.file_size,
            size: self.size,
        })
    }

    /// The bytes of a note segment.
    fn notes<K: Read + Seek>(&self, image: &mut K, length: u64) -> Result<Vec<u8>, KernelError> {
        if self.file_size > MAX_NOTES {
            return Err(bad_field("p_filesz", self.file_size).into());
        }
        read_at(
            image,
            "its notes",
            "p_offset",
            self.offset,
            self.file_size,
            length,
        )
    }
}

/// Reads `size` bytes at `offset` of a file of `length` bytes; `size` is within a limit of this module, and `field` says
/// where the offset comes from.
fn read_at<K: Read + Seek>(
    image: &mut K,
    what: &'static str,
    field: &'static str,
    offset: u64,
    size: u64,
    length: u64,
) -> Result<Vec<u8>, KernelError> {
    let needed = offset
        .checked_add(size)
        .ok_or_else(|| bad_field(field, offset))?;
    if needed > length {
        return Err(KernelError::Truncated {
            what,
            needed,
            length,
        });
    }
    image
        .seek(SeekFrom::Start(offset))
        .map_err(KernelError::Read)?;
    let mut bytes = Vec::new();
    image
        .take(size)
        .read_to_end(&mut bytes)
        .map_err(KernelError::Read)?;
    match bytes.len() as u64 == size {
        true => Ok(bytes),
        false => Err(KernelError::Changed),
    }
}

fn bad_field(field: &'static str, value: u64) -> Error {
    Error::BadField { field, value }
}

fn u16_at(bytes: &[u8], offset: usize) -> u16 {
    u16::from_le_bytes(array_at(bytes, offset))
}

fn u32_at(bytes: &[u8], offset: usize) -> u32 {
    u32::from_le_bytes(array_at(bytes, offset))
}

fn u64_at(bytes: &[u8], offset: usize) -> u64 {
    u64::from_le_bytes(array_at(bytes, offset))
}

/// The `N` bytes at `offset`, zero where there are none; callers have made sure that there are.
fn array_at<const N: usize>(bytes: &[u8], offset: usize) -> [u8; N] {
    bytes
        .get(offset..)
        .and_then(|bytes| bytes.first_chunk())
        .copied()
        .unwrap_or([0; N])
}

#[cfg(test)]
mod tests;
