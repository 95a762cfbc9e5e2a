//! Starts a Linux guest without firmware: puts the kernel, the initrd and everything that a PC's firmware would have
//! left in memory into place, and says in which state the first CPU enters the kernel.
//!
//! [`load`] does all of it, [`check`] says beforehand whether it would. What they must know of the machine is a
//! [`Platform`] value, what is booted in it a [`Payload`]; what comes back is a [`BootCpu`]. The crate knows neither KVM
//! nor devices, and takes kernel images for what they are: files from anywhere.
//!
//! | module | what it holds |
//! |---|---|
//! | [`platform`] | the machine as its tables describe it |
//! | [`layout`] | who owns which address below 1 MiB |
//! | [`kernel`] | the kernel image, a bzImage or an ELF file: its checks, where it is loaded, how it is entered |
//! | [`initrd`] | the initial RAM disk: where it goes |
//! | [`cmdline`] | the command line and its limits |
//! | [`e820`] | the memory map |
//! | `zero_page` | `struct boot_params`, which carries all of these to the 64-bit entry |
//! | `start_info` | `struct hvm_start_info`, which carries them to the PVH entry |
//! | [`acpi`] | hardware-reduced ACPI: RSDP, XSDT, FADT, MADT, MCFG, DSDT, WDAT |
//! | [`smbios`] | SMBIOS 3: UUID, serial number and strings |
//! | `reset_vector` | where a guest ends up that restarts through the firmware |
//! | [`cpu`], `paging` | the boot CPU's registers at either entry, GDT and identity map |
//!
//! The contract with the guest is Linux' `Documentation/arch/x86/boot.rst` ("boot.rst" below) or Xen's "x86/HVM direct
//! boot ABI" (`docs/misc/pvh.pandoc` and `public/arch-x86/hvm/start_info.h`), and the ACPI specification 6.5.

#![forbid(unsafe_code)]

pub mod acpi;
pub mod cmdline;
pub mod cpu;
pub mod e820;
pub mod initrd;
pub mod kernel;
pub mod layout;
mod paging;
pub mod platform;
mod reset_vector;
pub mod smbios;
mod start_info;
#[cfg(any(test, feature = "test-utils"))]
pub mod test_utils;
mod zero_page;

use std::fs::File;

use vm_memory::GuestMemoryMmap;

use initrd::InitrdRange;
use kernel::{KernelRange, Protocol};

pub use cpu::BootCpu;
pub use kernel::{Entry, Kernel};
pub use platform::{AcpiHardware, CmosRtc, MmioRange, Platform, RamRange, SerialPort, Watchdog};
pub use smbios::{Credential, Smbios};

/// Why a guest cannot be started; the message is for the person who wrote the VM's configuration.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The description of the machine contradicts itself.
    #[error(transparent)]
    Platform(#[from] platform::Error),
    /// The kernel image is none that can be booted here, or has no room.
    #[error(transparent)]
    Kernel(#[from] kernel::Error),
    /// The initrd cannot be read or has no room.
    #[error(transparent)]
    Initrd(#[from] initrd::Error),
    /// The command line is not one that the kernel takes.
    #[error(transparent)]
    Cmdline(#[from] cmdline::Error),
    /// The ACPI tables cannot describe this machine.
    #[error(transparent)]
    Acpi(#[from] acpi::Error),
    /// The SMBIOS tables cannot carry a string.
    #[error(transparent)]
    Smbios(#[from] smbios::Error),
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

/// What is booted: files, which are read from their start whatever their position is.
#[derive(Debug)]
pub struct Payload<'a> {
    /// The kernel image.
    pub kernel: &'a mut File,
    /// How the kernel is entered, if it is an ELF file.
    pub entry: Entry,
    /// The initial RAM disk.
    pub initrd: Option<&'a mut File>,
    /// The kernel command line.
    pub cmdline: &'a str,
}

/// Where [`load`] would put what it loads.
#[derive(Clone, Debug)]
pub struct Placement {
    /// The kernel image, its headers checked.
    pub kernel: Kernel,
    /// Its room in guest memory.
    pub kernel_range: KernelRange,
    /// The initial RAM disk in guest memory.
    pub initrd: Option<InitrdRange>,
}

/// Says whether [`load`] would fail, as far as can be told without guest memory, and what it would do.
pub fn check(platform: &Platform, payload: Payload<'_>) -> Result<Placement, Error> {
    let plan = Plan::make(platform, payload)?;
    Ok(Placement {
        kernel: plan.kernel,
        kernel_range: plan.kernel_range,
        initrd: plan.initrd.map(|(_, at)| at),
    })
}

/// Loads the kernel and the initrd, writes every table, and returns the state in which the boot CPU enters the kernel.
///
/// `memory` must be zeroed RAM at every range of `platform.ram`. The files' bytes go straight into it. Everything that
/// can be checked is checked before the first byte is written.
///
/// Application processors need no state from here: the guest starts them by INIT and SIPI.
pub fn load(
    memory: &GuestMemoryMmap,
    platform: &Platform,
    payload: Payload<'_>,
) -> Result<BootCpu, Error> {
    Plan::make(platform, payload)?.carry_out(memory, platform)
}

/// Everything checked and placed, nothing written.
struct Plan<'a> {
    kernel_file: &'a mut File,
    kernel: Kernel,
    kernel_range: KernelRange,
    initrd: Option<(&'a mut File, InitrdRange)>,
    cmdline: &'a str,
    acpi: acpi::Tables,
    smbios: smbios::Tables,
}

impl<'a> Plan<'a> {
    fn make(platform: &Platform, payload: Payload<'a>) -> Result<Self, Error> {
        platform.check()?;
        let acpi = acpi::tables(platform)?;
        let smbios = smbios::tables(&platform.smbios)?;
        let kernel = Kernel::read(payload.kernel, payload.entry)?;
        cmdline::check(payload.cmdline, kernel.cmdline_size())?;
        let kernel_range = kernel.place(&platform.ram)?;
        let initrd = match payload.initrd {
            Some(file) => {
                let size = initrd::size(file)?;
                let max = kernel.initrd_addr_max();
                let at = initrd::place(size, max, &platform.ram, kernel_range)?;
                initrd::check_whole(file, size)?;
                Some((file, at))
            }
            None => None,
        };
        Ok(Self {
            kernel_file: payload.kernel,
            kernel,
            kernel_range,
            initrd,
            cmdline: payload.cmdline,
            acpi,
            smbios,
        })
    }

    fn carry_out(self, memory: &GuestMemoryMmap, platform: &Platform) -> Result<BootCpu, Error> {
        self.kernel
            .load(memory, self.kernel_file, self.kernel_range)?;
        let initrd = match self.initrd {
            Some((file, at)) => {
                initrd::load(memory, file, at)?;
                Some(at)
            }
            None => None,
        };
        cmdline::write(memory, self.cmdline)?;
        self.acpi.write(memory)?;
        self.smbios.write(memory)?;
        reset_vector::write(memory, &platform.acpi)?;

        let rsdp = self.acpi.rsdp();
        let cpu = match self.kernel.protocol(self.kernel_range) {
            Protocol::Linux64 { entry, header } => {
                let at = self.kernel_range;
                zero_page::write(memory, platform, header, at, initrd, rsdp)?;
                paging::write(memory)?;
                BootCpu::at_64bit_entry(entry)
            }
            Protocol::Pvh { entry } => {
                start_info::write(memory, platform, initrd, rsdp)?;
                BootCpu::at_pvh_entry(entry)
            }
        };
        cpu.write_gdt(memory)?;
        Ok(cpu)
    }
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
