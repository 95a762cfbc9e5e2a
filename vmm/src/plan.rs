//! The machine that a configuration makes, for people and programs to look at before anything is opened.
//!
//! Made from the same parts as the machine itself: [`layout`], [`Slots`](crate::slots::Slots), [`cmdline`].

use minivmm_boot::e820;
use serde::Serialize;

use crate::{
    cmdline,
    config::{self, Balloon, Interface, Share, VmConfig, Volume, Vsock},
    layout,
    slots::{self, Slots},
};

/// A machine.
#[derive(Debug, Serialize)]
pub struct Plan {
    /// The VM's name.
    pub name: String,
    /// Number of vCPUs.
    pub vcpu: u8,
    /// Memory in MiB.
    pub mem: u32,
    /// The memory map as the guest's firmware table has it, ascending.
    pub memory: Vec<MemoryRange>,
    /// What is on the PCI bus, by slot.
    pub devices: Vec<Device>,
    /// The whole kernel command line.
    pub cmdline: String,
}

/// A range of guest physical addresses.
#[derive(Debug, Serialize)]
pub struct MemoryRange {
    /// Its first byte.
    pub start: u64,
    /// Its last byte.
    pub end: u64,
    /// What it is, as Linux says it in its own table.
    pub kind: &'static str,
}

/// A PCI device.
#[derive(Debug, Serialize)]
pub struct Device {
    /// Its slot on bus 0.
    pub slot: u8,
    /// Where the guest sees it: bus, slot and function.
    pub address: String,
    /// What it is.
    #[serde(flatten)]
    pub kind: Kind,
}

/// The kind of a device, with its section of the configuration.
#[derive(Debug, Serialize)]
#[serde(tag = "kind", content = "config", rename_all = "kebab-case")]
pub enum Kind {
    /// The host bridge.
    HostBridge,
    /// The entropy device.
    Rng,
    /// The console.
    Console,
    /// The balloon.
    Balloon(Balloon),
    /// The socket device.
    Vsock(Vsock),
    /// A network interface.
    Net(Interface),
    /// A share.
    Fs(Share),
    /// A volume.
    Block(Disk),
}

/// A volume, and what the guest calls it.
#[derive(Debug, Serialize)]
pub struct Disk {
    /// Its name in the guest's /dev.
    pub disk: String,
    /// Its section of the configuration.
    #[serde(flatten)]
    pub volume: Volume,
}

impl Kind {
    /// As in `kind` of the serialised form.
    pub fn name(&self) -> &'static str {
        match self {
            Self::HostBridge => "host-bridge",
            Self::Rng => "rng",
            Self::Console => "console",
            Self::Balloon(_) => "balloon",
            Self::Vsock(_) => "vsock",
            Self::Net(_) => "net",
            Self::Fs(_) => "fs",
            Self::Block(_) => "block",
        }
    }
}

impl Plan {
    /// The machine of `config`.
    pub fn new(config: &VmConfig) -> Result<Self, config::Error> {
        config.validate()?;
        let slots = Slots::assign(config)?;
        let device = |slot: u8, kind| Device {
            slot,
            address: format!("00:{slot:02x}.0"),
            kind,
        };
        let mut devices = vec![device(0, Kind::HostBridge), device(slots::RNG, Kind::Rng)];
        devices.extend(slots.console.map(|slot| device(slot, Kind::Console)));
        let balloon = |slot| device(slot, Kind::Balloon(config.balloon.clone()));
        devices.extend(slots.balloon.map(balloon));
        let vsock = slots.vsock.zip(config.vsock());
        devices.extend(vsock.map(|(slot, v)| device(slot, Kind::Vsock(v))));
        let interfaces = slots.interfaces.iter().zip(&config.interfaces);
        devices.extend(interfaces.map(|(slot, i)| device(*slot, Kind::Net(i.clone()))));
        let shares = slots.shares.iter().zip(&config.shares);
        devices.extend(shares.map(|(slot, s)| device(*slot, Kind::Fs(s.clone()))));
        let volumes = slots.volumes.iter().zip(&config.volumes);
        devices.extend(volumes.zip(config.disks()).map(|((slot, volume), disk)| {
            let volume = volume.clone();
            device(*slot, Kind::Block(Disk { disk, volume }))
        }));
        devices.sort_by_key(|device| device.slot);
        let map = e820::map(&layout::platform(config));
        Ok(Self {
            name: config.name.clone(),
            vcpu: config.vcpu,
            mem: config.mem,
            memory: map.iter().map(MemoryRange::from).collect(),
            devices,
            cmdline: cmdline::build(config),
        })
    }
}

impl From<&e820::Entry> for MemoryRange {
    fn from(entry: &e820::Entry) -> Self {
        Self {
            start: entry.base,
            end: entry.base + entry.size.saturating_sub(1),
            kind: match entry.kind {
                e820::Kind::Ram => "usable",
                e820::Kind::Reserved => "reserved",
            },
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_plan_has_every_device_in_the_order_of_the_slots() {
        let config = VmConfig::from_toml(
            "name = \"a\"\nmem = 4096\n[kernel]\npath = \"k\"\ncmdline = \"quiet\"\n\
             [[interfaces]]\ntype = \"tap\"\nid = \"t0\"\nmac = \"02:00:00:00:00:01\"\nslot = 31\n\
             address = \"10.0.0.2/8\"\n\
             [[shares]]\ntag = \"s0\"\nsource = \"/\"\n",
        )
        .unwrap();
        let plan = Plan::new(&config).unwrap();
        let devices: Vec<_> = plan
            .devices
            .iter()
            .map(|d| (d.address.as_str(), d.kind.name()))
            .collect();
        assert_eq!(
            devices,
            [
                ("00:00.0", "host-bridge"),
                ("00:01.0", "rng"),
                ("00:02.0", "console"),
                ("00:03.0", "balloon"),
                ("00:0e.0", "fs"),
                ("00:1f.0", "net")
            ]
        );
        assert!(plan.cmdline.ends_with(" quiet"));
        let last = plan.memory.last().unwrap();
        assert_eq!((last.start, last.end), (4 << 30, (5 << 30) - 1));

        let json = serde_json::to_value(&plan).unwrap();
        for (device, kind) in plan.devices.iter().zip(json["devices"].as_array().unwrap()) {
            assert_eq!(kind["kind"], device.kind.name());
        }
        assert_eq!(json["devices"][5]["address"], "00:1f.0");
        let net = &json["devices"][5]["config"];
        assert_eq!(net["mac"], "02:00:00:00:00:01");
        assert_eq!(net["address"], "10.0.0.2/8");
    }
}
