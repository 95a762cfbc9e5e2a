//! Kernel images and a machine, for unit tests and fuzz targets.
//!
//! A fuzz target calls [`load`](crate::load) with files of any content in [`memory`] of a small [`platform`].

use vm_memory::{GuestAddress, GuestMemoryMmap};

use crate::platform::{AcpiHardware, CmosRtc, MmioRange, Platform, RamRange, SerialPort};
use crate::smbios::Smbios;

/// A machine with two CPUs and `mib` MiB of RAM at 0.
pub fn platform(mib: u64) -> Platform {
    Platform {
        cpus: 2,
        ram: vec![RamRange {
            base: GuestAddress(0),
            size: mib << 20,
        }],
        ecam: MmioRange {
            base: 0xe000_0000,
            size: 1 << 20,
        },
        pci_mmio: MmioRange {
            base: 0xc000_0000,
            size: 512 << 20,
        },
        ioapic: 0xfec0_0000,
        lapic: 0xfee0_0000,
        com1: Some(SerialPort {
            port: 0x3f8,
            gsi: 4,
        }),
        cmos_rtc: Some(CmosRtc {
            port: 0x70,
            century: 0x32,
        }),
        pvpanic: Some(0x505),
        watchdog: None,
        acpi: AcpiHardware {
            sleep_control: 0x600,
            sleep_status: 0x601,
            reset: 0x602,
            reset_value: 1,
            ged_gsi: 5,
        },
        smbios: Smbios {
            uuid: uuid::uuid!("00112233-4455-6677-8899-aabbccddeeff"),
            serial: "test".to_owned(),
            oem_strings: vec![],
            credentials: vec![],
        },
    }
}

/// Memory for the RAM ranges of `platform`.
#[allow(clippy::unwrap_used)]
pub fn memory(platform: &Platform) -> GuestMemoryMmap {
    let ranges: Vec<_> = platform
        .ram
        .iter()
        .map(|range| (range.base, usize::try_from(range.size).unwrap()))
        .collect();
    GuestMemoryMmap::from_ranges(&ranges).unwrap()
}

/// The little-endian number at `offset` of `bytes`.
#[allow(clippy::unwrap_used)]
pub fn u32_at(bytes: &[u8], offset: usize) -> u32 {
    u32::from_le_bytes(bytes[offset..offset + 4].try_into().unwrap())
}

/// As [`u32_at`].
#[allow(clippy::unwrap_used)]
pub fn u64_at(bytes: &[u8], offset: usize) -> u64 {
    u64::from_le_bytes(bytes[offset..offset + 8].try_into().unwrap())
}

/// A bzImage as a 6.x kernel's build makes it, but for what a test changes; the code is a recognisable pattern.
///
/// The fields are those of the setup header (boot.rst, "Details of Header Fields") by their names there, if nothing else
/// is said.
#[allow(missing_docs)]
#[derive(Clone, Debug)]
pub struct KernelBuilder {
    pub setup_sects: u8,
    /// Protected-mode code in bytes, a multiple of 16.
    pub code: usize,
    pub version: u16,
    /// The second byte of `jump`, which says where the header ends.
    pub header_jump: u8,
    pub loadflags: u8,
    pub xloadflags: u16,
    pub relocatable: u8,
    pub kernel_alignment: u32,
    pub min_alignment: u8,
    pub pref_address: u64,
    pub init_size: u32,
    pub cmdline_size: u32,
    pub initrd_addr_max: u32,
    /// Bytes behind the code, as a signature is.
    pub trailer: usize,
}

impl Default for KernelBuilder {
    fn default() -> Self {
        Self {
            setup_sects: 3,
            code: 0x2000,
            version: 0x020f,
            header_jump: 0x6a,
            loadflags: 1,
            xloadflags: 0x7f,
            relocatable: 1,
            kernel_alignment: 0x20_0000,
            min_alignment: 21,
            pref_address: 0x100_0000,
            init_size: 8 << 20,
            cmdline_size: 2047,
            initrd_addr_max: 0x7fff_ffff,
            trailer: 0,
        }
    }
}

impl KernelBuilder {
    /// The byte at `offset` of the protected-mode part.
    pub fn code_byte(offset: usize) -> u8 {
        (offset % 251) as u8
    }

    /// The image.
    #[allow(clippy::unwrap_used)]
    pub fn build(&self) -> Vec<u8> {
        let sectors = match self.setup_sects {
            0 => 4,
            n => usize::from(n),
        };
        let mut image = vec![0; 512 * (sectors + 1)];
        let mut put = |offset: usize, bytes: &[u8]| {
            image[offset..offset + bytes.len()].copy_from_slice(bytes)
        };
        put(0, b"MZ");
        put(0x1f1, &[self.setup_sects]);
        put(0x1f4, &u32::try_from(self.code / 16).unwrap().to_le_bytes());
        put(0x1fe, &[0x55, 0xaa, 0xeb, self.header_jump]);
        put(0x202, b"HdrS");
        put(0x206, &self.version.to_le_bytes());
        put(0x211, &[self.loadflags]);
        put(0x214, &0x10_0000u32.to_le_bytes());
        put(0x22c, &self.initrd_addr_max.to_le_bytes());
        put(0x230, &self.kernel_alignment.to_le_bytes());
        put(0x234, &[self.relocatable, self.min_alignment]);
        put(0x236, &self.xloadflags.to_le_bytes());
        put(0x238, &self.cmdline_size.to_le_bytes());
        put(0x258, &self.pref_address.to_le_bytes());
        put(0x260, &self.init_size.to_le_bytes());
        put(0x264, &0xb0u32.to_le_bytes());
        // Behind the header: code, which must not end up in the zero page.
        put(0x202 + usize::from(self.header_jump), &[0xcc; 64]);
        image.extend((0..self.code).map(Self::code_byte));
        image.resize(image.len() + self.trailer, 0x99);
        image
    }
}

/// A segment of an [`ElfBuilder`].
#[derive(Clone, Debug)]
pub struct ElfSegment {
    /// `p_type`.
    pub kind: u32,
    /// `p_paddr`.
    pub address: u64,
    /// In memory, if it is not the length of `bytes`.
    pub size: Option<u64>,
    /// In the file.
    pub bytes: Vec<u8>,
}

/// A vmlinux with a segment of code at 16 MiB, one with zeros behind its data, and a note with the PVH entry, but for
/// what a test changes.
#[derive(Clone, Debug)]
pub struct ElfBuilder {
    /// `EI_CLASS`.
    pub class: u8,
    /// `EI_DATA`.
    pub data: u8,
    /// `e_type`.
    pub kind: u16,
    /// `e_machine`.
    pub machine: u16,
    /// `e_entry`.
    pub entry: u64,
    /// `e_phentsize`.
    pub program_header_size: u16,
    /// With a program header for each.
    pub segments: Vec<ElfSegment>,
}

impl ElfBuilder {
    /// The first instruction, 64-bit and by PVH.
    pub const ENTRIES: (u64, u32) = (0x100_0b50, 0x100_0a30);
    /// Where the segments are in memory, with what the second one leaves empty.
    pub const RANGE: std::ops::Range<u64> = 0x100_0000..0x180_0000;
}

impl Default for ElfBuilder {
    fn default() -> Self {
        let code = ElfSegment {
            kind: 1,
            address: Self::RANGE.start,
            size: None,
            bytes: (0..0x2000).map(KernelBuilder::code_byte).collect(),
        };
        let data = ElfSegment {
            kind: 1,
            address: 0x120_0000,
            size: Some(0x60_0000),
            bytes: vec![0xda; 0x123],
        };
        let entry = u64::from(Self::ENTRIES.1).to_le_bytes();
        let notes = ElfSegment {
            kind: 4,
            address: Self::RANGE.start,
            size: None,
            bytes: [note(b"Linux\0", 257, &[0; 4]), note(b"Xen\0", 18, &entry)].concat(),
        };
        Self {
            class: 2,
            data: 1,
            kind: 2,
            machine: 62,
            entry: Self::ENTRIES.0,
            program_header_size: 56,
            segments: vec![code, data, notes],
        }
    }
}

impl ElfBuilder {
    /// The file.
    #[allow(clippy::unwrap_used)]
    pub fn build(&self) -> Vec<u8> {
        let count = u16::try_from(self.segments.len()).unwrap();
        let mut file = [b"\x7fELF", &[self.class, self.data, 1, 0][..]].concat();
        file.resize(16, 0);
        file.extend(self.kind.to_le_bytes());
        file.extend(self.machine.to_le_bytes());
        file.extend(1u32.to_le_bytes());
        for word in [self.entry, 64, 0] {
            file.extend(word.to_le_bytes());
        }
        file.extend(0u32.to_le_bytes());
        for half in [64, self.program_header_size, count, 0, 0, 0] {
            file.extend(half.to_le_bytes());
        }
        let mut offset = file.len() + 56 * self.segments.len();
        for segment in &self.segments {
            file.extend(segment.kind.to_le_bytes());
            file.extend(0u32.to_le_bytes());
            let length = segment.bytes.len();
            for word in [
                offset as u64,
                0xffff_ffff_8000_0000 | segment.address,
                segment.address,
                length as u64,
                segment.size.unwrap_or(length as u64),
                0x1000,
            ] {
                file.extend(word.to_le_bytes());
            }
            offset += length;
        }
        for segment in &self.segments {
            file.extend(&segment.bytes);
        }
        file
    }
}

/// A note of an ELF file.
pub fn note(name: &[u8], kind: u32, descriptor: &[u8]) -> Vec<u8> {
    let mut note = Vec::new();
    for word in [name.len() as u32, descriptor.len() as u32, kind] {
        note.extend(word.to_le_bytes());
    }
    for field in [name, descriptor] {
        note.extend(field);
        note.resize(note.len().next_multiple_of(4), 0);
    }
    note
}
