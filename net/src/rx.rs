//! From the tap to the guest: a receive queue (virtio 1.3, 5.1.6.4).

use std::{fs::File, io, sync::Arc};

use minivmm_devices::{
    GuestMemory,
    virtio::{
        ActiveQueue,
        queue::{BrokenRing, Chain},
    },
};
use virtio_bindings::virtio_net::VIRTIO_NET_F_MRG_RXBUF;

use crate::{
    FRAME_MAX, HEADER,
    counters::Counters,
    features::Features,
    pair::BUDGET,
    pool::{Frame, Pool},
};

/// Why a turn has ended.
pub(crate) enum Turn {
    /// The tap is empty, or it is the others' turn; it says when there is more.
    Over,
    /// The driver has too few buffers; it will notify.
    NoBuffer,
    /// The tap does not work any more.
    Gone(io::Error),
}

/// The receiving half of a pair.
pub(crate) struct Receiver {
    pub(crate) queue: ActiveQueue,
    features: Features,
    chain: Chain,
    pool: Pool,
    /// There was room for the largest frame once, so a driver that has less now will add to it.
    ample: bool,
}

/// What there is to read into.
enum Room {
    /// As much as can be.
    Full,
    /// All that the driver has; it will notify when it adds to that, or we ourselves will.
    Short,
}

impl Receiver {
    pub(crate) fn new(queue: ActiveQueue, features: Features, memory: Arc<GuestMemory>) -> Self {
        Self {
            queue,
            features,
            chain: Chain::new(),
            pool: Pool::new(memory),
            ample: false,
        }
    }

    /// Moves frames until there are none, no buffers, or as many as a turn has; then interrupts once.
    pub(crate) fn turn(
        &mut self,
        tap: &File,
        memory: &GuestMemory,
        counters: &Counters,
    ) -> Result<Turn, BrokenRing> {
        let turn = self.receive(tap, memory, counters)?;
        if self.queue.queue.needs_interrupt(memory)? {
            self.queue.interrupt.signal();
        }
        Ok(turn)
    }

    fn receive(
        &mut self,
        tap: &File,
        memory: &GuestMemory,
        counters: &Counters,
    ) -> Result<Turn, BrokenRing> {
        // While the tap is watched, buffers are looked for when a frame comes.
        self.queue.queue.disable_notification(memory)?;
        for _ in 0..BUDGET {
            match self.fill(memory)? {
                Room::Full => {}
                // A driver that never had more must do with small frames.
                Room::Short if self.pool.is_empty() || self.ample => return Ok(Turn::NoBuffer),
                Room::Short => {}
            }
            match self.pool.read(tap) {
                Ok(Frame::Whole(len, header)) => {
                    let buffers = self.pool.chains_of(len);
                    match header.of_host(buffers, self.features) {
                        Some(header) => {
                            let queue = &mut self.queue.queue;
                            let used = |head, written| queue.write_used(memory, head, written);
                            self.pool.take(len, header, used)?;
                            // The driver sees all buffers of a frame at once (5.1.6.4).
                            queue.publish_used(memory)?;
                            counters.received();
                        }
                        None => counters.rx_dropped(),
                    }
                }
                Ok(Frame::Cut) => counters.rx_dropped(),
                Err(error) => match error.kind() {
                    io::ErrorKind::Interrupted => {}
                    io::ErrorKind::WouldBlock => return Ok(Turn::Over),
                    _ => return Ok(Turn::Gone(error)),
                },
            }
        }
        Ok(Turn::Over)
    }

    /// Takes chains until the largest frame fits, or, without mergeable buffers, the next one.
    fn fill(&mut self, memory: &GuestMemory) -> Result<Room, BrokenRing> {
        let mergeable = self.features.has(VIRTIO_NET_F_MRG_RXBUF);
        // A driver that adds useless buffers as fast as they go back must not keep the thread from its other events.
        for _ in 0..=self.queue.queue.layout().size {
            let full = match mergeable {
                true => self.pool.room() >= HEADER + FRAME_MAX,
                false => !self.pool.is_empty(),
            };
            if full {
                self.ample = mergeable;
                return Ok(Room::Full);
            }
            let queue = &mut self.queue.queue;
            if !queue.pop(memory, &mut self.chain)? {
                if queue.enable_notification(memory)? {
                    continue;
                }
                return Ok(Room::Short);
            }
            if self.chain.writable_len() < HEADER {
                // It can hold no frame, ever: back to the driver with it.
                queue.push_used(memory, self.chain.head(), 0)?;
            } else if !self.pool.add(&self.chain) {
                queue.undo_pop();
                return Ok(Room::Full);
            }
        }
        let _ = self.queue.notify.write(1);
        Ok(Room::Short)
    }
}
