//! virtio-vsock: streams between the guest and unix sockets of the host.
//!
//! * [`device`]: the virtio device: what it offers, and what it is made of
//! * [`ports`]: which ports may be connected to, in either direction
//! * [`connector`]: how a guest's stream to the host gets a socket, from somebody who may open one
//! * [`packet`]: the header of every packet
//!
//! `worker` is the thread: rings and descriptors. What is said on them is in `hub`, which knows neither: it has a table of
//! `connection`s (their byte counts in `credit`), of clients that have not said yet where they want to go (`client`), and
//! of the streams with which a guest's systemd tells of itself (`notify`).
//!
//! Nothing here waits for anybody: not for a guest that takes no packets, nor for a program of the host that takes no bytes.
#![forbid(unsafe_code)]

mod client;
mod connection;
pub mod connector;
mod credit;
pub mod device;
mod hub;
mod notify;
pub mod packet;
pub mod ports;
mod stream;
mod table;
mod worker;

pub use connector::{Answers, Ask};
pub use device::{OnNotify, VsockDevice, VsockOptions};
pub use ports::Ports;

use std::time::Duration;

/// The host's address (virtio 1.3, 5.10.4).
pub const HOST_CID: u64 = 2;
/// The port of the host to which a guest's systemd tells of itself (`vmm.notify_socket`).
pub const NOTIFY_PORT: u32 = 8888;
/// Streams at a time, of all kinds, those that are being connected among them.
pub const CONNECTIONS: usize = 256;
/// Of them clients of the host that are not connected yet, and the guest's that are not.
pub const HALF_OPEN: usize = 32;
/// Bytes that a stream keeps of what its program on the host does not take: the credit that the guest has.
pub const BUFFER: u32 = 64 << 10;
/// Bytes of a client's first line, with its end.
pub const LINE: usize = 32;
/// How long a client may take for its first line.
pub const LINE_DEADLINE: Duration = Duration::from_secs(5);
/// How long the other side may take to accept a stream.
pub const ANSWER_DEADLINE: Duration = Duration::from_secs(10);
/// Resets that wait for a guest that takes no packets; then it is not listened to.
pub const RESETS: usize = 256;
/// Streams at a time to [`NOTIFY_PORT`].
pub const NOTIFY_STREAMS: usize = 64;
/// Bytes of one of them that are handed over.
pub const NOTIFY_TEXT: usize = 4096;
/// How long one of them may last.
pub const NOTIFY_DEADLINE: Duration = Duration::from_secs(10);
/// Of them so many are handed over at once.
pub const NOTIFY_BURST: u32 = 256;
/// And then so many a second.
pub const NOTIFY_RATE: u32 = 20;
