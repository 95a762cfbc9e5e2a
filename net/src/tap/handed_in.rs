//! Taps and macvtaps that another process has opened.

use std::{
    fs::File,
    io,
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::fs::MetadataExt,
    },
    sync::Arc,
};

use super::{FLAGS, Tap, TapError, use_queue};
use crate::ioctl::{self, Flags};

/// The device numbers of /dev/net/tun (Documentation/admin-guide/devices.txt).
pub const TUN_NUMBERS: (u32, u32) = (10, 200);

impl Tap {
    /// A tap that another process has opened, with [`open`](Self::open) or in its own way, or the character device
    /// of a macvtap: a descriptor for each queue.
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
        if several {
            tap.check_copies()?;
        }
        tap.reset()?;
        Ok(tap)
    }

    /// Makes sure that each descriptor is a queue of its own: all but the first are taken out of use in turn, and one that
    /// is out already, or has taken the first one along, is a copy. All are in use in the end.
    fn check_copies(&self) -> Result<(), TapError> {
        let Some((first, others)) = self.queues.split_first() else {
            return Ok(());
        };
        let set = |queue, used| match ioctl::set_queue(queue, used) {
            Ok(()) => Ok(true),
            // It is so already.
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => Ok(false),
            Err(error) => Err(TapError::kernel(&self.name, "take out of use a queue")(
                error,
            )),
        };
        // One that another process has taken out of use says its interface all the same, by kernels newer than 6.1.
        for queue in others {
            set(queue, true)?;
        }
        for queue in others {
            if !set(queue, false)? || set(first, true)? {
                return Err(TapError::Copy {
                    fd: queue.as_raw_fd(),
                });
            }
        }
        for queue in others {
            set(queue, true)?;
        }
        Ok(())
    }
}

/// The name of the tap that a file is attached to, if it is one that we can use, perhaps as one of several files. Its queue
/// is in use then.
fn name_of(file: &File, several: bool) -> Result<String, TapError> {
    let fd = file.as_raw_fd();
    let not = |why| TapError::Descriptor { fd, why };
    let is_macvtap = file.metadata().is_ok_and(|found| {
        let number = found.rdev();
        (libc::major(number), libc::minor(number)) != TUN_NUMBERS
    });
    let interface = match ioctl::interface(file) {
        // A tap's queue that was taken out of use says EBADFD, as a file that is attached to nothing does.
        Err(error) if error.raw_os_error() == Some(libc::EBADFD) => {
            use_queue(file, true).and_then(|()| ioctl::interface(file))
        }
        result => result,
    };
    let (name, flags) = interface.map_err(|error| match error.raw_os_error() {
        Some(libc::EBADFD) => not("it is attached to no interface"),
        Some(libc::ENOLINK) => not("its macvtap was removed"),
        _ => not("it is of another kind of file"),
    })?;
    if is_macvtap {
        prepare_macvtap(file, &name, several)
            .map_err(TapError::kernel(&name, "prepare a queue"))?;
        return Ok(name);
    }
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

/// Makes a macvtap's queue as a tap's is. Each open of its character device is a queue, with flags of its own that can be
/// set at any time, and says its interface also while it is out of use.
fn prepare_macvtap(file: &File, name: &str, several: bool) -> io::Result<()> {
    let many: Flags = if several { libc::IFF_MULTI_QUEUE } else { 0 };
    ioctl::set_interface(file, name, FLAGS | many)?;
    use_queue(file, true)
}
