//! The kernel image: which format it has, what is checked before it is trusted, where it is loaded and how it is
//! entered.
//!
//! The format is known by the file's content. A [bzImage](bzimage) is what distributions ship: it unpacks itself, and
//! with `CONFIG_RANDOMIZE_BASE` chooses its own address while it does (KASLR). An [ELF file](elf) is the vmlinux inside:
//! nothing is left to unpack, so it starts sooner and always at the same physical address.

pub mod bzimage;
pub mod elf;
mod looks_like;

use std::io::{self, Read, Seek, SeekFrom};

use linux_loader::loader::bootparam::setup_header;
use vm_memory::{Address, GuestMemoryMmap, ReadVolatile};

use crate::layout::HIGH_RAM_START;
use crate::platform::RamRange;
use bzimage::BzImage;
use elf::Elf;

/// Bytes from the start of a file that are read at once: enough for the setup header of a bzImage, the headers of an
/// ELF file and the usual place of a PE header.
const HEAD: u64 = 4096;

const MIB: u64 = 1 << 20;
/// The end of the identity map at the 64-bit entry, and of what a CPU reaches at the PVH entry.
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
    /// A file that ends before something that its headers promise.
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
        "the kernel image is neither a bzImage nor a vmlinux for x86_64 but {0}: give the file that distributions call \
         vmlinuz and the kernel's build arch/x86/boot/bzImage"
    )]
    NotAKernel(&'static str),
    /// A bzImage that is no good.
    #[error(transparent)]
    BzImage(#[from] bzimage::Error),
    /// An ELF file that is no good.
    #[error(transparent)]
    Elf(#[from] elf::Error),
    /// No RAM range can hold the kernel.
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
        /// What the one who copied says.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The file is not any more what it was when its headers were checked.
    #[error("the kernel image changed while it was loaded: start again")]
    Changed,
}

/// The way into an ELF kernel. A bzImage has the first one only.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Entry {
    /// The file's entry, in 64-bit mode with a zero page (boot.rst, "64-bit Boot Protocol").
    #[default]
    Linux64,
    /// The address in the file's note XEN_ELFNOTE_PHYS32_ENTRY, in 32-bit protected mode with a `struct hvm_start_info`
    /// (Xen, "x86/HVM direct boot ABI", which is called PVH).
    Pvh,
}

/// A kernel image whose headers have been checked.
#[derive(Clone, Debug)]
pub enum Kernel {
    /// A bzImage.
    BzImage(BzImage),
    /// A vmlinux.
    Elf(Elf),
}

/// Where a kernel is in guest memory, from its first byte to the end of what it needs to start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KernelRange {
    /// The lowest address that is loaded.
    pub start: u64,
    /// The first address that the kernel leaves alone before it reads the memory map.
    pub end: u64,
}

/// What the boot CPU and the kernel agree on at its first instruction.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Protocol {
    /// 64-bit mode, the zero page.
    Linux64 {
        /// The first instruction.
        entry: u64,
        /// What the zero page has of the image's setup header.
        header: setup_header,
    },
    /// 32-bit protected mode, `struct hvm_start_info`.
    Pvh {
        /// The first instruction.
        entry: u32,
    },
}

impl Kernel {
    /// Reads and checks the headers of `image`, from its start whatever its position is.
    ///
    /// Any bytes at all may be in the file.
    pub fn read<K: Read + Seek>(image: &mut K, entry: Entry) -> Result<Self, Error> {
        let mut head = Vec::new();
        image.rewind().map_err(Error::Read)?;
        image
            .take(HEAD)
            .read_to_end(&mut head)
            .map_err(Error::Read)?;
        let length = image.seek(SeekFrom::End(0)).map_err(Error::Read)?;
        if head.is_empty() {
            return Err(Error::Empty);
        }
        if head.starts_with(elf::MAGIC) {
            return Elf::read(image, &head, length, entry).map(Self::Elf);
        }
        let bzimage = BzImage::parse(&head, length)?;
        match entry {
            Entry::Linux64 => Ok(Self::BzImage(bzimage)),
            Entry::Pvh => Err(bzimage::Error::NoPvhEntry.into()),
        }
    }

    /// The format and the way in, for people.
    pub fn format(&self) -> String {
        match self {
            Self::BzImage(image) => {
                let version = image.protocol_version();
                let (major, minor) = (version >> 8, version & 0xff);
                format!("bzImage, boot protocol {major}.{minor}, 64-bit entry")
            }
            Self::Elf(image) => match image.protocol() {
                Protocol::Linux64 { .. } => "ELF, 64-bit entry".to_owned(),
                Protocol::Pvh { .. } => "ELF, PVH entry".to_owned(),
            },
        }
    }

    /// The version that the image says it has, as `6.12.43-amd64 (…) #1 SMP …`; `None` if it says none, as ELF files.
    pub fn version<K: Read + Seek>(&self, image: &mut K) -> Option<String> {
        match self {
            Self::BzImage(kernel) => kernel.version(image),
            Self::Elf(_) => None,
        }
    }

    /// The longest command line that the kernel keeps, in bytes without the NUL.
    pub fn cmdline_size(&self) -> u32 {
        match self {
            Self::BzImage(image) => image.cmdline_size(),
            Self::Elf(_) => elf::CMDLINE_SIZE,
        }
    }

    /// The highest address that a byte of the initrd may have.
    pub fn initrd_addr_max(&self) -> u32 {
        match self {
            Self::BzImage(image) => image.initrd_addr_max(),
            Self::Elf(_) => elf::INITRD_ADDR_MAX,
        }
    }

    /// Chooses where in `ram` (ascending) the kernel is loaded.
    pub fn place(&self, ram: &[RamRange]) -> Result<KernelRange, Error> {
        match self {
            Self::BzImage(image) => image.place(ram),
            Self::Elf(image) => image.place(ram),
        }
    }

    /// Copies the kernel to `at`, a place that [`place`](Self::place) chose.
    pub(crate) fn load<K: Read + ReadVolatile + Seek>(
        &self,
        memory: &GuestMemoryMmap,
        image: &mut K,
        at: KernelRange,
    ) -> Result<(), Error> {
        match self {
            Self::BzImage(kernel) => kernel.load(memory, image, at),
            Self::Elf(kernel) => kernel.load(memory, image),
        }
    }

    /// How the kernel loaded at `at` is entered.
    pub(crate) fn protocol(&self, at: KernelRange) -> Protocol {
        match self {
            Self::BzImage(image) => Protocol::Linux64 {
                entry: image.entry(at),
                header: image.header(at),
            },
            Self::Elf(image) => image.protocol(),
        }
    }
}

/// The lowest place in `ram` for `needed` bytes at a multiple of `alignment` that is not below `lowest`, nor 1 MiB, nor
/// behind the end of the identity map; `None` if there is none.
fn find_room(ram: &[RamRange], lowest: u64, alignment: u64, needed: u64) -> Option<KernelRange> {
    ram.iter().find_map(|range| {
        let start = lowest
            .max(HIGH_RAM_START)
            .max(range.base.raw_value())
            .checked_next_multiple_of(alignment)?;
        let end = start.checked_add(needed)?;
        (end <= range.end().min(FOUR_GIB)).then_some(KernelRange { start, end })
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::io::Cursor;

    use super::*;
    use crate::test_utils::{ElfBuilder, KernelBuilder};

    fn read(image: &[u8], entry: Entry) -> Result<Kernel, Error> {
        Kernel::read(&mut Cursor::new(image), entry)
    }

    #[test]
    fn the_format_is_known_by_the_content() {
        let bzimage = read(&KernelBuilder::default().build(), Entry::Linux64);
        assert!(matches!(bzimage, Ok(Kernel::BzImage(_))), "{bzimage:?}");
        let elf = read(&ElfBuilder::default().build(), Entry::Linux64);
        assert!(matches!(elf, Ok(Kernel::Elf(_))), "{elf:?}");
    }

    #[test]
    fn a_bzimage_has_no_pvh_entry_and_the_error_says_what_to_do() {
        let error = read(&KernelBuilder::default().build(), Entry::Pvh).unwrap_err();
        let message = error.to_string();
        assert!(message.contains("vmlinux"), "{message}");
        assert!(message.contains("kernel.entry"), "{message}");
    }

    #[test]
    fn an_empty_file_and_a_directory_are_errors_that_say_so() {
        assert!(matches!(read(b"", Entry::Pvh), Err(Error::Empty)));
        let directory = tempfile::tempdir().unwrap();
        let mut file = std::fs::File::open(directory.path()).unwrap();
        let error = Kernel::read(&mut file, Entry::Linux64).unwrap_err();
        assert!(
            matches!(&error, Error::Read(e) if e.kind() == io::ErrorKind::IsADirectory),
            "{error:?}"
        );
    }

    #[test]
    fn an_image_is_read_from_its_start_whatever_the_position_of_the_file() {
        for image in [
            KernelBuilder::default().build(),
            ElfBuilder::default().build(),
        ] {
            let mut file = Cursor::new(image);
            file.set_position(1000);
            assert!(Kernel::read(&mut file, Entry::Linux64).is_ok());
        }
    }

    #[test]
    fn files_of_other_kinds_are_named() {
        for (file, name) in [
            (&b"\x1f\x8b\x08"[..], "a gzip archive"),
            (b"070701", "an initrd"),
            (b"\x7fELF\x01\x01\x01", "32-bit"),
        ] {
            let message = read(file, Entry::Linux64).unwrap_err().to_string();
            assert!(message.contains(name), "{message}");
            assert!(message.contains("vmlinuz"), "{message}");
        }
    }
}
