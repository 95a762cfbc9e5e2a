//! The guest's console, whichever device it uses for it: the serial port, virtio-console, or both.
//!
//! * [`sink`]: the bounded ring into which output goes
//! * [`merge`]: one text out of what two consoles print, with the kernel's lines once
//! * [`input`]: what somebody types, on its way to the console that the guest listens to

pub mod input;
pub mod merge;
mod panic_text;
pub mod sink;

pub use input::ConsoleInput;
pub use merge::Merge;
pub use sink::{ConsoleSink, Output};

/// Where output came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The serial port, ttyS0.
    Serial,
    /// virtio-console, hvc0.
    Virtio,
}

impl Origin {
    /// The other one.
    fn other(self) -> Self {
        match self {
            Self::Serial => Self::Virtio,
            Self::Virtio => Self::Serial,
        }
    }
}
