//! The devices of a minivmm virtual machine and the buses that they sit on.
//!
//! * [`bus`]: address ranges and the devices behind them, for port I/O and MMIO alike
//! * [`console`]: the guest's output on its way out, its input on its way in, whichever console it uses
//! * [`hypervisor`]: the little that a device asks of KVM, as a trait that the `vmm` crate fulfils
//! * [`pci`]: bus 0, its two configuration mechanisms, BARs and MSI-X
//! * [`virtio`]: the device trait, its worker thread, the virtio-pci transport, the entropy device, the
//!   balloon and the console
//! * [`legacy`]: the 16550 serial port, the CMOS clock, pvpanic, the i8042 reset line and the ACPI sleep and
//!   reset registers
//! * [`text`]: text of others in our log
//! * `test_utils` (feature `test-utils`): a fake hypervisor and the driver's side of a device
//!
//! Data flows one way: a vCPU's exit goes through [`bus`] to a register, a register write activates a
//! device, and from then on the device's own thread talks to the guest through memory, an eventfd for
//! each notification ([`hypervisor::Hypervisor::attach_notify`]) and one for each interrupt
//! ([`hypervisor::Hypervisor::connect_msi`]).
#![deny(unsafe_code)]

pub mod bus;
pub mod console;
pub mod hypervisor;
pub mod legacy;
pub mod pci;
#[cfg(any(test, feature = "test-utils"))]
pub mod test_utils;
pub mod text;
pub mod virtio;

/// The guest's memory as every device sees it.
pub type GuestMemory = vm_memory::GuestMemoryMmap<()>;
