//! A tap: an Ethernet interface of the host whose other end is a file, or one for each of its queues. A macvtap, which is
//! one on top of another interface, is the same to whoever reads and writes the files.

mod error;
mod handed_in;
mod open;

use std::{
    fs::File,
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::Arc,
};

pub use error::TapError;
pub use handed_in::TUN_NUMBERS;
pub use open::TapOptions;

use crate::{HEADER, ioctl};

const TUN: &str = "/dev/net/tun";

/// Whole frames, each behind a virtio-net header.
const FLAGS: ioctl::Flags = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR;

/// A tap that is ours: reads and writes are one frame each, behind a header of 12 bytes, and never wait.
///
/// The kernel forgets nothing when a process with a copy of the descriptors ends, so whoever is
/// [handed](Self::from_fds) a tap begins by setting it to what a new one is: every queue in use, no offloads.
#[derive(Debug)]
pub struct Tap {
    name: String,
    queues: Vec<Arc<File>>,
    /// Made by us: it goes with the last of its descriptors.
    made: bool,
}

impl Tap {
    /// The interface's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether [`open`](Self::open) has made it, so that it goes when the last descriptor is closed.
    pub fn is_made(&self) -> bool {
        self.made
    }

    /// The descriptor of each queue.
    pub fn fds(&self) -> impl ExactSizeIterator<Item = BorrowedFd<'_>> {
        self.queues.iter().map(|queue| queue.as_fd())
    }

    /// How many queues it has, at least one.
    pub fn queue_count(&self) -> usize {
        self.queues.len()
    }

    /// The file of a queue.
    pub(crate) fn queue(&self, index: usize) -> Option<&Arc<File>> {
        self.queues.get(index)
    }

    /// Sets what the reader takes unfinished, TUN_F_CSUM and so on; for all queues.
    pub(crate) fn set_offload(&self, offload: u32) -> io::Result<()> {
        match self.queues.first() {
            Some(queue) => ioctl::set_offload(queue, offload),
            None => Ok(()),
        }
    }

    /// Whether the kernel has such offloads; sets none.
    pub(crate) fn can_offload(&self, offload: u32) -> bool {
        let can = self.set_offload(offload).is_ok();
        // What could be set can be taken back.
        let _ = self.set_offload(0);
        can
    }

    /// Takes every queue but the first out of use.
    pub(crate) fn use_first_queue(&self) -> io::Result<()> {
        for queue in self.queues.iter().skip(1) {
            use_queue(queue, false)?;
        }
        Ok(())
    }

    fn reset(&self) -> Result<(), TapError> {
        let failed = |what| TapError::kernel(&self.name, what);
        for queue in &self.queues {
            rustix::io::ioctl_fionbio(queue, true)
                .map_err(io::Error::from)
                .map_err(failed("make non-blocking the file"))?;
        }
        for queue in &self.queues {
            // A macvtap has one for each.
            ioctl::set_header_size(queue, HEADER as i32).map_err(failed("set the header size"))?;
        }
        self.set_offload(0)
            .map_err(failed("switch off the offloads"))
    }
}

/// Puts a queue of a tap with several into use, or takes it out: then the tap gives it no frame, and what was
/// not read of it is dropped.
pub(crate) fn use_queue(queue: &File, used: bool) -> io::Result<()> {
    match ioctl::set_queue(queue, used) {
        // It is so already.
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => Ok(()),
        result => result,
    }
}

impl From<Tap> for Vec<OwnedFd> {
    /// The descriptors; of a tap whose device still runs, none.
    fn from(tap: Tap) -> Self {
        let files = tap.queues.into_iter().filter_map(Arc::into_inner);
        files.map(OwnedFd::from).collect()
    }
}
