//! Fixed PCI slots: where a device sits follows from its kind and its order, never from what else there
//! is, because the guest names its network interfaces by them. A `slot` in the file goes before that.

use crate::config::VmConfig;

/// The entropy device.
pub const RNG: u8 = 1;
/// The console.
pub const CONSOLE: u8 = 2;
/// The balloon.
pub const BALLOON: u8 = 3;
/// The socket device.
pub const VSOCK: u8 = 4;
/// Nobody's, until a console, balloon or socket device gives way.
pub const SPARE: u8 = 5;
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
    /// Of the console, if there is a virtio-console.
    pub console: Option<u8>,
    /// Of the balloon, if there is one.
    pub balloon: Option<u8>,
    /// Of the socket device, if there is one.
    pub vsock: Option<u8>,
    /// Of the interfaces, in file order.
    pub interfaces: Vec<u8>,
    /// Of the shares, in file order.
    pub shares: Vec<u8>,
    /// Of the volumes, in file order.
    pub volumes: Vec<u8>,
}

impl Slots {
    /// The slots of a configuration: by kind and order, or as a device's `slot` says.
    ///
    /// A console, balloon or socket device without a `slot` gives way to a device that has its usual one: no guest knows
    /// any of them by its slot.
    pub fn assign(config: &VmConfig) -> Result<Self, Error> {
        let mut taken = Taken(vec![(RNG, "the entropy device".to_owned())]);
        let singles = Single::all(config);
        for single in singles.iter().flatten() {
            if let Some(slot) = single.wanted {
                taken.take(single.key, single.device.to_owned(), slot)?;
            }
        }
        let by_order = |first: u8, n: usize| first.saturating_add(n as u8);
        let interfaces = config.interfaces.iter().enumerate();
        let shares = config.shares.iter().enumerate();
        let volumes = config.volumes.iter().enumerate();
        let interfaces = interfaces
            .map(|(n, i)| {
                let slot = i.slot.unwrap_or(by_order(INTERFACES, n));
                taken.take("interfaces.slot", format!("interface `{}`", i.id), slot)
            })
            .collect::<Result<_, _>>()?;
        let shares = shares
            .map(|(n, s)| {
                let slot = s.slot.unwrap_or(by_order(SHARES, n));
                taken.take("shares.slot", format!("share `{}`", s.tag), slot)
            })
            .collect::<Result<_, _>>()?;
        let volumes = volumes
            .map(|(n, v)| {
                let slot = v.slot.unwrap_or(by_order(VOLUMES, n));
                taken.take(
                    "volumes.slot",
                    format!("volume `{}`", v.image.display()),
                    slot,
                )
            })
            .collect::<Result<_, _>>()?;
        let [console, balloon, vsock] = singles.map(|single| {
            let single = single?;
            Some(single.wanted.map_or_else(|| taken.usual(&single), Ok))
        });
        Ok(Self {
            console: console.transpose()?,
            balloon: balloon.transpose()?,
            vsock: vsock.transpose()?,
            interfaces,
            shares,
            volumes,
        })
    }
}

/// A device of which there is at most one.
struct Single {
    key: &'static str,
    device: &'static str,
    wanted: Option<u8>,
    usual: u8,
}

impl Single {
    /// The console, the balloon and the socket device, as far as a configuration has them. What is not there takes no
    /// slot, whatever its section says.
    fn all(config: &VmConfig) -> [Option<Self>; 3] {
        let single = |there: bool, key, device, wanted, usual| {
            there.then_some(Self {
                key,
                device,
                wanted,
                usual,
            })
        };
        let console = &config.console;
        let balloon = &config.balloon;
        let vsock = config.vsock.as_ref().and_then(|vsock| vsock.slot);
        let is_virtio = console.device.has_virtio();
        [
            single(
                is_virtio,
                "console.slot",
                "the console",
                console.slot,
                CONSOLE,
            ),
            single(
                balloon.enabled,
                "balloon.slot",
                "the balloon",
                balloon.slot,
                BALLOON,
            ),
            single(
                config.needs_vsock(),
                "vsock.slot",
                "the socket device",
                vsock,
                VSOCK,
            ),
        ]
    }
}

/// The slots that are taken, and by whom.
struct Taken(Vec<(u8, String)>);

impl Taken {
    fn by(&self, slot: u8) -> Option<&String> {
        let found = self.0.iter().find(|(taken, _)| *taken == slot);
        found.map(|(_, device)| device)
    }

    fn take(&mut self, key: &'static str, device: String, slot: u8) -> Result<u8, Error> {
        if slot == 0 || slot > LAST {
            return Err(Error::OutOfRange { key, device, slot });
        }
        if let Some(other) = self.by(slot) {
            let other = other.clone();
            return Err(Error::Taken {
                key,
                device,
                slot,
                other,
            });
        }
        self.0.push((slot, device));
        Ok(slot)
    }

    /// The usual slot, else the one that nothing else has by its order, else the last free one: as far away as can be from
    /// those that interfaces and shares come to when there are more of them.
    fn usual(&mut self, single: &Single) -> Result<u8, Error> {
        let mut slots = [single.usual, SPARE].into_iter().chain((1..=LAST).rev());
        // There are more slots than devices within the limits.
        let slot = slots.find(|slot| self.by(*slot).is_none());
        self.take(
            single.key,
            single.device.to_owned(),
            slot.unwrap_or(single.usual),
        )
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::config::Limits;

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

    /// Of the console, the balloon and the socket device.
    fn singles(first: &str, sections: &str) -> Result<[Option<u8>; 3], String> {
        let slots = slots(first, sections)?;
        Ok([slots.console, slots.balloon, slots.vsock])
    }

    #[test]
    fn the_console_the_balloon_and_the_socket_device_have_usual_slots() {
        assert_eq!(singles("", "").unwrap(), [Some(2), Some(3), None]);
        assert_eq!(singles("", "[vsock]").unwrap(), [Some(2), Some(3), Some(4)]);
        let without = "[console]\ndevice = \"serial\"\n[balloon]\nenabled = false";
        assert_eq!(singles("", without).unwrap(), [None; 3]);
        let said = "[console]\nslot = 30\n[balloon]\nslot = 4\n[vsock]\nslot = 2";
        assert_eq!(singles("", said).unwrap(), [Some(30), Some(4), Some(2)]);
    }

    #[test]
    fn without_a_slot_of_their_own_they_give_way() {
        assert_eq!(
            singles("slot = 2", "[vsock]").unwrap(),
            [Some(5), Some(3), Some(4)]
        );
        assert_eq!(slots("slot = 2", "").unwrap().interfaces, [2]);
        assert_eq!(
            singles("slot = 5", "slot = 3").unwrap(),
            [Some(2), Some(31), None]
        );
        // To one another, too; the next one that gives way goes behind all others.
        let said = "slot = 3\n[vsock]\nslot = 2";
        assert_eq!(
            singles("slot = 31", said).unwrap(),
            [Some(5), Some(30), Some(2)]
        );
        // What is not there takes no slot.
        let without =
            "[console]\ndevice = \"serial\"\nslot = 6\n[balloon]\nenabled = false\nslot = 6";
        assert_eq!(singles("", without).unwrap(), [None; 3]);
    }

    #[test]
    fn two_that_say_the_same_slot_are_named_both() {
        for (first, sections, said) in [
            (
                "slot = 2",
                "[console]\nslot = 2",
                "interfaces.slot: interface `t0`: slot 2 is taken by the console",
            ),
            (
                "",
                "[balloon]\nslot = 6",
                "interfaces.slot: interface `t0`: slot 6 is taken by the balloon",
            ),
            (
                "",
                "[console]\nslot = 9\n[vsock]\nslot = 9",
                "vsock.slot: the socket device: slot 9 is taken by the console",
            ),
            (
                "",
                "[balloon]\nslot = 1",
                "balloon.slot: the balloon: slot 1 is taken by the entropy device",
            ),
        ] {
            assert_eq!(slots(first, sections).unwrap_err(), said);
        }
        for sections in ["[console]\nslot = 0", "[vsock]\nslot = 32"] {
            let error = slots("", sections).unwrap_err();
            assert!(error.contains("not from 1 to 31"), "{error}");
        }
    }

    #[test]
    fn with_as_many_devices_as_there_may_be_each_has_a_slot() {
        let many = |n: usize, text: &dyn Fn(usize) -> String| (0..n).map(text).collect::<String>();
        let text = format!(
            "name = \"a\"\n[kernel]\npath = \"k\"\n[vsock]\n{}{}{}",
            many(Limits::INTERFACES, &|n| format!(
                "[[interfaces]]\ntype = \"tap\"\nid = \"t{n}\"\nmac = \"02:00:00:00:00:0{n}\"\nslot = {}\n",
                n + 2
            )),
            many(Limits::SHARES, &|n| format!(
                "[[shares]]\ntag = \"s{n}\"\nsource = \"/\"\n"
            )),
            many(Limits::VOLUMES, &|n| format!(
                "[[volumes]]\nimage = \"v{n}\"\n"
            )),
        );
        let config = VmConfig::from_toml(&text).unwrap();
        let slots = Slots::assign(&config).unwrap();
        assert_eq!(
            [slots.console, slots.balloon, slots.vsock],
            [Some(13), Some(12), Some(11)]
        );
        config.validate().unwrap();
    }
}
