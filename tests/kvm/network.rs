//! Two network namespaces of a test's own: the host's, with a bridge and the VM's tap, and a client's.

use anyhow::{Result, ensure};

use crate::vm;

/// The guest's address.
pub const GUEST: &str = "192.168.83.2";

/// The namespaces; removed when this is dropped, and everything in them with them.
pub struct Network {
    /// Name of the host's namespace.
    pub host: String,
    /// Name of the client's namespace.
    pub client: String,
}

impl Network {
    /// A bridge with a tap `vm0` in the host's namespace and a veth from there to the client.
    pub fn new(name: &str) -> Result<Self> {
        Self::with_tap_of(name, 0)
    }

    /// The same with a tap that belongs to a user.
    pub fn with_tap_of(name: &str, user: u32) -> Result<Self> {
        let user = user.to_string();
        let id = std::process::id();
        let network = Self {
            host: format!("mv-{name}-h{id}"),
            client: format!("mv-{name}-c{id}"),
        };
        let (host, client) = (network.host.as_str(), network.client.as_str());
        vm::run(["ip", "netns", "add", host])?;
        vm::run(["ip", "netns", "add", client])?;
        vm::run(["ip", "-n", host, "link", "add", "br0", "type", "bridge"])?;
        vm::run([
            "ip",
            "-n",
            host,
            "addr",
            "add",
            "192.168.83.1/24",
            "dev",
            "br0",
        ])?;
        vm::run([
            "ip", "-n", host, "tuntap", "add", "dev", "vm0", "mode", "tap", "user", &user,
        ])?;
        vm::run([
            "ip", "-n", host, "link", "add", "veth0", "type", "veth", "peer", "name", "veth1",
            "netns", client,
        ])?;
        for port in ["vm0", "veth0"] {
            vm::run(["ip", "-n", host, "link", "set", port, "master", "br0", "up"])?;
        }
        vm::run(["ip", "-n", host, "link", "set", "br0", "up"])?;
        vm::run([
            "ip",
            "-n",
            client,
            "addr",
            "add",
            "192.168.83.3/24",
            "dev",
            "veth1",
        ])?;
        vm::run(["ip", "-n", client, "link", "set", "veth1", "up"])?;
        Ok(network)
    }

    /// Sets the MTU of everything between the VM's tap and the client.
    pub fn set_mtu(&self, mtu: u16) -> Result<()> {
        let mtu = mtu.to_string();
        for (namespace, links) in [
            (&self.host, &["br0", "veth0", "vm0"][..]),
            (&self.client, &["veth1"]),
        ] {
            for link in links {
                vm::run(["ip", "-n", namespace, "link", "set", link, "mtu", &mtu])?;
            }
        }
        Ok(())
    }

    /// Fails if the host has an interface of that name.
    pub fn has_no_link(&self, name: &str) -> Result<()> {
        let links = vm::run(["ip", "-o", "-n", &self.host, "link", "show"])?;
        ensure!(
            !links.contains(&format!(" {name}: ")),
            "left behind: {links}"
        );
        Ok(())
    }

    /// The interface's part of a configuration.
    pub fn toml() -> String {
        format!(
            "[[interfaces]]\ntype = \"tap\"\nid = \"vm0\"\nmac = \"02:00:00:00:00:01\"\naddress = \"{GUEST}/24\"\n"
        )
    }

    /// Asks the guest's name server from the client's namespace, over UDP or TCP; the answers, one a line.
    pub fn dig(&self, name: &str, tcp: bool) -> Result<String> {
        let server = format!("@{GUEST}");
        let transport = if tcp { "+tcp" } else { "+notcp" };
        let answer = vm::run([
            "ip",
            "netns",
            "exec",
            &self.client,
            "dig",
            "+short",
            "+time=10",
            "+tries=3",
            transport,
            &server,
            name,
            "A",
        ])?;
        Ok(answer.trim().to_owned())
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        for namespace in [&self.host, &self.client] {
            if let Err(error) = vm::run(["ip", "netns", "del", namespace]) {
                eprintln!("{error:#}");
            }
        }
    }
}

/// A network namespace with taps that lead nowhere; removed when this is dropped.
pub struct Taps {
    /// Its name.
    pub namespace: String,
}

impl Taps {
    /// A tap of each name.
    pub fn new<const N: usize>(test: &str, names: [&str; N]) -> Result<Self> {
        let taps = Self {
            namespace: format!("mv-{test}-{}", std::process::id()),
        };
        let namespace = taps.namespace.as_str();
        vm::run(["ip", "netns", "add", namespace])?;
        for name in names {
            vm::run([
                "ip", "-n", namespace, "tuntap", "add", "dev", name, "mode", "tap",
            ])?;
        }
        Ok(taps)
    }
}

impl Drop for Taps {
    fn drop(&mut self) {
        if let Err(error) = vm::run(["ip", "netns", "del", &self.namespace]) {
            eprintln!("{error:#}");
        }
    }
}
