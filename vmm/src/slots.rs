//! Fixed PCI slots: where a device sits follows from its kind and its order, never from what else there
//! is, because the guest names its network interfaces by them.

use crate::config::VmConfig;

/// The entropy device.
pub const RNG: u8 = 1;
/// The console.
pub const CONSOLE: u8 = 2;
/// The balloon.
pub const BALLOON: u8 = 3;
/// The socket device.
pub const VSOCK: u8 = 4;
/// First slot of the network interfaces, 6 to 13.
pub const INTERFACES: u8 = 6;
/// First slot of the shares, 14 to 21.
pub const SHARES: u8 = 14;
/// First slot of the volumes, 22 to 31.
pub const VOLUMES: u8 = 22;
/// Last slot of the bus.
pub const LAST: u8 = 31;

/// Why a device has no slot.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum Error {
    /// Not a slot that a device can have.
    #[error("{key}: {device}: slot {slot} is not from 1 to {LAST} (0 is the host bridge)")]
    OutOfRange {
        /// The key that gives such devices a slot.
        key: &'static str,
        /// The device.
        device: String,
        /// What its `slot` says.
        slot: u8,
    },
    /// Two devices want one slot.
    #[error("{key}: {device}: slot {slot} is taken by {other}")]
    Taken {
        /// The key that gives such devices a slot.
        key: &'static str,
        /// The device.
        device: String,
        /// The slot.
        slot: u8,
        /// Who has it.
        other: String,
    },
}

/// The slot of every device of a configuration.
#[derive(Debug)]
pub struct Slots {
    /// Of the interfaces, in file order.
    pub interfaces: Vec<u8>,
    /// Of the shares, in file order.
    pub shares: Vec<u8>,
    /// Of the volumes, in file order.
    pub volumes: Vec<u8>,
}

impl Slots {
    /// The slots of a configuration: by kind and order, or as a device's `slot` says.
    pub fn assign(config: &VmConfig) -> Result<Self, Error> {
        let mut taken = vec![(RNG, "the entropy device".to_owned())];
        if config.console.device.has_virtio() {
            taken.push((CONSOLE, "the console".to_owned()));
        }
        if config.balloon.enabled {
            taken.push((BALLOON, "the balloon".to_owned()));
        }
        if config.needs_vsock() {
            taken.push((VSOCK, "the socket device".to_owned()));
        }
        let mut take = |key, device: String, wanted: Option<u8>, first: u8, n: usize| {
            let slot = wanted.unwrap_or(first.saturating_add(n as u8));
            if slot == 0 || slot > LAST {
                return Err(Error::OutOfRange { key, device, slot });
            }
            if let Some((_, other)) = taken.iter().find(|(s, _)| *s == slot) {
                let other = other.clone();
                return Err(Error::Taken {
                    key,
                    device,
                    slot,
                    other,
                });
            }
            taken.push((slot, device));
            Ok(slot)
        };
        let interfaces = config.interfaces.iter().enumerate();
        let shares = config.shares.iter().enumerate();
        let volumes = config.volumes.iter().enumerate();
        Ok(Self {
            interfaces: interfaces
                .map(|(n, i)| {
                    let device = format!("interface `{}`", i.id);
                    take("interfaces.slot", device, i.slot, INTERFACES, n)
                })
                .collect::<Result<_, _>>()?,
            shares: shares
                .map(|(n, s)| {
                    take(
                        "shares.slot",
                        format!("share `{}`", s.tag),
                        s.slot,
                        SHARES,
                        n,
                    )
                })
                .collect::<Result<_, _>>()?,
            volumes: volumes
                .map(|(n, v)| {
                    let device = format!("volume `{}`", v.image.display());
                    take("volumes.slot", device, v.slot, VOLUMES, n)
                })
                .collect::<Result<_, _>>()?,
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn slots(first: &str, second: &str) -> Result<Slots, String> {
        let text = format!(
            "name = \"a\"\n[kernel]\npath = \"k\"\n\
             [[interfaces]]\ntype = \"tap\"\nid = \"t0\"\nmac = \"02:00:00:00:00:01\"\n{first}\n\
             [[shares]]\ntag = \"s0\"\nsource = \"/\"\n{second}\n[[shares]]\ntag = \"s1\"\nsource = \"/\"\n"
        );
        Slots::assign(&VmConfig::from_toml(&text).unwrap()).map_err(|e| e.to_string())
    }

    #[test]
    fn a_slot_follows_from_kind_and_order_or_from_the_file() {
        let all = slots("", "").unwrap();
        assert_eq!((all.interfaces, all.shares), (vec![6], vec![14, 15]));
        let all = slots("slot = 9", "slot = 31").unwrap();
        assert_eq!((all.interfaces, all.shares), (vec![9], vec![31, 15]));
    }

    #[test]
    fn a_slot_that_is_taken_or_does_not_exist_is_an_error() {
        let taken = "shares.slot: share `s0`: slot 6 is taken by interface `t0`";
        assert_eq!(slots("", "slot = 6").unwrap_err(), taken);
        let rng = "interfaces.slot: interface `t0`: slot 1 is taken by the entropy device";
        assert_eq!(slots("slot = 1", "").unwrap_err(), rng);
        let console = "interfaces.slot: interface `t0`: slot 2 is taken by the console";
        assert_eq!(slots("slot = 2", "").unwrap_err(), console);
        let without = "slot = 2\n[console]\ndevice = \"serial\"";
        assert_eq!(slots(without, "").unwrap().interfaces, [2]);
        let balloon = "interfaces.slot: interface `t0`: slot 3 is taken by the balloon";
        assert_eq!(slots("slot = 3", "").unwrap_err(), balloon);
        let without = "[balloon]\nenabled = false";
        assert_eq!(slots("slot = 3", without).unwrap().interfaces, [3]);
        // A slot of a device that is not there is free.
        assert_eq!(slots("slot = 4", "").unwrap().interfaces, [4]);
        let vsock = "interfaces.slot: interface `t0`: slot 4 is taken by the socket device";
        assert_eq!(slots("slot = 4", "[vsock]").unwrap_err(), vsock);
        assert!(
            slots("slot = 0", "")
                .unwrap_err()
                .contains("not from 1 to 31")
        );
        assert!(
            slots("slot = 32", "")
                .unwrap_err()
                .contains("not from 1 to 31")
        );
    }
}
