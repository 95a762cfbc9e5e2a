//! virtio-net: the guest's network card, on a tap device of the host.
//!
//! * [`tap`]: taps, opened by name, made, or handed in; the supervisor has them and the VMM gets their descriptors
//! * [`name`], [`mac`]: what an interface may be called, and a card's address
//! * [`device`]: the virtio device: what it offers, and its worker
//!
//! The worker is a thread for each pair of queues: `active` is the first, which also serves the control queue, `pair`
//! what all of them do, in two halves (`rx` with its `pool` of buffers, `tx`), and `steering` how many of them have
//! work. A frame goes straight between guest memory and the tap in one system call: no copy of it is made in this
//! process. `features` and `header` say what may be left unfinished in it.
#![deny(unsafe_code)]

mod active;
mod config;
mod control;
pub mod counters;
pub mod device;
mod features;
mod header;
mod ioctl;
mod link;
pub mod mac;
pub mod name;
mod pair;
mod pool;
mod rx;
mod steering;
pub mod tap;
mod tx;
mod vectored;

pub use counters::Counters;
pub use device::{NetDevice, NetOptions};
pub use mac::MacAddr;
pub use tap::{Tap, TapError, TapOptions};

/// Bytes of the header before every frame, on the queues and on the tap alike: `struct
/// virtio_net_hdr_v1`, always with `num_buffers` (virtio 1.3, 5.1.6).
const HEADER: usize = 12;
/// Bytes of an empty Ethernet frame, without the header.
const FRAME_MIN: usize = 14;
/// Bytes of the largest frame without the header: an Ethernet header and the largest IP packet (5.1.6.3.1).
const FRAME_MAX: usize = 65550;

/// Least MTU of a card (5.1.4.1).
pub const MTU_MIN: u16 = 68;
/// Most: what a tap takes, the largest IP packet less an Ethernet header.
pub const MTU_MAX: u16 = 65535 - 14;
/// The most pairs of queues of a card.
pub const PAIRS_MAX: usize = 8;
