//! From the tap to the guest: receiveq1 (virtio 1.3, 5.1.6.4).

use std::io;

use minivmm_devices::{
    GuestMemory,
    virtio::{
        ActiveQueue,
        queue::{BrokenRing, Chain},
    },
};

use crate::{
    HEADER,
    device::{BUDGET, Counters},
    tap::Tap,
    vectored::Vectors,
};

/// The header of a frame without offloads: no flags, no segmentation, and `num_buffers` 1, which is the
/// last field (5.1.6.4.1).
const PLAIN: [u8; HEADER] = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0];

/// Why a turn has ended.
pub(crate) enum Turn {
    /// The tap is empty, or it is the others' turn; it says when there is more.
    Over,
    /// The driver has no buffer; it will notify.
    NoBuffer,
    /// The tap does not work any more.
    Gone(io::Error),
}

/// The receiving half of the worker.
pub(crate) struct Receiver {
    pub(crate) queue: ActiveQueue,
    chain: Chain,
    vectors: Vectors,
}

impl Receiver {
    pub(crate) fn new(queue: ActiveQueue) -> Self {
        Self {
            queue,
            chain: Chain::new(),
            vectors: Vectors::default(),
        }
    }

    /// Moves frames until there are none, no buffers, or as many as a turn has; then interrupts once.
    pub(crate) fn turn(
        &mut self,
        tap: &Tap,
        memory: &GuestMemory,
        counters: &Counters,
    ) -> Result<Turn, BrokenRing> {
        let turn = self.receive(tap, memory, counters)?;
        let queue = &mut self.queue.queue;
        if queue.needs_interrupt(memory)? {
            self.queue.interrupt.signal();
        }
        Ok(turn)
    }

    fn receive(
        &mut self,
        tap: &Tap,
        memory: &GuestMemory,
        counters: &Counters,
    ) -> Result<Turn, BrokenRing> {
        let Self {
            queue: ActiveQueue { queue, .. },
            chain,
            vectors,
        } = self;
        // While the tap is watched, buffers are looked for when a frame comes.
        queue.disable_notification(memory)?;
        for _ in 0..BUDGET {
            if !queue.pop(memory, chain)? {
                if queue.enable_notification(memory)? {
                    continue;
                }
                return Ok(Turn::NoBuffer);
            }
            let room = chain.writable_len();
            if room < HEADER {
                // It can hold no frame, ever: back to the driver with it.
                queue.push_used(memory, chain.head(), 0)?;
                continue;
            }
            // The tap gives no sign of having cut a frame: one byte more than there is room for is one.
            let mut over = [0];
            match vectors.read(tap.file(), chain.writable_slices(memory), &mut over) {
                Ok(n) if (HEADER..=room).contains(&n) => {
                    chain.write_at(memory, 0, &PLAIN);
                    let written = u32::try_from(n).unwrap_or(u32::MAX);
                    queue.push_used(memory, chain.head(), written)?;
                    counters.received();
                }
                Ok(_) => {
                    queue.undo_pop();
                    counters.rx_dropped();
                }
                Err(error) => {
                    queue.undo_pop();
                    match error.kind() {
                        io::ErrorKind::Interrupted => {}
                        io::ErrorKind::WouldBlock => return Ok(Turn::Over),
                        _ => return Ok(Turn::Gone(error)),
                    }
                }
            }
        }
        Ok(Turn::Over)
    }
}
