//! The network device (virtio 1.3, 5.1): one pair of queues, no offloads.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use event_manager::{EventOps, EventSet, Events};
use minivmm_devices::{
    GuestMemory,
    virtio::{
        Activation, ConfigSpace, DeviceInterrupt, DeviceType, Handler, StaticConfig, VirtioDevice,
        Worker, queue::BrokenRing,
    },
};
use virtio_bindings::{virtio_net::VIRTIO_NET_F_MAC, virtio_ring::VIRTIO_RING_F_INDIRECT_DESC};

use crate::{
    mac::MacAddr,
    rx::{Receiver, Turn},
    tap::Tap,
    tx::Sender,
};

const QUEUE_SIZE: u16 = 256;
const QUEUE_SIZES: [u16; 2] = [QUEUE_SIZE, QUEUE_SIZE];

/// Frames that one direction moves before the other has its turn.
pub(crate) const BUDGET: u16 = QUEUE_SIZE;

/// Indices of the queues (5.1.2).
const RECEIVEQ: u16 = 0;
const TRANSMITQ: u16 = 1;

/// Tokens of the worker's events.
const TAP: u32 = 0;
const RX_NOTIFY: u32 = 1;
const TX_NOTIFY: u32 = 2;

/// What has gone through a card since it was made. Frames are dropped silently, as on a wire: here is
/// where they are seen.
#[derive(Debug, Default)]
pub struct Counters {
    rx_frames: AtomicU64,
    rx_dropped: AtomicU64,
    tx_frames: AtomicU64,
    tx_dropped: AtomicU64,
}

/// [`Counters`] at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Frames that the guest received.
    pub rx_frames: u64,
    /// Frames from the host that were larger than the guest's buffer.
    pub rx_dropped: u64,
    /// Frames that the guest sent.
    pub tx_frames: u64,
    /// Frames of the guest that were malformed or that the tap did not take.
    pub tx_dropped: u64,
}

impl Counters {
    /// The numbers now.
    pub fn read(&self) -> Counts {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Counts {
            rx_frames: read(&self.rx_frames),
            rx_dropped: read(&self.rx_dropped),
            tx_frames: read(&self.tx_frames),
            tx_dropped: read(&self.tx_dropped),
        }
    }

    pub(crate) fn received(&self) {
        self.rx_frames.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn rx_dropped(&self) {
        self.rx_dropped.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn sent(&self) {
        self.tx_frames.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn tx_dropped(&self) {
        self.tx_dropped.fetch_add(1, Ordering::Relaxed);
    }
}

/// A network card on a tap.
pub struct NetDevice {
    tap: Tap,
    /// The tap was removed under us: nothing goes through any more, and this has been logged.
    dead: bool,
    config: Arc<StaticConfig>,
    counters: Arc<Counters>,
}

impl NetDevice {
    /// A card with the address `mac`.
    pub fn new(tap: Tap, mac: MacAddr) -> Self {
        Self {
            tap,
            dead: false,
            config: Arc::new(StaticConfig(mac.bytes().to_vec())),
            counters: Arc::default(),
        }
    }

    /// What goes through it, to be read while it works.
    pub fn counters(&self) -> Arc<Counters> {
        self.counters.clone()
    }

    fn die(&mut self, error: &io::Error) {
        if !self.dead {
            self.dead = true;
            tracing::error!(tap = self.tap.name(), %error, "the tap is gone: the link is dead");
        }
    }
}

impl VirtioDevice for NetDevice {
    fn device_type(&self) -> DeviceType {
        DeviceType::Net
    }

    fn features(&self) -> u64 {
        1 << VIRTIO_NET_F_MAC | 1 << VIRTIO_RING_F_INDIRECT_DESC
    }

    fn queue_sizes(&self) -> &[u16] {
        &QUEUE_SIZES
    }

    fn config(&self) -> Arc<dyn ConfigSpace> {
        self.config.clone()
    }

    fn activate(self: Box<Self>, activation: Activation) -> io::Result<Worker> {
        let name = format!("net-{}", self.tap.name());
        let mut active = Active {
            device: *self,
            memory: activation.memory,
            interrupt: activation.interrupt,
            rx: None,
            tx: None,
            watching: false,
        };
        for queue in activation.queues {
            match queue.index {
                RECEIVEQ => active.rx = Some(Receiver::new(queue)),
                TRANSMITQ => active.tx = Some(Sender::new(queue)),
                _ => {}
            }
        }
        Worker::spawn(&name, Box::new(active))
    }
}

/// The card while its driver uses it.
struct Active {
    device: NetDevice,
    memory: Arc<GuestMemory>,
    interrupt: DeviceInterrupt,
    rx: Option<Receiver>,
    tx: Option<Sender>,
    /// Whether the tap is watched: not while the driver has no buffers, or it would wake us for nothing.
    watching: bool,
}

impl Active {
    fn tap_events(&self) -> Events {
        Events::with_data(self.device.tap.file(), TAP, EventSet::IN)
    }

    fn begin(&mut self, ops: &mut EventOps) -> Result<(), event_manager::Error> {
        if let Some(rx) = &self.rx {
            ops.add(Events::with_data(&rx.queue.notify, RX_NOTIFY, EventSet::IN))?;
            self.watch(true, ops)?;
        }
        if let Some(tx) = &self.tx {
            ops.add(Events::with_data(&tx.queue.notify, TX_NOTIFY, EventSet::IN))?;
        }
        Ok(())
    }

    fn watch(&mut self, watch: bool, ops: &mut EventOps) -> Result<(), event_manager::Error> {
        let watch = watch && !self.device.dead;
        if watch && !self.watching {
            ops.add(self.tap_events())?;
        } else if !watch && self.watching {
            ops.remove(self.tap_events())?;
        }
        self.watching = watch;
        Ok(())
    }

    fn receive(&mut self) -> Result<Turn, BrokenRing> {
        let NetDevice { tap, counters, .. } = &self.device;
        match &mut self.rx {
            Some(rx) => rx.turn(tap, &self.memory, counters),
            None => Ok(Turn::Over),
        }
    }

    fn send(&mut self) -> Result<(), BrokenRing> {
        let Some(tx) = &mut self.tx else {
            return Ok(());
        };
        // Reading resets the count; an empty one has been reset already.
        let _ = tx.queue.notify.read();
        let NetDevice {
            tap,
            dead,
            counters,
            ..
        } = &self.device;
        let tap = (!dead).then_some(tap);
        if let Some(error) = tx.turn(tap, &self.memory, counters)? {
            self.device.die(&error);
        }
        Ok(())
    }

    fn work(&mut self, token: u32, ops: &mut EventOps) -> Result<(), Failure> {
        match token {
            TAP => match self.receive()? {
                Turn::Over => {}
                Turn::NoBuffer => self.watch(false, ops)?,
                Turn::Gone(error) => {
                    self.device.die(&error);
                    self.watch(false, ops)?;
                }
            },
            RX_NOTIFY => {
                if let Some(rx) = &self.rx {
                    let _ = rx.queue.notify.read();
                    self.watch(true, ops)?;
                }
            }
            _ => self.send()?,
        }
        Ok(())
    }

    /// Leaves the queues alone until a reset.
    fn give_up(&mut self, why: &dyn std::fmt::Display, ops: &mut EventOps) {
        self.interrupt.needs_reset(why);
        let rx = self.rx.take().map(|rx| (rx.queue.notify, RX_NOTIFY));
        let tx = self.tx.take().map(|tx| (tx.queue.notify, TX_NOTIFY));
        for (notify, token) in rx.into_iter().chain(tx) {
            // One that was never added need not be removed.
            let _ = ops.remove(Events::with_data(&notify, token, EventSet::IN));
        }
        let _ = self.watch(false, ops);
    }
}

/// What ends an activation.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Ring(#[from] BrokenRing),
    #[error("cannot watch a file: {0}")]
    Events(#[from] event_manager::Error),
}

impl Handler for Active {
    fn start(&mut self, ops: &mut EventOps) {
        if let Err(error) = self.begin(ops) {
            self.give_up(&Failure::from(error), ops);
        }
    }

    fn process(&mut self, events: Events, ops: &mut EventOps) {
        if let Err(error) = self.work(events.data(), ops) {
            self.give_up(&error, ops);
        }
    }

    fn stop(self: Box<Self>) -> Box<dyn VirtioDevice> {
        Box::new(self.device)
    }
}
