//! Why a tap cannot be used.

use std::io;

use super::TUN;
use crate::name::NAME_MAX;

/// Why a tap cannot be used; each is one line that says what to do.
#[derive(Debug, thiserror::Error)]
pub enum TapError {
    /// The kernel would refuse such a name, or change it.
    #[error(
        "`{name}` cannot name an interface: a name has 1 to {NAME_MAX} bytes without spaces, `/`, `:` or `%`"
    )]
    Name {
        /// The name.
        name: String,
    },
    /// No such interface in this network namespace, and none is to be made.
    #[error(
        "tap `{name}` does not exist: make it with `{}`, or say create = true",
        command(name, *queues)
    )]
    Missing {
        /// Its name.
        name: String,
        /// How many queues it is to have.
        queues: usize,
    },
    /// It does not exist, and we have no right to make it.
    #[error(
        "tap `{name}` does not exist and may not be made without CAP_NET_ADMIN: make it with `{}`",
        command(name, *queues)
    )]
    MayNotMake {
        /// Its name.
        name: String,
        /// How many queues it is to have.
        queues: usize,
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
    /// A tap that was made for one queue.
    #[error(
        "tap `{name}` has one queue, and {queues} are wanted: make it anew with \
         `ip tuntap del dev {name} mode tap` and `{}`",
        command(name, *queues)
    )]
    OneQueue {
        /// Its name.
        name: String,
        /// How many queues are wanted.
        queues: usize,
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
         make it with `{} user USER`, or run as root", command(name, *queues)
    )]
    NotOwner {
        /// Its name.
        name: String,
        /// How many queues it is to have.
        queues: usize,
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
    /// No such bridge in this network namespace.
    #[error(
        "bridge `{bridge}` for tap `{name}` does not exist: make it with `ip link add {bridge} type bridge`"
    )]
    NoBridge {
        /// The tap.
        name: String,
        /// The bridge.
        bridge: String,
    },
    /// Something else than a bridge.
    #[error("`{bridge}`, which tap `{name}` is to be put into, is an interface but not a bridge")]
    NotABridge {
        /// The tap.
        name: String,
        /// What is no bridge.
        bridge: String,
    },
    /// The tap is a port of something else.
    #[error(
        "tap `{name}` is in another bridge than `{bridge}`: take it out with `ip link set {name} nomaster`"
    )]
    OtherBridge {
        /// The tap.
        name: String,
        /// Where it is to be.
        bridge: String,
    },
    /// We have no right to change the bridge.
    #[error(
        "tap `{name}` may not be put into bridge `{bridge}` without CAP_NET_ADMIN: \
         do it with `ip link set {name} master {bridge}`"
    )]
    MayNotBridge {
        /// The tap.
        name: String,
        /// The bridge.
        bridge: String,
    },
    /// A number that is no open descriptor.
    #[error("descriptor {fd} is not open: the program that starts minivmm must leave a tap there")]
    Closed {
        /// The descriptor.
        fd: i32,
    },
    /// A descriptor of something else.
    #[error("descriptor {fd} is no tap: {why}")]
    Descriptor {
        /// The descriptor.
        fd: i32,
        /// What it lacks.
        why: &'static str,
    },
    /// A descriptor of a queue that another one is of already.
    #[error(
        "descriptor {fd} is a copy of another one: open the tap once more for each of its queues"
    )]
    Copy {
        /// The descriptor.
        fd: i32,
    },
    /// Descriptors that do not belong together.
    #[error("descriptor {fd} is tap `{name}`, and the first one is tap `{first}`")]
    Mixed {
        /// The descriptor.
        fd: i32,
        /// Its tap.
        name: String,
        /// The tap of the first one.
        first: String,
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

    /// The key of an interface that it is about.
    pub fn key(&self) -> &'static str {
        match self {
            Self::NoBridge { .. }
            | Self::NotABridge { .. }
            | Self::OtherBridge { .. }
            | Self::MayNotBridge { .. } => "bridge",
            Self::Closed { .. }
            | Self::Descriptor { .. }
            | Self::Copy { .. }
            | Self::Mixed { .. } => "fd",
            Self::OneQueue { .. } => "queues",
            _ => "id",
        }
    }

    pub(super) fn kernel(name: &str, what: &'static str) -> impl Fn(io::Error) -> Self {
        move |source| Self::Kernel {
            name: name.to_owned(),
            what,
            source,
        }
    }
}

/// What makes such a tap.
fn command(name: &str, queues: usize) -> String {
    let multi_queue = if queues > 1 { " multi_queue" } else { "" };
    format!("ip tuntap add dev {name} mode tap{multi_queue}")
}
