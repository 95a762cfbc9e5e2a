//! Opening a tap by its name, and making one.

use std::{
    fs::{self, File, OpenOptions},
    io,
    sync::Arc,
};

use super::{FLAGS, TUN, Tap, TapError};
use crate::{
    MTU_MAX,
    ioctl::{self, Flags},
    link::Links,
    name::is_interface_name,
};

/// What a tap is to be like.
#[derive(Clone, Debug)]
pub struct TapOptions {
    /// How many queues are used.
    pub queues: usize,
    /// Whether it is made if it does not exist; it is then brought up, and goes with its last descriptor.
    pub create: bool,
    /// The bridge that it is put into, if it is not there.
    pub bridge: Option<String>,
    /// The MTU that a tap gets which is made; that of the bridge if there is none.
    pub mtu: Option<u16>,
}

impl Default for TapOptions {
    fn default() -> Self {
        Self {
            queues: 1,
            create: false,
            bridge: None,
            mtu: None,
        }
    }
}

impl Tap {
    /// Opens the tap `name` in this thread's network namespace.
    pub fn open(name: &str, options: &TapOptions) -> Result<Self, TapError> {
        for name in [Some(name), options.bridge.as_deref()]
            .into_iter()
            .flatten()
        {
            if !is_interface_name(name) {
                let name = name.to_owned();
                return Err(TapError::Name { name });
            }
        }
        let links = Links::new().map_err(TapError::kernel(name, "ask for the state"))?;
        let index = |name: &str| {
            let found = links.index(name);
            found.map_err(TapError::kernel(name, "find the index"))
        };
        let bridge = options.bridge.as_deref();
        if let Some(bridge) = bridge {
            check_bridge(&links, name, bridge)?;
        }
        let opener = Opener { name, options };
        let queues = match index(name)? {
            Some(before) => {
                let queues = opener.attach()?;
                // Had it been removed in between, we would have made another one, which goes with the file.
                if index(name)? != Some(before) {
                    return Err(opener.missing());
                }
                // A tap with several queues can be attached to by many.
                if queues_of(name, before) > queues.len() {
                    return Err(opener.busy());
                }
                Self::of(name, queues, false)?
            }
            None if options.create => {
                let tap = Self::of(name, opener.make()?, true)?;
                opener.prepare(&links)?;
                tap
            }
            None => return Err(opener.missing()),
        };
        let own = index(name)?.ok_or_else(|| opener.missing())?;
        if let Some(bridge) = bridge {
            join(&links, name, own, bridge)?;
        }
        if queues.made {
            links
                .bring_up(name)
                .map_err(TapError::kernel(name, "bring up the link"))?;
        } else if let Some(wanted) = options.mtu
            && let Ok(mtu) = links.mtu(name)
            && mtu < u32::from(wanted)
        {
            tracing::warn!(
                "tap `{name}` has an MTU of {mtu}, and the guest is told {wanted}: larger packets from \
                 the host will not reach it; `ip link set {name} mtu {wanted}`"
            );
        }
        Ok(queues)
    }

    fn of(name: &str, queues: Vec<File>, made: bool) -> Result<Self, TapError> {
        let tap = Self {
            name: name.to_owned(),
            queues: queues.into_iter().map(Arc::new).collect(),
            made,
        };
        tap.reset()?;
        Ok(tap)
    }
}

struct Opener<'a> {
    name: &'a str,
    options: &'a TapOptions,
}

impl Opener<'_> {
    /// Attaches to a tap that exists, by as many files as there are to be queues.
    fn attach(&self) -> Result<Vec<File>, TapError> {
        let first = self.file()?;
        let queues = self.options.queues;
        let many = FLAGS | libc::IFF_MULTI_QUEUE;
        // A tap has one queue or many from the beginning, and must be asked for as what it is: EINVAL says that it is
        // the other kind, or no tap.
        let kinds = if queues > 1 {
            [many, FLAGS]
        } else {
            [FLAGS, many]
        };
        let mut flags = kinds[0];
        let mut attached = ioctl::set_interface(&first, self.name, flags);
        if is(&attached, libc::EINVAL) {
            flags = kinds[1];
            attached = ioctl::set_interface(&first, self.name, flags);
        }
        attached.map_err(|error| self.refused(error))?;
        if queues > 1 && flags == FLAGS {
            let name = self.name.to_owned();
            return Err(TapError::OneQueue { name, queues });
        }
        self.further(first, flags)
    }

    /// Makes a tap that did not exist just now.
    fn make(&self) -> Result<Vec<File>, TapError> {
        let first = self.file()?;
        let flags = match self.options.queues {
            1 => FLAGS,
            _ => FLAGS | libc::IFF_MULTI_QUEUE,
        };
        let made = ioctl::set_interface(&first, self.name, flags | libc::IFF_TUN_EXCL);
        made.map_err(|error| match error.raw_os_error() {
            Some(libc::EPERM) => TapError::MayNotMake {
                name: self.name.to_owned(),
                queues: self.options.queues,
            },
            _ => self.refused(error),
        })?;
        self.further(first, flags)
    }

    /// Makes of a tap that was just made a port that changes nothing of its bridge, whose address and MTU follow those
    /// of its ports.
    fn prepare(&self, links: &Links) -> Result<(), TapError> {
        links
            .raise_address(self.name)
            .map_err(TapError::kernel(self.name, "set the address"))?;
        let of_bridge = || {
            let mtu = links.mtu(self.options.bridge.as_deref()?).ok()?;
            Some(u16::try_from(mtu).map_or(MTU_MAX, |mtu| mtu.min(MTU_MAX)))
        };
        match self.options.mtu.or_else(of_bridge) {
            Some(mtu) => links
                .set_mtu(self.name, mtu)
                .map_err(TapError::kernel(self.name, "set the MTU")),
            None => Ok(()),
        }
    }

    /// The files of the other queues after the first.
    fn further(&self, first: File, flags: Flags) -> Result<Vec<File>, TapError> {
        let mut files = vec![first];
        for _ in 1..self.options.queues {
            let file = self.file()?;
            ioctl::set_interface(&file, self.name, flags).map_err(|error| self.refused(error))?;
            files.push(file);
        }
        Ok(files)
    }

    fn file(&self) -> Result<File, TapError> {
        OpenOptions::new()
            .read(true)
            .write(true)
            .open(TUN)
            .map_err(|source| no_device(self.name, source))
    }

    fn refused(&self, source: io::Error) -> TapError {
        let name = self.name.to_owned();
        match source.raw_os_error() {
            Some(libc::EINVAL) => TapError::NotATap { name },
            Some(libc::EBUSY | libc::E2BIG) => TapError::Busy { name },
            Some(libc::EPERM) => TapError::NotOwner {
                name,
                queues: self.options.queues,
            },
            _ => TapError::kernel(self.name, "attach to the file")(source),
        }
    }

    fn missing(&self) -> TapError {
        TapError::Missing {
            name: self.name.to_owned(),
            queues: self.options.queues,
        }
    }

    fn busy(&self) -> TapError {
        TapError::Busy {
            name: self.name.to_owned(),
        }
    }
}

fn is(result: &io::Result<()>, errno: i32) -> bool {
    result
        .as_ref()
        .is_err_and(|error| error.raw_os_error() == Some(errno))
}

fn no_device(name: &str, source: io::Error) -> TapError {
    let name = name.to_owned();
    match source.kind() {
        io::ErrorKind::PermissionDenied => TapError::NotPermitted { name, source },
        _ => TapError::NoDriver { name, source },
    }
}

/// Finds out that there is such a bridge, before anything is made for it.
fn check_bridge(links: &Links, name: &str, bridge: &str) -> Result<(), TapError> {
    let found = links
        .index(bridge)
        .map_err(TapError::kernel(name, "find the bridge"))?;
    let (name, bridge_name) = (name.to_owned(), bridge.to_owned());
    if found.is_none() {
        let bridge = bridge_name;
        return Err(TapError::NoBridge { name, bridge });
    }
    match links.ports(bridge) {
        Ok(_) => Ok(()),
        Err(_) => Err(TapError::NotABridge {
            name,
            bridge: bridge_name,
        }),
    }
}

/// Puts the tap with that index into the bridge, if it is not there.
fn join(links: &Links, name: &str, index: u32, bridge: &str) -> Result<(), TapError> {
    let ports = links
        .ports(bridge)
        .map_err(TapError::kernel(name, "find the bridge"))?;
    if ports.contains(&index) {
        return Ok(());
    }
    links.add_port(bridge, index).map_err(|error| {
        let (name, bridge) = (name.to_owned(), bridge.to_owned());
        match error.raw_os_error() {
            Some(libc::EPERM) => TapError::MayNotBridge { name, bridge },
            Some(libc::EBUSY) => TapError::OtherBridge { name, bridge },
            _ => TapError::kernel(&name, "join the bridge")(error),
        }
    })
}

/// How many files are attached to a tap, by its receive queues in sysfs; 0 if sysfs, which may show another network
/// namespace, does not know this interface.
fn queues_of(name: &str, index: u32) -> usize {
    let directory = format!("/sys/class/net/{name}");
    let known = fs::read_to_string(format!("{directory}/ifindex"))
        .is_ok_and(|text| text.trim() == index.to_string());
    match fs::read_dir(format!("{directory}/queues")) {
        Ok(queues) if known => queues
            .flatten()
            .filter(|queue| queue.file_name().as_encoded_bytes().starts_with(b"rx-"))
            .count(),
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_no_interface_can_have_is_refused_before_anything_is_opened() {
        let bridge = |name: &str| TapOptions {
            bridge: Some(name.to_owned()),
            ..Default::default()
        };
        for (name, options) in [
            ("sixteen-bytes-ab", TapOptions::default()),
            ("vm%d", TapOptions::default()),
            ("vm-a", bridge("a/b")),
        ] {
            let error = Tap::open(name, &options).map(|_| ());
            assert!(matches!(error, Err(TapError::Name { .. })), "{name:?}");
        }
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
