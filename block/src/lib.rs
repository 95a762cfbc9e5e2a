//! virtio-blk: disks of the guest, on raw images and block devices of the host.
//!
//! * [`image`]: images, opened, locked and made; the supervisor has them and the VMM gets their descriptors
//! * [`device`]: the virtio device: what it offers, and its worker
//! * [`counters`]: what has gone through it
//!
//! A `lane` is a queue at work, on a thread of its own: it takes requests (`request`), which go their way in `slot`s, step
//! by step, through an `engine` that carries them out on the image, several at a time and in any order. `disk` is what all
//! lanes share, `active` starts and ends them. Data goes straight between guest memory and the image; no copy of it is
//! made in this process, but where O_DIRECT wants it aligned otherwise.
#![deny(unsafe_code)]

mod active;
mod config;
pub mod counters;
pub mod device;
mod disk;
mod engine;
mod failure;
pub mod image;
mod lane;
mod request;
mod slot;
mod timer;

pub use counters::{Counters, Counts};
pub use device::{BlockDevice, BlockOptions, OnEnospc, OnFull};
pub use engine::EngineKind;
pub use image::{Image, ImageError, ImageOptions, NewImage};

/// Bytes of a sector, the unit of every request whatever the disk's own sectors are (virtio 1.3, 5.2.4).
pub const SECTOR: u64 = 512;
/// The most queues of a disk.
pub const QUEUES_MAX: u16 = 8;
/// Bytes of a serial number (5.2.6, VIRTIO_BLK_T_GET_ID).
pub const SERIAL_MAX: usize = 20;
/// Threads of a queue where there is no io_uring.
pub const THREADS: usize = 4;

/// Entries of a queue, and requests of it that are on their way at most.
const QUEUE_SIZE: u16 = 128;
/// Pieces of memory of a request at most: a queue's entries without those of the header and the status.
const SEG_MAX: usize = QUEUE_SIZE as usize - 2;
