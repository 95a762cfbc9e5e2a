//! PCI: bus 0 with up to 32 single-function devices.
//!
//! * [`bus`]: the bus, its slots and who answers in its memory window
//! * [`config_space`]: a function's configuration registers, capabilities and BARs
//! * [`msix`]: MSI-X vectors on eventfds
//!
//! There is no firmware: [`PciBus::add`] assigns BARs, and the guest may move them within the window.
//! Every BAR is 32-bit memory. Section numbers are those of the PCI Local Bus Specification 3.0, and of
//! the PCI Express Base Specification where it says so.

mod access;
mod bar;
pub mod bus;
pub mod config_space;
mod host_bridge;
pub mod msix;

pub use bar::{BAR_COUNT, BarRange, MmioWindow};
pub use bus::{Error, PciBus, PciFunction, Slot};
pub use config_space::{ConfigSpace, Identity};
pub use msix::Msix;
