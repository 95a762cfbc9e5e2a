//! Streams between the guest and the host, as the configuration has them.

use std::{fmt, path::PathBuf};

use minivmm_vsock::{NOTIFY_PORT, Ports};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    Error, Limits, Ready, VmConfig, schema,
    validate::{count, range, unique},
};
use crate::slots;

/// Streams between the guest and the host (docs/vsock.md).
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Vsock {
    /// The guest's address, by which it knows itself: streams of different VMs never meet, so all may have the same.
    #[serde(default = "default_cid")]
    #[schemars(range(min = Limits::CID_MIN, max = Limits::CID_MAX))]
    pub cid: u32,
    /// Where programs of the host connect to the guest, instead of `vsock` in the VM's runtime directory; it is there only
    /// if `allow` has a port of the guest's. The guest's streams to port P of the host go to this path with `_P` behind.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::socket_path")]
    pub socket: Option<PathBuf>,
    /// What may be connected to: `guest:PORT` by programs of the host, `host:PORT` by the guest; `ssh` is `guest:22`.
    /// Without any, the guest's systemd can tell minivmm that it is ready, and that is all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::vsock_ports")]
    pub allow: Vec<VsockPort>,
    /// PCI slot instead of 4, or of a free one where another device has that by its `slot`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = slots::LAST))]
    pub slot: Option<u8>,
}

impl Default for Vsock {
    fn default() -> Self {
        Self {
            cid: default_cid(),
            socket: None,
            allow: Vec::new(),
            slot: None,
        }
    }
}

fn default_cid() -> u32 {
    Limits::CID_MIN
}

/// A port that may be connected to from the other side.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum VsockPort {
    /// One of the guest's.
    Guest(u32),
    /// One of the host's.
    Host(u32),
}

/// What systemd's sshd listens on in a guest.
const SSH: u32 = 22;

impl TryFrom<String> for VsockPort {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let port = |port: &str| {
            let digits = port.starts_with(|c: char| c.is_ascii_digit());
            let port = port.parse().ok().filter(|_| digits);
            port.filter(|port| (Limits::VSOCK_PORT_MIN..=Limits::VSOCK_PORT_MAX).contains(port))
        };
        let parsed = match text.split_once(':') {
            None if text == "ssh" => Some(Self::Guest(SSH)),
            Some(("guest", number)) => port(number).map(Self::Guest),
            Some(("host", number)) => port(number).map(Self::Host),
            _ => None,
        };
        parsed.ok_or_else(|| {
            format!(
                "`{text}` is not `ssh`, `guest:PORT` or `host:PORT` with a port from {} to {}",
                Limits::VSOCK_PORT_MIN,
                Limits::VSOCK_PORT_MAX
            )
        })
    }
}

impl From<VsockPort> for String {
    fn from(port: VsockPort) -> Self {
        port.to_string()
    }
}

impl fmt::Display for VsockPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Guest(SSH) => f.write_str("ssh"),
            Self::Guest(port) => write!(f, "guest:{port}"),
            Self::Host(port) => write!(f, "host:{port}"),
        }
    }
}

impl Vsock {
    /// Ports of the guest that programs of the host may connect to.
    pub fn to_guest(&self) -> Ports {
        let port = |allowed: &VsockPort| match allowed {
            VsockPort::Guest(port) => Some(*port),
            VsockPort::Host(_) => None,
        };
        self.allow.iter().filter_map(port).collect()
    }

    /// Ports of the host that the guest may connect to.
    pub fn to_host(&self) -> Ports {
        let port = |allowed: &VsockPort| match allowed {
            VsockPort::Host(port) => Some(*port),
            VsockPort::Guest(_) => None,
        };
        self.allow.iter().filter_map(port).collect()
    }

    fn validate(&self) -> Result<(), Error> {
        range(
            "vsock.cid",
            self.cid.into(),
            Limits::CID_MIN.into(),
            Limits::CID_MAX.into(),
        )?;
        count("vsock.allow", self.allow.len(), Limits::VSOCK_ALLOW)?;
        unique("vsock.allow", self.allow.iter().map(VsockPort::to_string))?;
        let to_host = self.to_host();
        if to_host.contains(NOTIFY_PORT) {
            return Err(Error::NotifyPort);
        }
        if let Some(socket) = &self.socket {
            let longest = to_host.iter().last();
            let suffix = longest.map_or(0, |port| format!("_{port}").len());
            let len = (socket.as_os_str().len() + suffix) as u64;
            let key = match suffix {
                0 => "vsock.socket's bytes",
                _ => "vsock.socket's bytes with the largest port of the host behind",
            };
            range(key, len, 1 + suffix as u64, Limits::SOCKET_PATH as u64)?;
        }
        Ok(())
    }
}

impl VmConfig {
    /// Whether the VM has a socket device: without a reason there is none.
    pub fn needs_vsock(&self) -> bool {
        self.vsock.is_some() || self.lifecycle.ready == Ready::Guest
    }

    /// What the VM's socket device is like, if it has one.
    pub fn vsock(&self) -> Option<Vsock> {
        self.needs_vsock()
            .then(|| self.vsock.clone().unwrap_or_default())
    }

    pub(super) fn validate_vsock(&self) -> Result<(), Error> {
        self.vsock.as_ref().map_or(Ok(()), Vsock::validate)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn config(section: &str) -> Result<VmConfig, String> {
        let text = format!("name = \"a\"\n[kernel]\npath = \"k\"\n{section}");
        let config = VmConfig::from_toml(&text).map_err(|e| e.to_string())?;
        config.validate().map_err(|e| e.to_string())?;
        Ok(config)
    }

    fn allowed(entries: &str) -> Result<Vsock, String> {
        let config = config(&format!("[vsock]\nallow = [{entries}]\n"))?;
        config.vsock().ok_or_else(|| "no device".to_owned())
    }

    #[test]
    fn there_is_no_device_without_a_section() {
        assert!(config("").unwrap().vsock().is_none());
        let ready = config("[lifecycle]\nready = \"guest\"\n").unwrap();
        assert!(ready.vsock().unwrap().allow.is_empty());
        let vsock = config("[vsock]\n").unwrap().vsock().unwrap();
        assert_eq!(vsock.cid, 3);
        assert!(vsock.to_guest().is_empty() && vsock.to_host().is_empty());
    }

    #[test]
    fn an_entry_is_a_port_of_one_side() {
        let vsock = allowed("\"ssh\", \"guest:8080\", \"host:9000\"").unwrap();
        let ports = |ports: Ports| ports.iter().collect::<Vec<_>>();
        assert_eq!(ports(vsock.to_guest()), [22, 8080]);
        assert_eq!(ports(vsock.to_host()), [9000]);
        let json = serde_json::to_string(&vsock).unwrap();
        assert!(
            json.contains("[\"ssh\",\"guest:8080\",\"host:9000\"]"),
            "{json}"
        );
        let again: Vsock = serde_json::from_str(&json).unwrap();
        assert_eq!(again.allow, vsock.allow);
    }

    #[test]
    fn what_is_no_entry_is_an_error() {
        for entry in [
            "",
            "22",
            "guest",
            "guest:",
            "guest:0",
            "guest:+1",
            "guest:4294967295",
            "host:x",
            "SSH",
            "all:1",
        ] {
            let said = allowed(&format!("\"{entry}\"")).unwrap_err();
            assert!(
                said.contains("is not `ssh`, `guest:PORT` or `host:PORT`"),
                "{said}"
            );
            assert!(said.starts_with("line 5: vsock.allow"), "{said}");
        }
        assert_eq!(
            allowed("\"ssh\", \"guest:22\"").unwrap_err(),
            "vsock.allow: `ssh` is used twice"
        );
        let said = allowed("\"host:8888\"").unwrap_err();
        assert!(said.starts_with("vsock.allow: host:8888 "), "{said}");
        let many = (1..=65)
            .map(|n| format!("\"guest:{n}\","))
            .collect::<String>();
        assert!(allowed(&many).unwrap_err().contains("at most 64"));
    }

    #[test]
    fn an_address_and_a_path_have_their_limits() {
        for cid in ["0", "2", "4294967295"] {
            let said = config(&format!("[vsock]\ncid = {cid}\n")).unwrap_err();
            assert!(said.starts_with("vsock.cid: "), "{said}");
        }
        let path = |len: usize, entry: &str| {
            let path = "x".repeat(len);
            config(&format!(
                "[vsock]\nsocket = \"{path}\"\nallow = [\"{entry}\"]\n"
            ))
        };
        assert!(path(107, "ssh").is_ok());
        assert!(path(108, "ssh").is_err());
        assert!(path(102, "host:9000").is_ok());
        assert!(path(103, "host:9000").is_err());
        assert!(path(0, "ssh").is_err());
    }
}
