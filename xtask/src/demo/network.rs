//! Two network namespaces, as a host with its VMs on a bridge and a machine elsewhere on the same network.

use std::fs;

use anyhow::{Context, Result};

use crate::command::{capture, capture_text, program};

/// The namespace of the bridge, the tap and minivmm.
pub const HOST_NAMESPACE: &str = "minivmm-demo-host";
/// The namespace from which questions are asked.
const CLIENT_NAMESPACE: &str = "minivmm-demo-client";
/// The VM's address, from examples/adguard.toml.
pub const GUEST: &str = "192.168.83.2";
/// The client's address.
pub const CLIENT: &str = "192.168.83.3";

/// How a question is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// In one datagram.
    Udp,
    /// Over a connection.
    Tcp,
}

/// Makes both. They are gone when this process's mount namespace is.
pub fn make() -> Result<()> {
    fs::create_dir_all("/run/netns").context("cannot make /run/netns")?;
    capture(program("mount").args(["-t", "tmpfs", "tmpfs", "/run/netns"]))?;
    let host = |command: &str| ip(&format!("-n {HOST_NAMESPACE} {command}"));
    let client = |command: &str| ip(&format!("-n {CLIENT_NAMESPACE} {command}"));

    ip(&format!("netns add {HOST_NAMESPACE}"))?;
    ip(&format!("netns add {CLIENT_NAMESPACE}"))?;
    host("link set lo up")?;
    host("link add br0 type bridge")?;
    host("address add 192.168.83.1/24 dev br0")?;
    host("link set br0 up")?;
    host("tuntap add dev vm-adguard mode tap")?;
    host("link set vm-adguard master br0 up")?;
    host(&format!(
        "link add lan type veth peer name eth0 netns {CLIENT_NAMESPACE}"
    ))?;
    host("link set lan master br0 up")?;
    client(&format!("address add {CLIENT}/24 dev eth0"))?;
    client("link set eth0 up")
}

fn ip(arguments: &str) -> Result<()> {
    capture(program("ip").args(arguments.split(' ')))
        .with_context(|| format!("ip {arguments}"))
        .map(drop)
}

/// Asks the VM for the addresses of `name`, from the client's namespace.
pub fn ask(name: &str, transport: Transport) -> Result<Vec<String>> {
    let transport = match transport {
        Transport::Udp => "+notcp",
        Transport::Tcp => "+tcp",
    };
    let answers = capture_text(
        program("ip")
            .args([
                "netns",
                "exec",
                CLIENT_NAMESPACE,
                "dig",
                &format!("@{GUEST}"),
            ])
            .args(["+short", "+time=2", "+tries=1", transport, name, "A"]),
    )?;
    Ok(answers.lines().map(str::to_owned).collect())
}
