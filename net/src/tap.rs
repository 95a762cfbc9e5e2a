//! A tap: an Ethernet interface of the host whose other end is a file.

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use rustix::{
    io::Errno,
    net::{AddressFamily, SocketType, netdevice::name_to_index, socket},
};

use crate::{HEADER, ioctl};

const TUN: &str = "/dev/net/tun";

/// Bytes of an interface's name, without the NUL (IFNAMSIZ - 1).
const NAME_MAX: usize = libc::IFNAMSIZ - 1;

/// Whole frames, each behind a virtio-net header.
const FLAGS: ioctl::Flags = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR;

/// Why a tap cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TapError {
    /// The kernel would refuse such a name, or cut it.
    #[error(
        "`{name}` cannot name a tap: a name has 1 to {NAME_MAX} bytes, no `/`, no `:` and no space"
    )]
    Name {
        /// The name.
        name: String,
    },
    /// No such interface in this network namespace.
    #[error("tap `{name}` does not exist: make it with `ip tuntap add dev {name} mode tap`")]
    Missing {
        /// Its name.
        name: String,
    },
    /// A tun, a bridge, a card.
    #[error(
        "`{name}` is an interface but not a tap: \
         give another name, or make a tap with `ip tuntap add dev NAME mode tap`"
    )]
    NotATap {
        /// Its name.
        name: String,
    },
    /// Another process has it open.
    #[error("tap `{name}` is in use by another process: is a VM with it already running?")]
    Busy {
        /// Its name.
        name: String,
    },
    /// It belongs to another user.
    #[error(
        "tap `{name}` belongs to another user: \
         make it with `ip tuntap add dev {name} mode tap user USER`, or run as root"
    )]
    NotOwner {
        /// Its name.
        name: String,
    },
    /// The host has no taps.
    #[error("cannot open {TUN} for tap `{name}`: {source}; load the driver with `modprobe tun`")]
    NoDriver {
        /// The tap's name.
        name: String,
        /// What happened.
        source: io::Error,
    },
    /// The host permits none.
    #[error("cannot open {TUN} for tap `{name}`: {source}; give yourself access to it")]
    NotPermitted {
        /// The tap's name.
        name: String,
        /// What happened.
        source: io::Error,
    },
    /// Something that a working kernel does not say.
    #[error("cannot {what} of tap `{name}`: {source}")]
    Kernel {
        /// Its name.
        name: String,
        /// What was being done.
        what: &'static str,
        /// What happened.
        source: io::Error,
    },
}

impl TapError {
    /// Whether the host is at fault and not the configuration.
    pub fn is_host_unable(&self) -> bool {
        matches!(
            self,
            Self::NoDriver { .. } | Self::NotPermitted { .. } | Self::Kernel { .. }
        )
    }
}

/// A tap that is ours: reads and writes are one frame each, behind a header of 12 bytes, without
/// offloads, and never wait.
#[derive(Debug)]
pub struct Tap {
    file: File,
    name: String,
}

impl Tap {
    /// Opens the tap `name`, which must exist in this thread's network namespace: none is made.
    pub fn open(name: &str) -> Result<Self, TapError> {
        check_name(name)?;
        let index = index_of(name)?;
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .open(TUN)
            .map_err(|source| no_device(name, source))?;
        attach(&file, name)?;
        // Had it been removed in between, we would have made another one, which goes with the file.
        if index_of(name)? != index {
            return Err(TapError::Missing {
                name: name.to_owned(),
            });
        }
        // One with multi_queue can be attached to more than once.
        if queues(name, index) > 1 {
            return Err(TapError::Busy {
                name: name.to_owned(),
            });
        }
        Self::configured(file, name.to_owned())
    }

    /// A tap that another process has opened, with [`open`](Self::open) or in its own way.
    pub fn from_fd(fd: OwnedFd) -> Result<Self, TapError> {
        let file = File::from(fd);
        let (name, flags) = ioctl::interface(&file).map_err(|source| TapError::Kernel {
            name: "(a descriptor)".to_owned(),
            what: "read the name",
            source,
        })?;
        if flags & FLAGS != FLAGS {
            return Err(TapError::NotATap { name });
        }
        Self::configured(file, name)
    }

    fn configured(file: File, name: String) -> Result<Self, TapError> {
        let setting = |what| {
            let name = name.clone();
            move |source| TapError::Kernel { name, what, source }
        };
        ioctl::set_header_size(&file, HEADER as i32).map_err(setting("set the header size"))?;
        ioctl::set_offload(&file, 0).map_err(setting("switch off the offloads"))?;
        rustix::io::ioctl_fionbio(&file, true)
            .map_err(io::Error::from)
            .map_err(setting("make non-blocking the file"))?;
        Ok(Self { file, name })
    }

    /// The interface's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn file(&self) -> &File {
        &self.file
    }
}

impl AsFd for Tap {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl From<Tap> for OwnedFd {
    fn from(tap: Tap) -> Self {
        tap.file.into()
    }
}

/// The kernel's own rule (dev_valid_name in net/core/dev.c).
fn check_name(name: &str) -> Result<(), TapError> {
    let forbidden = |c: char| c == '/' || c == ':' || c == '\0' || c.is_whitespace();
    if name.is_empty()
        || name.len() > NAME_MAX
        || name == "."
        || name == ".."
        || name.contains(forbidden)
    {
        return Err(TapError::Name {
            name: name.to_owned(),
        });
    }
    Ok(())
}

/// The index of the interface, asked of the network namespace itself: sysfs may show another one.
fn index_of(name: &str) -> Result<u32, TapError> {
    let name = name.to_owned();
    let any = socket(AddressFamily::UNIX, SocketType::DGRAM, None);
    match any.and_then(|socket| name_to_index(socket, &name)) {
        Ok(index) => Ok(index),
        Err(Errno::NODEV) => Err(TapError::Missing { name }),
        Err(error) => Err(TapError::Kernel {
            name,
            what: "find the index",
            source: error.into(),
        }),
    }
}

fn no_device(name: &str, source: io::Error) -> TapError {
    let name = name.to_owned();
    match source.kind() {
        io::ErrorKind::PermissionDenied => TapError::NotPermitted { name, source },
        _ => TapError::NoDriver { name, source },
    }
}

fn attach(file: &File, name: &str) -> Result<(), TapError> {
    let invalid = |error: &io::Error| error.raw_os_error() == Some(libc::EINVAL);
    let attached = match ioctl::set_interface(file, name, FLAGS) {
        // EINVAL says that the interface is no tap, or one with multi_queue, which must be asked for.
        Err(error) if invalid(&error) => {
            ioctl::set_interface(file, name, FLAGS | libc::IFF_MULTI_QUEUE)
        }
        result => result,
    };
    let name = name.to_owned();
    attached.map_err(|source| match source.raw_os_error() {
        Some(libc::EINVAL) => TapError::NotATap { name },
        Some(libc::EBUSY) => TapError::Busy { name },
        Some(libc::EPERM) => TapError::NotOwner { name },
        _ => TapError::Kernel {
            name,
            what: "attach to the file",
            source,
        },
    })
}

/// How many files are attached to a tap, by its receive queues in sysfs; 1 if sysfs does not know this
/// interface.
fn queues(name: &str, index: u32) -> usize {
    let directory = format!("/sys/class/net/{name}");
    let known = fs::read_to_string(format!("{directory}/ifindex"))
        .is_ok_and(|text| text.trim() == index.to_string());
    match fs::read_dir(format!("{directory}/queues")) {
        Ok(queues) if known => queues
            .flatten()
            .filter(|queue| queue.file_name().as_encoded_bytes().starts_with(b"rx-"))
            .count(),
        _ => 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_the_kernel_would_refuse_is_refused() {
        for name in [
            "",
            ".",
            "..",
            "a/b",
            "a b",
            "a:b",
            "tap\n",
            "tap\0",
            "sixteen-bytes-ab",
        ] {
            let error = Tap::open(name).map(|_| ());
            assert!(matches!(error, Err(TapError::Name { .. })), "{name:?}");
        }
        assert!(check_name("fifteen-bytes-a").is_ok());
    }

    #[test]
    fn a_missing_device_and_a_forbidden_one_are_the_hosts_matter() {
        for (errno, words) in [
            (libc::ENOENT, "modprobe tun"),
            (libc::ENODEV, "modprobe tun"),
            (libc::EACCES, "access"),
            (libc::EPERM, "access"),
        ] {
            let error = no_device("vm-a", io::Error::from_raw_os_error(errno));
            assert!(error.is_host_unable());
            let text = error.to_string();
            assert!(text.contains("`vm-a`") && text.contains(words), "{text}");
        }
    }
}
