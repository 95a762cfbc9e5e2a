//! What card and driver agree on (virtio 1.3, 5.1.3), and what the tap is told of it.

use virtio_bindings::{
    virtio_net::{
        VIRTIO_NET_F_CSUM, VIRTIO_NET_F_CTRL_VQ, VIRTIO_NET_F_GUEST_CSUM, VIRTIO_NET_F_GUEST_ECN,
        VIRTIO_NET_F_GUEST_TSO4, VIRTIO_NET_F_GUEST_TSO6, VIRTIO_NET_F_GUEST_USO4,
        VIRTIO_NET_F_GUEST_USO6, VIRTIO_NET_F_HOST_ECN, VIRTIO_NET_F_HOST_TSO4,
        VIRTIO_NET_F_HOST_TSO6, VIRTIO_NET_F_HOST_USO, VIRTIO_NET_F_MAC, VIRTIO_NET_F_MQ,
        VIRTIO_NET_F_MRG_RXBUF, VIRTIO_NET_F_MTU, VIRTIO_NET_F_STATUS,
    },
    virtio_ring::{VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC},
};

/// Segmentation of UDP, which a tap has as a whole (Linux 6.2 and newer).
const USO: u32 = libc::TUN_F_USO4 | libc::TUN_F_USO6;
/// What a tap is asked for to find out whether it has segmentation of UDP.
pub(crate) const USO_PROBE: u32 = libc::TUN_F_CSUM | USO;

/// A set of feature bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Features(pub(crate) u64);

/// What the features that a card offers depend on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ability {
    /// Checksums and segments may be left to the other side.
    pub(crate) offload: bool,
    /// The tap segments UDP.
    pub(crate) uso: bool,
    /// The configuration has an MTU.
    pub(crate) mtu: bool,
    /// There is more than one pair of queues.
    pub(crate) multi_queue: bool,
}

impl Features {
    pub(crate) fn offered(ability: Ability) -> Self {
        let mut features = Self(0);
        for bit in [
            VIRTIO_NET_F_MAC,
            VIRTIO_NET_F_STATUS,
            VIRTIO_NET_F_MRG_RXBUF,
            VIRTIO_RING_F_INDIRECT_DESC,
            VIRTIO_RING_F_EVENT_IDX,
        ] {
            features.insert(bit);
        }
        let offloads = [
            VIRTIO_NET_F_CSUM,
            VIRTIO_NET_F_GUEST_CSUM,
            VIRTIO_NET_F_HOST_TSO4,
            VIRTIO_NET_F_HOST_TSO6,
            VIRTIO_NET_F_HOST_ECN,
            VIRTIO_NET_F_GUEST_TSO4,
            VIRTIO_NET_F_GUEST_TSO6,
            VIRTIO_NET_F_GUEST_ECN,
        ];
        let uso = [
            VIRTIO_NET_F_HOST_USO,
            VIRTIO_NET_F_GUEST_USO4,
            VIRTIO_NET_F_GUEST_USO6,
        ];
        for (offered, bits) in [
            (ability.offload, &offloads[..]),
            (ability.offload && ability.uso, &uso),
            (ability.mtu, &[VIRTIO_NET_F_MTU]),
            // The control queue has commands for nothing else.
            (
                ability.multi_queue,
                &[VIRTIO_NET_F_MQ, VIRTIO_NET_F_CTRL_VQ],
            ),
        ] {
            if offered {
                bits.iter().for_each(|bit| features.insert(*bit));
            }
        }
        features
    }

    fn insert(&mut self, bit: u32) {
        self.0 |= 1 << bit;
    }

    pub(crate) fn has(self, bit: u32) -> bool {
        self.0 & 1 << bit != 0
    }

    /// What the tap may leave to the guest (TUNSETOFFLOAD). A driver that asks for segments without checksums, which
    /// needs them (5.1.3.1), gets neither.
    pub(crate) fn tun_offload(self) -> u32 {
        if !self.has(VIRTIO_NET_F_GUEST_CSUM) {
            return 0;
        }
        let mut offload = libc::TUN_F_CSUM;
        for (bit, flag) in [
            (VIRTIO_NET_F_GUEST_TSO4, libc::TUN_F_TSO4),
            (VIRTIO_NET_F_GUEST_TSO6, libc::TUN_F_TSO6),
        ] {
            if self.has(bit) {
                offload |= flag;
            }
        }
        if offload != libc::TUN_F_CSUM && self.has(VIRTIO_NET_F_GUEST_ECN) {
            offload |= libc::TUN_F_TSO_ECN;
        }
        // The kernel knows the two only together.
        if self.has(VIRTIO_NET_F_GUEST_USO4) && self.has(VIRTIO_NET_F_GUEST_USO6) {
            offload |= USO;
        }
        offload
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOTHING: Ability = Ability {
        offload: false,
        uso: false,
        mtu: false,
        multi_queue: false,
    };

    #[test]
    fn what_is_offered_follows_from_what_there_is() {
        let always = Features::offered(NOTHING);
        assert_eq!(
            always.0,
            1 << 5 | 1 << 15 | 1 << 16 | 1 << 28 | 1 << 29,
            "MAC, MRG_RXBUF, STATUS, INDIRECT_DESC, EVENT_IDX"
        );
        let more = |ability| Features::offered(ability).0 & !always.0;
        let uso = Ability {
            uso: true,
            ..NOTHING
        };
        assert_eq!(more(uso), 0, "a tap's ability alone is no offload");
        let offload = Ability {
            offload: true,
            ..NOTHING
        };
        let bits = [0, 1, 7, 8, 9, 11, 12, 13];
        let sum = bits.iter().fold(0, |sum, bit| sum | 1 << bit);
        assert_eq!(more(offload), sum);
        let both = Ability {
            offload: true,
            ..uso
        };
        assert_eq!(more(both), sum | 1 << 54 | 1 << 55 | 1 << 56);
        let mtu = Ability {
            mtu: true,
            ..NOTHING
        };
        assert_eq!(more(mtu), 1 << 3);
        let multi_queue = Ability {
            multi_queue: true,
            ..NOTHING
        };
        assert_eq!(more(multi_queue), 1 << 17 | 1 << 22);
    }

    #[test]
    fn the_tap_is_told_what_the_driver_takes() {
        for (bits, offload) in [
            (&[][..], 0),
            (&[7, 8, 9], 0),
            (&[1], 1),
            (&[1, 9], 1),
            (&[1, 7], 1 | 2),
            (&[1, 8, 9], 1 | 4 | 8),
            (&[1, 7, 8, 54], 1 | 2 | 4),
            (&[1, 7, 8, 9, 54, 55], 0x6f),
        ] {
            let features = Features(bits.iter().fold(0, |sum, bit| sum | 1 << bit));
            assert_eq!(features.tun_offload(), offload, "{bits:?}");
        }
    }
}
