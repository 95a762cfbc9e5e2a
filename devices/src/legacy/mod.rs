//! The devices of a PC that an operating system expects before it knows PCI.
//!
//! * [`serial`]: a 16550 as console
//! * [`i8042`]: the keyboard controller's reset line
//! * [`rtc`]: the CMOS real-time clock, which shows the host's time
//! * [`pvpanic`]: how a guest says that its kernel has panicked
//! * [`watchdog`]: the countdown that ends a guest which hangs
//! * [`acpi`]: sleep control, sleep status and reset register of hardware-reduced ACPI

use std::sync::Arc;

pub mod acpi;
pub mod i8042;
pub mod pvpanic;
pub mod rtc;
pub mod serial;
pub mod watchdog;

pub use acpi::AcpiRegisters;
pub use i8042::I8042;
pub use pvpanic::{Panic, PvPanic};
pub use rtc::Rtc;
pub use serial::Serial;
pub use watchdog::Watchdog;

/// How a guest ends itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GuestEnd {
    /// ACPI S5.
    PowerOff,
    /// A reset register or line.
    Reset,
}

/// Takes a guest's end; called on a vCPU thread, perhaps more than once, so it only leaves word.
pub type OnGuestEnd = Arc<dyn Fn(GuestEnd) + Send + Sync>;
