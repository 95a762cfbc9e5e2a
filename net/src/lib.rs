//! virtio-net: the guest's network card, on a tap device of the host.
//!
//! * [`tap`]: a tap that exists already; the supervisor opens it and the VMM gets its descriptor
//! * [`mac`]: the card's address
//! * [`device`]: the virtio device, whose worker moves frames between its queues and the tap
//!
//! A frame goes straight between guest memory and the tap in one system call: no copy of it is made in
//! this process.
#![deny(unsafe_code)]

pub mod device;
mod ioctl;
pub mod mac;
mod rx;
pub mod tap;
mod tx;
mod vectored;

pub use device::{Counters, NetDevice};
pub use mac::MacAddr;
pub use tap::{Tap, TapError};

/// Bytes of the header before every frame, on the queues and on the tap alike: `struct
/// virtio_net_hdr_v1`, always with `num_buffers` (virtio 1.3, 5.1.6).
const HEADER: usize = 12;
