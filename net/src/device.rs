//! The network device (virtio 1.3, 5.1): what it offers; what it does is in its worker.

use std::{io, sync::Arc};

use minivmm_devices::virtio::{
    Activation, ConfigSpace, DeviceInterrupt, DeviceType, VirtioDevice, Worker,
};

use crate::{
    active::Active,
    config::NetConfig,
    counters::Counters,
    features::{Ability, Features, USO_PROBE},
    mac::MacAddr,
    tap::Tap,
};

/// Entries of a receive or transmit queue.
pub(crate) const QUEUE_SIZE: u16 = 256;
/// Entries of the control queue, on which drivers have one command at a time.
const CONTROL_SIZE: u16 = 64;

/// What a card is like.
#[derive(Clone, Copy, Debug)]
pub struct NetOptions {
    /// Its address.
    pub mac: MacAddr,
    /// The MTU that the guest is told (VIRTIO_NET_F_MTU), from [`MTU_MIN`](crate::MTU_MIN) to
    /// [`MTU_MAX`](crate::MTU_MAX).
    pub mtu: Option<u16>,
    /// Whether checksums and segmentation are left to the other side.
    pub offload: bool,
}

/// A network card on a tap, with a pair of queues for each of the tap's.
pub struct NetDevice {
    pub(crate) tap: Tap,
    pub(crate) link: Arc<Link>,
    features: Features,
    queue_sizes: Vec<u16>,
}

/// What all threads of a card have in common.
#[derive(Debug)]
pub(crate) struct Link {
    name: String,
    pub(crate) config: Arc<NetConfig>,
    pub(crate) counters: Arc<Counters>,
}

impl Link {
    /// The tap was removed under us: nothing goes through any more, which is said once.
    pub(crate) fn die(&self, error: &io::Error, interrupt: &DeviceInterrupt) {
        if self.config.take_link_down() {
            tracing::error!(tap = self.name, %error, "the tap is gone: the link is dead");
            interrupt.config_changed();
        }
    }

    pub(crate) fn is_dead(&self) -> bool {
        !self.config.link_is_up()
    }
}

impl NetDevice {
    /// A card on `tap`.
    pub fn new(tap: Tap, options: NetOptions) -> Self {
        let pairs = tap.queue_count();
        let mut queue_sizes = vec![QUEUE_SIZE; 2 * pairs];
        if pairs > 1 {
            queue_sizes.push(CONTROL_SIZE);
        }
        let features = Features::offered(Ability {
            offload: options.offload,
            uso: options.offload && tap.can_offload(USO_PROBE),
            mtu: options.mtu.is_some(),
            multi_queue: pairs > 1,
        });
        let pairs = u16::try_from(pairs).unwrap_or(u16::MAX);
        Self {
            link: Arc::new(Link {
                name: tap.name().to_owned(),
                config: Arc::new(NetConfig::new(options.mac, pairs, options.mtu)),
                counters: Arc::default(),
            }),
            features,
            queue_sizes,
            tap,
        }
    }

    /// What goes through it, to be read while it works.
    pub fn counters(&self) -> Arc<Counters> {
        self.link.counters.clone()
    }
}

impl VirtioDevice for NetDevice {
    fn device_type(&self) -> DeviceType {
        DeviceType::Net
    }

    fn features(&self) -> u64 {
        self.features.0
    }

    fn queue_sizes(&self) -> &[u16] {
        &self.queue_sizes
    }

    fn config(&self) -> Arc<dyn ConfigSpace> {
        self.link.config.clone()
    }

    fn activate(self: Box<Self>, activation: Activation) -> io::Result<Worker> {
        let name = format!("net-{}", self.tap.name());
        let active = Active::new(*self, activation)?;
        Worker::spawn(&name, Box::new(active))
    }
}
