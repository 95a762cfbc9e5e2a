//! Why a VM cannot be made or started.

use std::io;

use crate::{config, host, kvm, memory};

/// Whose matter an error is; the launcher makes its exit code of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Blame {
    /// The configuration, or something that it names.
    Config,
    /// The host.
    Host,
    /// The VMM.
    Vmm,
}

/// Why a VM cannot be made or started; each is one line for a person.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A limit of the configuration is passed.
    #[error(transparent)]
    Config(#[from] config::Error),
    /// More than this host has.
    #[error(transparent)]
    Host(#[from] host::Error),
    /// Not as many taps, connections, images and values as the configuration has interfaces, shares, volumes and
    /// credentials, or no socket device's.
    #[error(
        "each interface needs a tap with a queue for each pair, each share a connection, each volume an image, each credential its value, and a socket device what it works on"
    )]
    Resources,
    /// The kernel, the initrd, the command line or the tables.
    #[error("{}{_0}", boot_key(_0).map(|key| format!("{key}: ")).unwrap_or_default())]
    Boot(#[from] minivmm_boot::Error),
    /// Guest memory.
    #[error(transparent)]
    Memory(#[from] memory::Error),
    /// KVM.
    #[error(transparent)]
    Kvm(#[from] kvm::Error),
    /// Interrupt routes.
    #[error("KVM cannot route interrupts: {0}")]
    Interrupts(io::Error),
    /// An eventfd.
    #[error("cannot make an eventfd: {0}")]
    EventFd(io::Error),
    /// A device could not be made or put on its bus.
    #[error("device `{name}`: {source}")]
    Device {
        /// Its name in the configuration.
        name: String,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Nothing that reads and writes a volume.
    #[error(
        "volumes.engine: `{image}`: {source} (`engine = \"auto\"` takes threads where io_uring is not permitted)"
    )]
    Engine {
        /// The image.
        image: String,
        /// Why.
        source: io::Error,
    },
    /// A share's virtiofsd does not answer as one.
    #[error(transparent)]
    Share(#[from] minivmm_fs::device::ConnectError),
    /// An address or port is taken twice: a mistake of the address map.
    #[error(transparent)]
    Bus(#[from] minivmm_devices::bus::Error),
    /// A thread could not be started.
    #[error("cannot start the thread `{name}`: {source}")]
    Thread {
        /// Its name.
        name: String,
        /// Why.
        source: io::Error,
    },
}

/// The key that an error of the boot crate, which knows no configuration, is about.
pub fn boot_key(error: &minivmm_boot::Error) -> Option<&'static str> {
    match error {
        minivmm_boot::Error::Kernel(_) => Some("kernel.path"),
        minivmm_boot::Error::Initrd(_) => Some("kernel.initrd"),
        minivmm_boot::Error::Cmdline(_) => Some("kernel.cmdline"),
        _ => None,
    }
}

impl Error {
    pub(crate) fn device<E>(name: &str) -> impl Fn(E) -> Self
    where
        E: std::error::Error + Send + Sync + 'static,
    {
        move |source| Self::Device {
            name: name.to_owned(),
            source: Box::new(source),
        }
    }

    /// Whose matter it is.
    pub fn blame(&self) -> Blame {
        match self {
            Self::Config(_) | Self::Host(_) | Self::Boot(_) => Blame::Config,
            Self::Memory(_)
            | Self::Kvm(_)
            | Self::EventFd(_)
            | Self::Engine { .. }
            | Self::Thread { .. }
            | Self::Share(_) => Blame::Host,
            Self::Resources | Self::Interrupts(_) | Self::Device { .. } | Self::Bus(_) => {
                Blame::Vmm
            }
        }
    }
}
