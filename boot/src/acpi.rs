//! The ACPI tables of a hardware-reduced machine (ACPI 6.5, 4.1): no fixed-hardware registers, no SCI, no FACS; sleep
//! and reset by three I/O ports, the power button by a generic event device.
//!
//! [`tables`] makes them, addresses included; they can be looked at (`iasl -d`) before they are written into a guest.

mod dsdt;
mod fadt;
mod madt;
mod wdat;

use acpi_tables::Aml;
use acpi_tables::mcfg::MCFG;
use acpi_tables::rsdp::Rsdp;
use acpi_tables::xsdt::XSDT;
use vm_memory::GuestMemoryMmap;

use crate::layout;
use crate::platform::Platform;

/// SLP_TYPx of the soft-off state S5, from the DSDT's `\_S5` package.
const SLP_TYP_S5: u8 = 5;

/// What the guest writes to SLEEP_CONTROL_REG to power off: `SLP_EN` (bit 5) and the `\_S5` sleep type in `SLP_TYPx`
/// (bits 2 to 4; ACPI 6.5, 4.8.3.7).
pub const S5_SLEEP_CONTROL: u8 = 1 << 5 | SLP_TYP_S5 << 2;

const OEM_ID: [u8; 6] = *b"MINIVM";
const OEM_TABLE_ID: [u8; 8] = *b"MINIVMM ";
const OEM_REVISION: u32 = 1;

/// Tables start at multiples of this: the RSDP must (ACPI 6.5, 5.2.5.1), for the others it is tidy.
const ALIGNMENT: u64 = 16;

/// A machine that the tables cannot describe.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The tables are longer than their place.
    #[error("the ACPI tables take {needed} bytes and their place has {room}: configure fewer CPUs", room = layout::ACPI.size)]
    TooLarge {
        /// How many bytes they take.
        needed: u64,
    },
    /// A range that ACPI is to describe with 32 bits does not fit into them.
    #[error("{what} of {size:#x} bytes at {base:#x} is empty or not below 4 GiB")]
    Range {
        /// Which range.
        what: &'static str,
        /// Its first byte.
        base: u64,
        /// Its length in bytes.
        size: u64,
    },
}

/// One table, ready to be copied to its address.
#[derive(Clone, Debug)]
pub struct Table {
    /// Its name in the specification; but for the RSDP and the FADT (`FACP`) also its signature.
    pub name: &'static str,
    /// Where it goes in guest memory.
    pub address: u64,
    /// Its bytes, checksum included.
    pub bytes: Vec<u8>,
}

/// All tables of a machine.
#[derive(Clone, Debug)]
pub struct Tables {
    tables: Vec<Table>,
}

impl Tables {
    /// The tables, by ascending address; the RSDP is the first.
    pub fn iter(&self) -> std::slice::Iter<'_, Table> {
        self.tables.iter()
    }

    /// The address of the RSDP, from which the guest finds all others.
    pub fn rsdp(&self) -> u64 {
        layout::ACPI.start
    }

    /// Copies the tables into guest memory.
    pub(crate) fn write(&self, memory: &GuestMemoryMmap) -> Result<(), crate::Error> {
        for table in self.iter() {
            crate::write(memory, table.name, table.address, &table.bytes)?;
        }
        Ok(())
    }
}

/// Makes the tables that describe `platform`.
pub fn tables(platform: &Platform) -> Result<Tables, Error> {
    let rsdp_address = layout::ACPI.start;
    let mut placed = Placed {
        tables: Vec::new(),
        next: (rsdp_address + Rsdp::len() as u64).next_multiple_of(ALIGNMENT),
    };

    let dsdt = placed.add("DSDT", &dsdt::dsdt(platform)?);
    let mut xsdt = XSDT::new(OEM_ID, OEM_TABLE_ID, OEM_REVISION);
    xsdt.add_entry(placed.add("FADT", &fadt::fadt(platform, dsdt)));
    xsdt.add_entry(placed.add("MADT", &madt::madt(platform)));
    xsdt.add_entry(placed.add("MCFG", &mcfg(platform)));
    if let Some(watchdog) = &platform.watchdog {
        xsdt.add_entry(placed.add("WDAT", &wdat::wdat(watchdog)));
    }
    let xsdt = placed.add("XSDT", &xsdt);

    let mut tables = placed.tables;
    tables.insert(
        0,
        Table {
            name: "RSDP",
            address: rsdp_address,
            bytes: bytes(&Rsdp::new(OEM_ID, xsdt)),
        },
    );
    let end = tables
        .iter()
        .map(|table| table.address + table.bytes.len() as u64)
        .max()
        .unwrap_or(rsdp_address);
    if end > layout::ACPI.end() {
        return Err(Error::TooLarge {
            needed: end - rsdp_address,
        });
    }
    Ok(Tables { tables })
}

/// Tables one behind the other.
struct Placed {
    tables: Vec<Table>,
    next: u64,
}

impl Placed {
    /// Adds `table` and returns its address.
    fn add(&mut self, name: &'static str, table: &dyn Aml) -> u64 {
        let address = self.next;
        let bytes = bytes(table);
        self.next = (address + bytes.len() as u64).next_multiple_of(ALIGNMENT);
        self.tables.push(Table {
            name,
            address,
            bytes,
        });
        address
    }
}

fn bytes(table: &dyn Aml) -> Vec<u8> {
    let mut bytes = Vec::new();
    table.to_aml_bytes(&mut bytes);
    bytes
}

/// MCFG (PCI Firmware Specification 3.3, 4.1.2): ECAM of segment group 0, bus 0 alone.
fn mcfg(platform: &Platform) -> MCFG {
    let mut mcfg = MCFG::new(OEM_ID, OEM_TABLE_ID, OEM_REVISION);
    mcfg.add_ecam(platform.ecam.base, 0, 0, 0);
    mcfg
}

#[cfg(test)]
mod tests;
