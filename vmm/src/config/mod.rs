//! The configuration of one VM: the one schema for the TOML file, the library and the Nix module.
//!
//! [`VmConfig`] is plain data. [`VmConfig::from_toml`] reads a file's text and points at the line of a
//! mistake; [`VmConfig::validate`] checks what types cannot say, and is called by everything that takes a
//! configuration, so a value built in code is held to the same limits. [`line_about`] finds the line of what
//! is said of a key later.

mod balloon;
mod console;
mod credential;
mod document;
mod duration;
mod lifecycle;
mod limits;
mod metrics;
mod schema;
mod share;
mod smbios;
mod toml_text;
mod validate;
mod volume;
mod vsock;

use std::path::PathBuf;

use minivmm_net::MacAddr;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

pub use balloon::Balloon;
pub use console::{Console, ConsoleDevice};
pub use credential::Credential;
pub use lifecycle::{AfterEnd, ExitStatus, Lifecycle, Ready};
pub use limits::Limits;
pub use metrics::Metrics;
pub use share::{Cache, Ids, OnFailure, Share, ShareProto};
pub use smbios::{Smbios, default_uuid};
pub use toml_text::{TomlError, line_about};
pub use validate::Error;
pub use volume::{Engine, OnEnospc, Volume};
pub use vsock::{Vsock, VsockPort};

use crate::slots;

/// One virtual machine.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct VmConfig {
    /// Name of the VM, in logs and paths: letters, digits, `-`, `_` and `.`.
    #[schemars(schema_with = "schema::name")]
    pub name: String,
    /// Number of vCPUs.
    #[serde(default = "default_vcpu")]
    #[schemars(range(min = 1, max = Limits::VCPU))]
    pub vcpu: u8,
    /// Memory.
    #[serde(default = "default_mem")]
    #[schemars(range(min = Limits::MEM_MIN, max = Limits::MEM_MAX), extend("x-unit" = "MiB"))]
    pub mem: u32,
    /// UUID of the VM, in the guest's SMBIOS tables (`/sys/class/dmi/id/product_uuid`). Without one it is made of the
    /// host's machine id, by a one-way hash, and the name; on a host without machine id, of the name alone.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        with = "smbios::uuid_text"
    )]
    #[schemars(schema_with = "schema::uuid")]
    pub uuid: Option<Uuid>,
    /// What is booted.
    pub kernel: Kernel,
    /// What the guest finds in its SMBIOS tables, besides the UUID, and the name as the machine's serial number.
    #[serde(default)]
    pub smbios: Smbios,
    /// Network interfaces, in the order of their PCI slots.
    #[serde(default)]
    #[schemars(length(max = Limits::INTERFACES))]
    pub interfaces: Vec<Interface>,
    /// Shared directories, in the order of their PCI slots.
    #[serde(default)]
    #[schemars(length(max = Limits::SHARES))]
    pub shares: Vec<Share>,
    /// Disks, in the order of their PCI slots, which is that of the guest's /dev/vda, /dev/vdb and so on.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = Limits::VOLUMES))]
    pub volumes: Vec<Volume>,
    /// Secrets for the guest's systemd; all SMBIOS structures together take 240 KiB at most, in which a secret takes four
    /// thirds of its size.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub credentials: Vec<Credential>,
    /// Streams between the guest and the host. Without this section there is no such device.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vsock: Option<Vsock>,
    /// Memory that goes back to the host.
    #[serde(default)]
    pub balloon: Balloon,
    /// The guest's console.
    #[serde(default)]
    pub console: Console,
    /// How the VM ends, and what follows.
    #[serde(default)]
    pub lifecycle: Lifecycle,
    /// Where its metrics are written.
    #[serde(default)]
    pub metrics: Metrics,
    /// How a VM that runs is reached.
    #[serde(default)]
    pub control: Control,
}

/// The kernel and what it is told.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Kernel {
    /// A Linux bzImage, or the vmlinux inside of one.
    pub path: PathBuf,
    /// The way into a vmlinux; a bzImage has `linux64` alone.
    #[serde(default)]
    pub entry: KernelEntry,
    /// An initial RAM disk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub initrd: Option<PathBuf>,
    /// Added to the kernel command line that minivmm makes.
    #[serde(default)]
    pub cmdline: String,
}

/// How a kernel is entered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum KernelEntry {
    /// In 64-bit mode.
    #[default]
    Linux64,
    /// By its PVH note, in 32-bit protected mode.
    Pvh,
}

impl From<KernelEntry> for minivmm_boot::Entry {
    fn from(entry: KernelEntry) -> Self {
        match entry {
            KernelEntry::Linux64 => Self::Linux64,
            KernelEntry::Pvh => Self::Pvh,
        }
    }
}

/// How an interface reaches the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum InterfaceType {
    /// A tap device of the host.
    Tap,
    /// A macvtap of the host, which is handed in by `fd`. The guest has the macvtap's MAC address.
    Macvtap,
}

/// A network interface.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Interface {
    /// How it reaches the host.
    #[serde(rename = "type")]
    pub kind: InterfaceType,
    /// Name of the tap on the host. With `fd` it only names the interface in the log.
    #[schemars(schema_with = "schema::interface_name")]
    pub id: String,
    /// The guest's MAC address.
    #[serde(with = "text")]
    #[schemars(schema_with = "schema::mac")]
    pub mac: MacAddr,
    /// The guest's address with its prefix length; told to the guest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::ipv4_cidr")]
    pub address: Option<Ipv4Cidr>,
    /// The guest's default gateway; told to the guest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway: Option<std::net::Ipv4Addr>,
    /// Name servers; told to the guest.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = Limits::DNS))]
    pub dns: Vec<std::net::Ipv4Addr>,
    /// Makes the tap if it does not exist, which takes CAP_NET_ADMIN: with `mtu`, up, and gone when the VM is. A tap
    /// that exists is used as it is. The default is `true` with a `bridge`, where a tap that was made is of use at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub create: Option<bool>,
    /// A bridge of the host that the tap is put into, if it is not in it; that takes CAP_NET_ADMIN.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::interface_name")]
    pub bridge: Option<String>,
    /// A tap that the program which starts minivmm hands in, instead of one by its name: a descriptor, or a list of one
    /// for each pair of queues. It was attached with IFF_TAP, IFF_NO_PI and IFF_VNET_HDR, and with IFF_MULTI_QUEUE if
    /// there are several. Of a macvtap, that many opens of its /dev/tapN.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fd: Option<Descriptors>,
    /// Pairs of a receive and a transmit queue, at most one for each vCPU, each served by a thread: 1, or as many as `fd`
    /// has descriptors. For more than one the tap must have been made with multi_queue.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = Limits::QUEUES))]
    pub queues: Option<u8>,
    /// The MTU that the guest is told, and that a tap gets which is made. Without it guests take 1500, and such a tap has
    /// its bridge's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = Limits::MTU_MIN, max = Limits::MTU_MAX))]
    pub mtu: Option<u16>,
    /// Leaves checksums and the cutting into segments to the other side, if that can do it: much faster.
    #[serde(default = "default_offload")]
    pub offload: bool,
    /// PCI slot instead of the one that follows from the order.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = slots::LAST))]
    pub slot: Option<u8>,
}

impl Interface {
    /// How many pairs of queues it has.
    pub fn pairs(&self) -> usize {
        let of_fd = self.fd.as_ref().map(|fd| fd.numbers().len());
        self.queues.map(usize::from).or(of_fd).unwrap_or(1)
    }

    /// Whether its tap is made if it does not exist.
    pub fn creates(&self) -> bool {
        self.create.unwrap_or(self.bridge.is_some())
    }
}

fn default_offload() -> bool {
    true
}

/// Open file descriptors that minivmm is started with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged, expecting = "a number of a descriptor or a list of them")]
pub enum Descriptors {
    /// A single one.
    One(#[schemars(range(min = Limits::FD_MIN))] i32),
    /// Several, of one tap.
    Many(#[schemars(length(min = 1, max = Limits::QUEUES))] Vec<i32>),
}

impl Descriptors {
    /// The numbers.
    pub fn numbers(&self) -> &[i32] {
        match self {
            Self::One(number) => std::slice::from_ref(number),
            Self::Many(numbers) => numbers,
        }
    }
}

/// An IPv4 address and the length of its network prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Ipv4Cidr {
    /// The address.
    pub address: std::net::Ipv4Addr,
    /// Prefix length, 0 to 32.
    pub prefix: u8,
}

impl Ipv4Cidr {
    /// The network mask, 255.255.255.0 for a prefix of 24.
    pub fn netmask(&self) -> std::net::Ipv4Addr {
        let host_bits = 32 - u32::from(self.prefix.min(32));
        u32::MAX.checked_shl(host_bits).unwrap_or(0).into()
    }
}

impl TryFrom<String> for Ipv4Cidr {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let wrong = || format!("`{text}` is not an address with a prefix, as 192.168.83.2/24");
        let (address, prefix) = text.split_once('/').ok_or_else(wrong)?;
        let address = address.parse().map_err(|_| wrong())?;
        let prefix = prefix.parse().ok().filter(|p| *p <= 32).ok_or_else(wrong)?;
        Ok(Self { address, prefix })
    }
}

impl From<Ipv4Cidr> for String {
    fn from(cidr: Ipv4Cidr) -> Self {
        format!("{}/{}", cidr.address, cidr.prefix)
    }
}

/// How a VM that runs is reached.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Control {
    /// The control socket, instead of `control` in the VM's runtime directory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::socket_path")]
    pub socket: Option<PathBuf>,
}

fn default_vcpu() -> u8 {
    1
}

fn default_mem() -> u32 {
    512
}

/// Values of the library crates, which know no serde, are text.
mod text {
    use std::{fmt::Display, str::FromStr};

    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub fn serialize<T: Display, S: Serializer>(
        value: &T,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.collect_str(value)
    }

    pub fn deserialize<'de, T: FromStr<Err: Display>, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<T, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_prefix_becomes_a_netmask() {
        for (text, mask) in [
            ("10.0.0.1/24", "255.255.255.0"),
            ("10.0.0.1/0", "0.0.0.0"),
            ("10.0.0.1/32", "255.255.255.255"),
            ("10.0.0.1/20", "255.255.240.0"),
        ] {
            let cidr = Ipv4Cidr::try_from(text.to_owned()).unwrap();
            assert_eq!(cidr.netmask().to_string(), mask);
            assert_eq!(String::from(cidr), text);
        }
        for text in [
            "10.0.0.1",
            "10.0.0.1/33",
            "10.0.0/24",
            "::1/64",
            "10.0.0.1/-1",
            "",
        ] {
            assert!(Ipv4Cidr::try_from(text.to_owned()).is_err(), "{text}");
        }
    }
}
