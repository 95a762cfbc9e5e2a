//! A tap: an Ethernet interface of the host whose other end is a file, or one for each of its queues.

mod error;
mod open;

use std::{
    fs::File,
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    sync::Arc,
};

pub use error::TapError;
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
    /// A tap that another process has opened, with [`open`](Self::open) or in its own way: a descriptor for each
    /// queue.
    pub fn from_fds(fds: Vec<OwnedFd>) -> Result<Self, TapError> {
        let mut name = None;
        let several = fds.len() > 1;
        let mut queues = Vec::with_capacity(fds.len());
        for fd in fds {
            let file = File::from(fd);
            let number = file.as_raw_fd();
            let this = name_of(&file, several)?;
            let first = name.get_or_insert_with(|| this.clone());
            if *first != this {
                return Err(TapError::Mixed {
                    fd: number,
                    name: this,
                    first: first.clone(),
                });
            }
            queues.push(Arc::new(file));
        }
        let tap = Self {
            name: name.unwrap_or_default(),
            queues,
            made: false,
        };
        tap.reset()?;
        Ok(tap)
    }

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
        if let Some(queue) = self.queues.first() {
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

/// The name of the tap that a file is attached to, if it is one that we can use, perhaps as one of several files.
fn name_of(file: &File, several: bool) -> Result<String, TapError> {
    let fd = file.as_raw_fd();
    let not = |why| TapError::Descriptor { fd, why };
    let interface = match ioctl::interface(file) {
        // A queue that was taken out of use says EBADFD, as a file that is attached to nothing does.
        Err(error) if error.raw_os_error() == Some(libc::EBADFD) => {
            use_queue(file, true).and_then(|()| ioctl::interface(file))
        }
        result => result,
    };
    let (name, flags) = interface.map_err(|error| match error.raw_os_error() {
        Some(libc::EBADFD) => not("it is attached to no interface"),
        _ => not("it is of another kind of file"),
    })?;
    if flags & libc::IFF_TAP == 0 {
        return Err(not("it is a tun: make it with IFF_TAP"));
    }
    if flags & FLAGS != FLAGS {
        return Err(not("attach it with IFF_VNET_HDR and IFF_NO_PI"));
    }
    // Two descriptors of such a tap are copies, of the one queue that it has.
    if several && flags & libc::IFF_MULTI_QUEUE == 0 {
        return Err(not("several need a tap that was made with multi_queue"));
    }
    Ok(name)
}

impl From<Tap> for Vec<OwnedFd> {
    /// The descriptors; of a tap whose device still runs, none.
    fn from(tap: Tap) -> Self {
        let files = tap.queues.into_iter().filter_map(Arc::into_inner);
        files.map(OwnedFd::from).collect()
    }
}
