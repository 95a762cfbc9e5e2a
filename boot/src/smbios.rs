//! SMBIOS 3 tables: what the guest's `dmidecode`, `/sys/class/dmi/id` and systemd know of the machine (SMBIOS 3.7,
//! DSP0134).
//!
//! [`tables`] makes them; they can be looked at (`dmidecode --from-dump`) before they are written into a guest. The
//! 64-bit entry point lies where operating systems without EFI search for it (5.2.2), the structures in the hole below
//! 1 MiB, which costs no RAM.

mod credential;
mod oem_strings;
mod structure;

use uuid::Uuid;
use vm_memory::GuestMemoryMmap;
use zeroize::Zeroizing;

use crate::layout;
pub use credential::Credential;
use structure::{Handles, Structure};

/// Bytes of all structures together at most. Linux maps the whole table at once before it has an allocator, in 64 pages
/// (`NR_FIX_BTMAPS`) and no more; systemd and others read all of it.
pub const MAX_STRUCTURES: usize = layout::SMBIOS.size as usize;

/// Who made machine and chassis, for people and for inventories. systemd-detect-virt goes by CPUID first.
const MANUFACTURER: &str = "minivmm";
/// Begins with the word by which `systemd-detect-virt` and virt-what know KVM.
const PRODUCT: &str = "KVM virtual machine";
const FAMILY: &str = "Virtual Machine";
/// There is no firmware that could be older or newer. Linux takes the year for the machine's age: from 2023 on it
/// believes what ACPI says of the host bridge's windows (`arch/x86/pci/acpi.c`).
const RELEASE_DATE: &str = "01/01/2026";

const ENTRY_POINT_SIZE: u8 = 0x18;

/// What the tables say of this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Smbios {
    /// The machine's UUID (type 1).
    pub uuid: Uuid,
    /// The machine's serial number (type 1).
    pub serial: String,
    /// Strings for whoever reads them (type 11), in this order; systemd takes credentials from them.
    pub oem_strings: Vec<String>,
    /// Secrets for systemd, in strings of their own behind the others.
    pub credentials: Vec<Credential>,
}

/// Strings that the tables cannot carry.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// A string without characters: it is how a list of strings ends (6.1.3).
    #[error("{what} is empty, and SMBIOS has no empty strings: leave it out")]
    Empty {
        /// Which string, as `string 2`.
        what: String,
    },
    /// A character that ends a string early or is none for a text.
    #[error(
        "{what} has the control character {character:?}: only printable characters and spaces are possible, so encode \
         binary data (as base64)"
    )]
    ControlCharacter {
        /// Which string.
        what: String,
        /// The character.
        character: char,
    },
    /// Structures that are longer than guests read.
    #[error(
        "the SMBIOS structures take {needed} bytes with these strings, and guests read {MAX_STRUCTURES} at most: take \
         {} bytes away{}", needed - MAX_STRUCTURES, largest_credentials(largest)
    )]
    TooLarge {
        /// How many bytes they take.
        needed: usize,
        /// The largest credentials, with the bytes that each takes as base64.
        largest: Vec<(String, usize)>,
    },
}

fn largest_credentials(largest: &[(String, usize)]) -> String {
    let each = largest
        .iter()
        .map(|(name, size)| format!("`{name}` ({size})"));
    match each.collect::<Vec<_>>() {
        each if each.is_empty() => String::new(),
        each => format!(
            "; the largest credentials, with their bytes as base64, are {}",
            each.join(", ")
        ),
    }
}

/// The entry point and the structures, as they are in guest memory.
#[derive(Clone, PartialEq, Eq)]
pub struct Tables {
    /// At [`layout::SMBIOS_ENTRY_POINT`].
    pub entry_point: [u8; ENTRY_POINT_SIZE as usize],
    /// At [`layout::SMBIOS`].
    pub structures: Zeroizing<Vec<u8>>,
}

/// Without what secrets may be in.
impl std::fmt::Debug for Tables {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tables")
            .field("bytes", &self.structures.len())
            .finish_non_exhaustive()
    }
}

/// Makes the tables that describe `smbios`.
pub fn tables(smbios: &Smbios) -> Result<Tables, Error> {
    check_string("the serial number", &smbios.serial)?;
    for (n, string) in smbios.oem_strings.iter().enumerate() {
        check_string(format!("string {}", n + 1), string)?;
    }
    let secrets: Vec<_> = smbios.credentials.iter().map(Credential::string).collect();
    let strings = smbios.oem_strings.iter().map(String::as_str);
    let strings: Vec<&str> = strings.chain(secrets.iter().map(|s| s.as_str())).collect();

    let mut structures = vec![bios(), system(smbios), chassis()];
    for group in oem_strings::groups(&strings) {
        structures.push(Structure::new(11, vec![group.count()], group.strings));
    }
    // System Boot Information (7.33): no errors detected.
    structures.push(Structure::new(32, vec![0; 7], vec![]));
    // End-of-Table (7.45).
    structures.push(Structure::new(127, vec![], vec![]));

    let needed = structures.iter().map(Structure::len).sum();
    if needed > MAX_STRUCTURES {
        return Err(Error::TooLarge {
            needed,
            largest: largest(
                smbios
                    .credentials
                    .iter()
                    .map(|c| {
                        (
                            c.name.clone(),
                            credential::string_size(&c.name, c.value.len()),
                        )
                    })
                    .collect(),
            ),
        });
    }
    // Reserved at once: a vector that grows leaves what it held behind.
    let mut table = Zeroizing::new(Vec::with_capacity(needed));
    let mut handles = Handles::default();
    for structure in structures {
        structure.write(handles.next(), &mut table);
    }
    Ok(Tables {
        entry_point: entry_point(needed as u32),
        structures: table,
    })
}

/// Says whether [`tables`] could make room for credentials of these names and sizes beside what is in `smbios`.
pub fn check_credentials(smbios: &Smbios, sizes: &[(&str, usize)]) -> Result<(), Error> {
    let credential = |(name, size): &(&str, usize)| Credential {
        name: (*name).to_owned(),
        value: Zeroizing::new(vec![0; *size]),
    };
    let strings = sizes
        .iter()
        .map(|(name, size)| ((*name).to_owned(), credential::string_size(name, *size)));
    let strings: Vec<_> = strings.collect();
    // Sizes of any files: nothing is made of them before it is known that they are small.
    let total = strings
        .iter()
        .fold(0, |sum: usize, (_, size)| sum.saturating_add(*size));
    if total > MAX_STRUCTURES {
        return Err(Error::TooLarge {
            needed: total,
            largest: largest(strings),
        });
    }
    let whole = Smbios {
        credentials: sizes.iter().map(credential).collect(),
        ..smbios.clone()
    };
    tables(&whole).map(|_| ())
}

/// The three that take the most.
fn largest(mut sizes: Vec<(String, usize)>) -> Vec<(String, usize)> {
    sizes.sort_by_key(|(_, size)| std::cmp::Reverse(*size));
    sizes.truncate(3);
    sizes
}

impl Tables {
    /// Copies the tables into guest memory.
    pub(crate) fn write(&self, memory: &GuestMemoryMmap) -> Result<(), crate::Error> {
        let write =
            |at: layout::Region, bytes| crate::write(memory, "the SMBIOS tables", at.start, bytes);
        write(layout::SMBIOS, &self.structures)?;
        write(layout::SMBIOS_ENTRY_POINT, &self.entry_point)
    }
}

fn check_string(what: impl Into<String>, string: &str) -> Result<(), Error> {
    if string.is_empty() {
        return Err(Error::Empty { what: what.into() });
    }
    match string.chars().find(|c| c.is_control()) {
        Some(character) => Err(Error::ControlCharacter {
            what: what.into(),
            character,
        }),
        None => Ok(()),
    }
}

/// BIOS Information (7.1). What a firmware's size and version would be is zero or "not supported".
fn bios() -> Structure<'static> {
    const NOT_SPECIFIED: u8 = 0;
    const CHARACTERISTICS_NOT_SUPPORTED: u64 = 1 << 3;
    const ACPI_IS_SUPPORTED: u8 = 1 << 0;
    const VIRTUAL_MACHINE: u8 = 1 << 4;
    const NO_RELEASE: u8 = 0xff;
    let mut fields = vec![1, NOT_SPECIFIED, 0, 0, 2, 0];
    fields.extend(CHARACTERISTICS_NOT_SUPPORTED.to_le_bytes());
    fields.extend([ACPI_IS_SUPPORTED, VIRTUAL_MACHINE]);
    // System BIOS and embedded controller, major and minor; extended ROM size.
    fields.extend([NO_RELEASE; 4]);
    fields.extend([0; 2]);
    Structure::new(0, fields, vec![MANUFACTURER, RELEASE_DATE])
}

/// System Information (7.2).
fn system(smbios: &Smbios) -> Structure<'_> {
    const NOT_SPECIFIED: u8 = 0;
    const WAKE_UP_POWER_SWITCH: u8 = 6;
    let mut fields = vec![1, 2, NOT_SPECIFIED, 3];
    // The first three fields of the UUID are little-endian (7.2.1).
    fields.extend(smbios.uuid.to_bytes_le());
    fields.extend([WAKE_UP_POWER_SWITCH, NOT_SPECIFIED, 4]);
    Structure::new(
        1,
        fields,
        vec![MANUFACTURER, PRODUCT, &smbios.serial, FAMILY],
    )
}

/// System Enclosure or Chassis (7.4): there is none, and what is said of it is "other", "unknown" or "safe".
fn chassis() -> Structure<'static> {
    const OTHER: u8 = 1;
    const UNKNOWN: u8 = 2;
    const SAFE: u8 = 3;
    let mut fields = vec![1, OTHER, 0, 0, 0, SAFE, SAFE, SAFE, UNKNOWN];
    // OEM-defined, height, power cords, contained elements and their length, SKU number.
    fields.extend([0; 4 + 5]);
    Structure::new(3, fields, vec![MANUFACTURER])
}

/// The 64-bit entry point (5.2.2) of structures of `size` bytes.
fn entry_point(size: u32) -> [u8; ENTRY_POINT_SIZE as usize] {
    const VERSION: [u8; 3] = [3, 7, 0];
    const ENTRY_POINT_REVISION: u8 = 1;
    const CHECKSUM: usize = 5;
    let mut bytes = [0; ENTRY_POINT_SIZE as usize];
    bytes[..5].copy_from_slice(b"_SM3_");
    bytes[6] = ENTRY_POINT_SIZE;
    bytes[7..10].copy_from_slice(&VERSION);
    bytes[10] = ENTRY_POINT_REVISION;
    bytes[12..16].copy_from_slice(&size.to_le_bytes());
    bytes[16..].copy_from_slice(&layout::SMBIOS.start.to_le_bytes());
    let sum = bytes
        .iter()
        .fold(0, |sum: u8, byte| sum.wrapping_add(*byte));
    bytes[CHECKSUM] = sum.wrapping_neg();
    bytes
}

#[cfg(test)]
mod tests;
