//! Starts a Linux guest without firmware: puts the kernel, the initrd and everything that a PC's firmware would have
//! left in memory into place, and says in which state the first CPU enters the kernel.
//!
//! [`load`] does all of it. What it must know of the machine is a [`Platform`] value; what comes back is a
//! [`BootCpu`]. The crate knows neither KVM nor devices, and takes kernel images for what they are: files from anywhere.
//!
//! | module | what it holds |
//! |---|---|
//! | [`platform`] | the machine as its tables describe it |
//! | [`layout`] | who owns which address below 1 MiB |
//! | [`bzimage`] | the kernel image: setup header, its checks, where it is loaded |
//! | [`initrd`] | the initial RAM disk: where it goes |
//! | [`cmdline`] | the command line and its limits |
//! | [`e820`] | the memory map |
//! | `zero_page` | `struct boot_params`, which carries all of these to the kernel |
//! | [`acpi`] | hardware-reduced ACPI: RSDP, XSDT, FADT, MADT, MCFG, DSDT |
//! | `reset_vector` | where a guest ends up that restarts through the firmware |
//! | [`cpu`], `paging` | long mode, GDT and identity map at the 64-bit entry |
//!
//! The contract with the guest is Linux' `Documentation/arch/x86/boot.rst` ("boot.rst" below) and the ACPI
//! specification 6.5.

#![forbid(unsafe_code)]

pub mod acpi;
pub mod bzimage;
pub mod cmdline;
pub mod cpu;
pub mod e820;
pub mod initrd;
pub mod layout;
mod paging;
pub mod platform;
mod reset_vector;
#[cfg(test)]
mod test_utils;
mod zero_page;

use std::fs::File;

use vm_memory::GuestMemoryMmap;

pub use cpu::BootCpu;
pub use platform::{AcpiHardware, MmioRange, Platform, RamRange, SerialPort};

/// Why a guest cannot be started; the message is for the person who wrote the VM's configuration.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The description of the machine contradicts itself.
    #[error(transparent)]
    Platform(#[from] platform::Error),
    /// The kernel image is none that can be booted here, or has no room.
    #[error(transparent)]
    Kernel(#[from] bzimage::Error),
    /// The initrd cannot be read or has no room.
    #[error(transparent)]
    Initrd(#[from] initrd::Error),
    /// The command line is not one that the kernel takes.
    #[error(transparent)]
    Cmdline(#[from] cmdline::Error),
    /// The ACPI tables cannot describe this machine.
    #[error(transparent)]
    Acpi(#[from] acpi::Error),
    /// Guest memory does not have the RAM that [`Platform::ram`] names.
    #[error("writing {what} into guest memory at {address:#x}")]
    Memory {
        /// What was being written.
        what: &'static str,
        /// Guest-physical address of its first byte.
        address: u64,
        /// What guest memory says.
        source: vm_memory::GuestMemoryError,
    },
}

/// Loads `kernel` (a bzImage) and `initrd` with the command line `cmdline`, writes every table, and returns the state
/// in which the boot CPU enters the kernel.
///
/// `memory` must be zeroed RAM at every range of `platform.ram`. The files are read from their start whatever their
/// position is; their bytes go straight into guest memory. Everything that can be checked is checked before the first
/// byte is written.
///
/// Application processors need no state from here: the guest starts them by INIT and SIPI.
pub fn load(
    memory: &GuestMemoryMmap,
    platform: &Platform,
    kernel: &mut File,
    initrd: Option<&mut File>,
    cmdline: &str,
) -> Result<BootCpu, Error> {
    platform.check()?;
    let tables = acpi::tables(platform)?;
    let image = bzimage::BzImage::read(kernel)?;
    cmdline::check(cmdline, image.cmdline_size())?;
    let kernel_range = image.place(&platform.ram)?;
    let initrd = match initrd {
        Some(file) => {
            let size = initrd::size(file)?;
            let at = initrd::place(size, image.initrd_addr_max(), &platform.ram, kernel_range)?;
            Some((file, at))
        }
        None => None,
    };

    image.load(memory, kernel, kernel_range)?;
    let initrd = match initrd {
        Some((file, at)) => {
            initrd::load(memory, file, at)?;
            Some(at)
        }
        None => None,
    };
    cmdline::write(memory, cmdline)?;
    tables.write(memory)?;
    reset_vector::write(memory, &platform.acpi)?;
    zero_page::write(
        memory,
        platform,
        &image,
        kernel_range,
        initrd,
        tables.rsdp(),
    )?;
    paging::write(memory)?;
    cpu::write_gdt(memory)?;
    Ok(BootCpu::at_64bit_entry(image.entry(kernel_range)))
}

/// Copies `bytes` to `address`; `what` names them in the error.
fn write(
    memory: &GuestMemoryMmap,
    what: &'static str,
    address: u64,
    bytes: &[u8],
) -> Result<(), Error> {
    use vm_memory::{Bytes, GuestAddress};
    memory
        .write_slice(bytes, GuestAddress(address))
        .map_err(|source| Error::Memory {
            what,
            address,
            source,
        })
}

#[cfg(test)]
mod tests;
