//! The configuration space (virtio 1.3, 5.1.4).

use std::sync::atomic::{AtomicBool, Ordering};

use minivmm_devices::virtio::{ConfigSpace, StaticConfig};
use virtio_bindings::virtio_net::VIRTIO_NET_S_LINK_UP;

use crate::mac::MacAddr;

/// `struct virtio_net_config` up to `mtu`. The link is up until the tap is gone, for good.
#[derive(Debug)]
pub(crate) struct NetConfig {
    mac: MacAddr,
    pairs: u16,
    /// 0 without VIRTIO_NET_F_MTU.
    mtu: u16,
    link_up: AtomicBool,
}

impl NetConfig {
    pub(crate) fn new(mac: MacAddr, pairs: u16, mtu: Option<u16>) -> Self {
        Self {
            mac,
            pairs,
            mtu: mtu.unwrap_or(0),
            link_up: AtomicBool::new(true),
        }
    }

    pub(crate) fn link_is_up(&self) -> bool {
        self.link_up.load(Ordering::Acquire)
    }

    /// Says whether it was up before.
    pub(crate) fn take_link_down(&self) -> bool {
        self.link_up.swap(false, Ordering::AcqRel)
    }
}

impl ConfigSpace for NetConfig {
    fn read(&self, offset: u64, data: &mut [u8]) {
        let status = match self.link_is_up() {
            true => VIRTIO_NET_S_LINK_UP as u16,
            false => 0,
        };
        let mut bytes = self.mac.bytes().to_vec();
        for field in [status, self.pairs, self.mtu] {
            bytes.extend(field.to_le_bytes());
        }
        StaticConfig(bytes).read(offset, data);
    }

    /// The status changes once.
    fn generation(&self) -> u8 {
        u8::from(!self.link_is_up())
    }
}
