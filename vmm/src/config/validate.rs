//! What types cannot say about a configuration.

use std::path::Path;

use minivmm_net::name::is_interface_name;

use super::{Cache, Ids, Interface, InterfaceType, Limits, Share, ShareProto, VmConfig};
use crate::slots::{self, Slots};

/// Why a configuration is refused; each is one line that names the key.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum Error {
    /// A name with other characters or too long.
    #[error(
        "name: `{0}` is not 1 to {max} letters, digits, `-`, `_` or `.`, beginning with a letter or digit",
        max = Limits::NAME
    )]
    Name(String),
    /// A number beyond its limits.
    #[error("{key}: {value} is not from {min} to {max}")]
    Range {
        /// The key.
        key: &'static str,
        /// What it says.
        value: u64,
        /// Least value.
        min: u64,
        /// Most.
        max: u64,
    },
    /// Too many of a kind.
    #[error("{key}: {count} are given, at most {max} are possible")]
    TooMany {
        /// The key.
        key: &'static str,
        /// How many there are.
        count: usize,
        /// Most.
        max: usize,
    },
    /// The same value twice where it must be the only one.
    #[error("{key}: `{value}` is used twice")]
    Twice {
        /// The key.
        key: &'static str,
        /// The value.
        value: String,
    },
    /// A share by 9p.
    #[error("shares.proto: 9p is not supported (share `{tag}`): say proto = \"virtiofs\"")]
    NineP {
        /// The share.
        tag: String,
    },
    /// What a share lacks, or what does not go together.
    #[error("shares.{key}: share `{tag}`: it {why}")]
    Share {
        /// The share.
        tag: String,
        /// The key.
        key: &'static str,
        /// What is wrong with it.
        why: &'static str,
    },
    /// What a volume lacks, or what does not go together.
    #[error("volumes.{key}: `{image}`: it {why}")]
    Volume {
        /// The volume's image.
        image: String,
        /// The key.
        key: &'static str,
        /// What is wrong with it.
        why: &'static str,
    },
    /// A port that has its use already.
    #[error(
        "vsock.allow: host:8888 is where the guest's systemd tells minivmm of itself, which is always possible: use another port"
    )]
    NotifyPort,
    /// A tag that the guest could not use.
    #[error(
        "shares.tag: `{0}` has a space, a quote, a backslash, `,` or `:` and cannot stand in a kernel command line"
    )]
    Tag(String),
    /// A name that no interface can have.
    #[error(
        "interfaces.{key}: `{name}` is not 1 to {max} bytes without spaces, `/`, `:` or `%`",
        max = Limits::INTERFACE_NAME
    )]
    InterfaceName {
        /// The key.
        key: &'static str,
        /// The name.
        name: String,
    },
    /// More queues than vCPUs could serve.
    #[error("interfaces.queues: {queues} are more than the {vcpu} of vcpu (interface `{id}`)")]
    Queues {
        /// How many pairs there are to be.
        queues: usize,
        /// How many vCPUs.
        vcpu: u8,
        /// The interface.
        id: String,
    },
    /// A number that is not the one of the descriptors.
    #[error("interfaces.queues: {queues} are wanted, and fd has {fds} (interface `{id}`)")]
    QueuesOfFd {
        /// How many pairs there are to be.
        queues: usize,
        /// How many descriptors there are.
        fds: usize,
        /// The interface.
        id: String,
    },
    /// A descriptor that is no tap.
    #[error(
        "interfaces.fd: {fd} is below {min}: the first descriptors are the standard ones (interface `{id}`)"
    )]
    Descriptor {
        /// The number.
        fd: i32,
        /// The least that is possible.
        min: i32,
        /// The interface.
        id: String,
    },
    /// A macvtap that is not handed in.
    #[error(
        "interfaces.fd: a macvtap is handed in: open its /dev/tapN for minivmm and say the descriptor's number (interface `{0}`)"
    )]
    NoFd(String),
    /// A key that says what to do with a tap of a name, of an interface without one.
    #[error(
        "interfaces.{key}: not possible with fd, whose tap is made by others (interface `{id}`)"
    )]
    WithFd {
        /// The key.
        key: &'static str,
        /// The interface.
        id: String,
    },
    /// A mount point that the guest could not use.
    #[error(
        "shares.mount_point: `{0}` is not an absolute path below / without spaces, quotes, backslashes, `,` or `:`"
    )]
    MountPoint(String),
    /// A gateway or name server without an address.
    #[error("interfaces.{key}: `{id}` has no address, and without one it cannot be told")]
    NoAddress {
        /// The key.
        key: &'static str,
        /// The interface.
        id: String,
    },
    /// More than one way out.
    #[error(
        "interfaces.gateway: `{0}` is not the first with one, and a guest has one default gateway"
    )]
    SecondGateway(String),
    /// The command line has characters that cannot be passed on.
    #[error("kernel.cmdline: control characters are not possible in a kernel command line")]
    Cmdline,
    /// A UUID that means "none".
    #[error(
        "uuid: all zeros and all ones mean that there is none: leave it out, or give another (uuidgen makes one)"
    )]
    Uuid,
    /// Strings that the SMBIOS tables cannot carry.
    #[error("smbios.oem_strings: {0}")]
    OemStrings(minivmm_boot::smbios::Error),
    /// A file that the collector would pass over.
    #[error(
        "metrics.textfile: `{0}` does not end in .prom, and node_exporter reads no other files: call it so"
    )]
    Textfile(String),
    /// A name that systemd does not take for a credential.
    #[error(
        "credentials.name: `{0}` is not 1 to {max} printable ASCII characters without `/`, `:` and `=`",
        max = Limits::CREDENTIAL_NAME
    )]
    CredentialName(String),
    /// A balloon that would take more than there is.
    #[error("balloon.size: {size} MiB are more than the {mem} MiB of mem")]
    BalloonSize {
        /// What is to be taken, MiB.
        size: u32,
        /// What there is, MiB.
        mem: u32,
    },
    /// Something for a balloon that is not there.
    #[error("balloon.size: there is no balloon with `enabled = false`")]
    NoBalloon,
    /// A PCI slot that is taken or out of range.
    #[error(transparent)]
    Slot(#[from] slots::Error),
}

impl VmConfig {
    /// Checks every limit of [`Limits`] and what must be unique.
    pub fn validate(&self) -> Result<(), Error> {
        let named = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        if self.name.is_empty()
            || self.name.len() > Limits::NAME
            || !self.name.chars().all(named)
            || !self.name.starts_with(|c: char| c.is_ascii_alphanumeric())
        {
            return Err(Error::Name(self.name.clone()));
        }
        range("vcpu", self.vcpu.into(), 1, Limits::VCPU.into())?;
        range(
            "mem",
            self.mem.into(),
            Limits::MEM_MIN.into(),
            Limits::MEM_MAX.into(),
        )?;
        if self.kernel.cmdline.chars().any(char::is_control) {
            return Err(Error::Cmdline);
        }
        if let Some(socket) = &self.control.socket {
            socket_path("control.socket's bytes", socket)?;
        }
        if let Some(watchdog) = self.lifecycle.watchdog {
            let (min, max) = (Limits::WATCHDOG_MIN, Limits::WATCHDOG_MAX);
            range("lifecycle.watchdog's seconds", watchdog.as_secs(), min, max)?;
        }
        self.validate_balloon()?;
        self.validate_metrics()?;
        self.validate_smbios()?;
        self.validate_credentials()?;
        self.validate_interfaces()?;
        self.validate_shares()?;
        self.validate_volumes()?;
        self.validate_vsock()?;
        Slots::assign(self)?;
        Ok(())
    }

    fn validate_interfaces(&self) -> Result<(), Error> {
        count("interfaces", self.interfaces.len(), Limits::INTERFACES)?;
        unique(
            "interfaces.id",
            self.interfaces.iter().map(|i| i.id.clone()),
        )?;
        unique(
            "interfaces.mac",
            self.interfaces.iter().map(|i| i.mac.to_string()),
        )?;
        let fds = self.interfaces.iter().filter_map(|i| i.fd.as_ref());
        unique(
            "interfaces.fd",
            fds.flat_map(|fd| fd.numbers()).map(i32::to_string),
        )?;
        let with_gateway = self.interfaces.iter().filter(|i| i.gateway.is_some());
        if let Some(second) = with_gateway.into_iter().nth(1) {
            return Err(Error::SecondGateway(second.id.clone()));
        }
        for interface in &self.interfaces {
            let id = &interface.id;
            for (key, name) in [("id", Some(id)), ("bridge", interface.bridge.as_ref())] {
                if let Some(name) = name
                    && !is_interface_name(name)
                {
                    let name = name.clone();
                    return Err(Error::InterfaceName { key, name });
                }
            }
            self.validate_tap(interface)?;
            count("interfaces.dns", interface.dns.len(), Limits::DNS)?;
            match interface.address {
                None if interface.gateway.is_some() => {
                    return Err(Error::NoAddress {
                        key: "gateway",
                        id: id.clone(),
                    });
                }
                None if !interface.dns.is_empty() => {
                    return Err(Error::NoAddress {
                        key: "dns",
                        id: id.clone(),
                    });
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn validate_tap(&self, interface: &Interface) -> Result<(), Error> {
        let id = || interface.id.clone();
        let queues = interface.pairs();
        if let Some(mtu) = interface.mtu {
            let (min, max) = (Limits::MTU_MIN.into(), Limits::MTU_MAX.into());
            range("interfaces.mtu", mtu.into(), min, max)?;
        }
        range("interfaces.queues", queues as u64, 1, Limits::QUEUES as u64)?;
        let vcpu = self.vcpu;
        if queues > vcpu.into() {
            let id = id();
            return Err(Error::Queues { queues, vcpu, id });
        }
        let Some(fd) = &interface.fd else {
            return match interface.kind {
                InterfaceType::Tap => Ok(()),
                InterfaceType::Macvtap => Err(Error::NoFd(id())),
            };
        };
        for (key, given) in [
            ("create", interface.create.is_some()),
            ("bridge", interface.bridge.is_some()),
        ] {
            if given {
                return Err(Error::WithFd { key, id: id() });
            }
        }
        let min = Limits::FD_MIN;
        if let Some(&fd) = fd.numbers().iter().find(|fd| **fd < min) {
            let id = id();
            return Err(Error::Descriptor { fd, min, id });
        }
        let fds = fd.numbers().len();
        if fds != queues {
            let id = id();
            return Err(Error::QueuesOfFd { queues, fds, id });
        }
        Ok(())
    }

    fn validate_shares(&self) -> Result<(), Error> {
        count("shares", self.shares.len(), Limits::SHARES)?;
        unique("shares.tag", self.shares.iter().map(|s| s.tag.to_string()))?;
        let points = self.shares.iter().filter_map(|s| s.mount_point.as_deref());
        unique(
            "shares.mount_point",
            points.map(|p| p.display().to_string()),
        )?;
        for share in &self.shares {
            share.validate_server()?;
            if share.tag.as_str().contains(is_odd) {
                return Err(Error::Tag(share.tag.to_string()));
            }
            if share.proto == ShareProto::NineP {
                return Err(Error::NineP {
                    tag: share.tag.to_string(),
                });
            }
            if let Some(point) = &share.mount_point
                && !is_mount_point(point)
            {
                return Err(Error::MountPoint(point.display().to_string()));
            }
        }
        Ok(())
    }
}

impl Share {
    /// Who serves it, and with which options.
    fn validate_server(&self) -> Result<(), Error> {
        let wrong = |key, why| {
            Err(Error::Share {
                tag: self.tag.to_string(),
                key,
                why,
            })
        };
        match (&self.source, &self.socket) {
            (Some(_), None) => {}
            (None, Some(socket)) => {
                socket_path("shares.socket's bytes", socket)?;
                // What somebody else's virtiofsd does was said to it when it was started.
                if let Some(key) = self.options_of_source().first() {
                    return wrong(
                        key,
                        "has no effect with `socket`: give it to the virtiofsd that listens there",
                    );
                }
            }
            (Some(_), Some(_)) => {
                return wrong("socket", "cannot be said beside `source`: say one of them");
            }
            (None, None) => {
                return wrong("source", "is missing: name the directory, or say `socket`");
            }
        }
        match (self.ids, self.ids_base) {
            (Some(Ids::Shifted), None) => {
                return wrong(
                    "ids_base",
                    "is missing: say the first of the 65536 host ids that are only this VM's, as 1000000000",
                );
            }
            (Some(Ids::Shifted), Some(base)) => range(
                "shares.ids_base",
                base.into(),
                Limits::IDS_BASE_MIN.into(),
                Limits::IDS_BASE_MAX.into(),
            )?,
            (_, Some(_)) => return wrong("ids_base", "belongs to `ids = \"shifted\"`"),
            (_, None) => {}
        }
        range(
            "shares.threads",
            self.threads.unwrap_or(0).into(),
            0,
            Limits::THREADS.into(),
        )?;
        let uncached = matches!(self.cache, Some(Cache::Never | Cache::Metadata));
        if self.mmap == Some(true) && !uncached {
            return wrong(
                "mmap",
                "is for `cache = \"never\"` or \"metadata\": with others, files can be mapped anyway",
            );
        }
        if self.writeback == Some(true) && self.cache == Some(Cache::Never) {
            return wrong("writeback", "has no effect with `cache = \"never\"`");
        }
        Ok(())
    }
}

/// Whether a character cannot stand in what a mount is told by: words of the kernel command line, parted by colons; systemd
/// takes both quotes out of it, and a backslash for the start of an escape.
fn is_odd(c: char) -> bool {
    c.is_whitespace() || c.is_control() || ",:\"'\\".contains(c)
}

/// Whether the guest can be told to mount something there.
pub(super) fn is_mount_point(point: &Path) -> bool {
    point.is_absolute()
        && point != Path::new("/")
        && point.to_str().is_some_and(|p| !p.contains(is_odd))
}

fn socket_path(key: &'static str, path: &Path) -> Result<(), Error> {
    let len = path.as_os_str().len() as u64;
    range(key, len, 1, Limits::SOCKET_PATH as u64)
}

pub(super) fn range(key: &'static str, value: u64, min: u64, max: u64) -> Result<(), Error> {
    if (min..=max).contains(&value) {
        Ok(())
    } else {
        Err(Error::Range {
            key,
            value,
            min,
            max,
        })
    }
}

pub(super) fn count(key: &'static str, count: usize, max: usize) -> Result<(), Error> {
    if count <= max {
        Ok(())
    } else {
        Err(Error::TooMany { key, count, max })
    }
}

pub(super) fn unique(key: &'static str, values: impl Iterator<Item = String>) -> Result<(), Error> {
    let mut seen = std::collections::BTreeSet::new();
    for value in values {
        if !seen.insert(value.clone()) {
            return Err(Error::Twice { key, value });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
