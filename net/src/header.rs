//! The header before every frame (virtio 1.3, 5.1.6): `struct virtio_net_hdr_v1`, on the queues and on the tap alike.

use virtio_bindings::virtio_net::{
    VIRTIO_NET_F_CSUM, VIRTIO_NET_F_GUEST_CSUM, VIRTIO_NET_F_GUEST_ECN, VIRTIO_NET_F_GUEST_TSO4,
    VIRTIO_NET_F_GUEST_TSO6, VIRTIO_NET_F_GUEST_USO4, VIRTIO_NET_F_GUEST_USO6,
    VIRTIO_NET_F_HOST_ECN, VIRTIO_NET_F_HOST_TSO4, VIRTIO_NET_F_HOST_TSO6, VIRTIO_NET_F_HOST_USO,
    VIRTIO_NET_HDR_F_DATA_VALID, VIRTIO_NET_HDR_F_NEEDS_CSUM, VIRTIO_NET_HDR_GSO_ECN,
    VIRTIO_NET_HDR_GSO_NONE, VIRTIO_NET_HDR_GSO_TCPV4, VIRTIO_NET_HDR_GSO_TCPV6,
    VIRTIO_NET_HDR_GSO_UDP_L4,
};

use crate::{HEADER, features::Features};

const NEEDS_CSUM: u8 = VIRTIO_NET_HDR_F_NEEDS_CSUM as u8;
const DATA_VALID: u8 = VIRTIO_NET_HDR_F_DATA_VALID as u8;
const GSO_NONE: u8 = VIRTIO_NET_HDR_GSO_NONE as u8;
const GSO_TCPV4: u8 = VIRTIO_NET_HDR_GSO_TCPV4 as u8;
const GSO_TCPV6: u8 = VIRTIO_NET_HDR_GSO_TCPV6 as u8;
const GSO_UDP_L4: u8 = VIRTIO_NET_HDR_GSO_UDP_L4 as u8;
const GSO_ECN: u8 = VIRTIO_NET_HDR_GSO_ECN as u8;

/// Bytes of a checksum.
const CSUM_LEN: usize = 2;

/// A header, in little endian as it is in memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Header(pub(crate) [u8; HEADER]);

impl Header {
    fn flags(&self) -> u8 {
        self.0[0]
    }

    fn gso_type(&self) -> u8 {
        self.0[1]
    }

    fn u16(&self, at: usize) -> u16 {
        u16::from_le_bytes([self.0[at], self.0[at + 1]])
    }

    fn hdr_len(&self) -> u16 {
        self.u16(2)
    }

    fn gso_size(&self) -> u16 {
        self.u16(4)
    }

    fn csum_end(&self) -> usize {
        usize::from(self.u16(6)) + usize::from(self.u16(8)) + CSUM_LEN
    }

    /// What the kernel is given in place of the guest's header of a frame of `len` bytes; None if the driver asks for
    /// what it has not negotiated, or for what is outside of the frame (5.1.6.2.1).
    ///
    /// Nothing else of what the guest wrote goes on: flags that a device does not know are to be ignored (5.1.6.2.2),
    /// and fields without their flag have no meaning.
    pub(crate) fn of_guest(self, len: usize, features: Features) -> Option<Self> {
        let mut header = Self::default();
        if self.flags() & NEEDS_CSUM != 0 {
            if !features.has(VIRTIO_NET_F_CSUM) || self.csum_end() > len {
                return None;
            }
            header.0[0] = NEEDS_CSUM;
            header.0[6..10].copy_from_slice(&self.0[6..10]);
        }
        if self.gso_type() == GSO_NONE {
            return Some(header);
        }
        let negotiated = match self.gso_type() & !GSO_ECN {
            GSO_TCPV4 => features.has(VIRTIO_NET_F_HOST_TSO4),
            GSO_TCPV6 => features.has(VIRTIO_NET_F_HOST_TSO6),
            GSO_UDP_L4 => features.has(VIRTIO_NET_F_HOST_USO) && self.gso_type() & GSO_ECN == 0,
            _ => false,
        };
        let ecn = self.gso_type() & GSO_ECN != 0;
        let sound = header.flags() & NEEDS_CSUM != 0
            && self.gso_size() > 0
            && usize::from(self.hdr_len()) <= len;
        if !negotiated || !sound || ecn && !features.has(VIRTIO_NET_F_HOST_ECN) {
            return None;
        }
        header.0[1..6].copy_from_slice(&self.0[1..6]);
        Some(header)
    }

    /// What the guest is given in place of the kernel's header of a frame in `buffers` buffers; None if it would have to
    /// finish what it has not negotiated, as a frame from the time of another driver.
    pub(crate) fn of_host(self, buffers: u16, features: Features) -> Option<Self> {
        let mut header = self;
        if !features.has(VIRTIO_NET_F_GUEST_CSUM) {
            if self.flags() & NEEDS_CSUM != 0 {
                return None;
            }
            header.0[0] = 0;
        }
        header.0[0] &= NEEDS_CSUM | DATA_VALID;
        let ecn = self.gso_type() & GSO_ECN != 0;
        let negotiated = match self.gso_type() & !GSO_ECN {
            GSO_NONE => !ecn,
            GSO_TCPV4 => features.has(VIRTIO_NET_F_GUEST_TSO4),
            GSO_TCPV6 => features.has(VIRTIO_NET_F_GUEST_TSO6),
            GSO_UDP_L4 => {
                features.has(VIRTIO_NET_F_GUEST_USO4) && features.has(VIRTIO_NET_F_GUEST_USO6)
            }
            _ => false,
        };
        if !negotiated || ecn && !features.has(VIRTIO_NET_F_GUEST_ECN) {
            return None;
        }
        header.0[10..].copy_from_slice(&buffers.to_le_bytes());
        Some(header)
    }
}

#[cfg(test)]
mod tests;
