//! virtio 1.x: what a device is, the thread that it works on, and how it is seen over PCI.
//!
//! * [`device`]: the trait that a device fulfils and the values that it is activated with
//! * [`interrupt`]: how a device interrupts its driver
//! * [`worker`]: the thread on which an activated device runs
//! * [`pci`]: registers, negotiation and reset of a device on PCI
//! * [`rng`]: the entropy device
//! * [`balloon`]: the balloon, and memory that the guest reports as free
//! * [`console`]: the console
//! * [`queue`]: taking buffers out of a virtqueue whose driver is not trusted

pub mod balloon;
pub mod console;
pub mod device;
pub mod interrupt;
pub mod pci;
pub mod queue;
pub mod rng;
pub mod worker;

pub use balloon::Balloon;
pub use console::Console;
pub use device::{Activation, ActiveQueue, ConfigSpace, DeviceType, StaticConfig, VirtioDevice};
pub use interrupt::{DeviceInterrupt, DeviceStatus, QueueInterrupt};
pub use pci::VirtioPci;
pub use rng::Rng;
pub use worker::{Handler, Worker};
