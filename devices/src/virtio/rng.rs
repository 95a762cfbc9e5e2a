//! The entropy device (virtio 1.3, 5.4): one queue of buffers to fill with random bytes.

use std::{fs::File, io, sync::Arc};

use event_manager::{EventOps, EventSet, Events};
use virtio_bindings::virtio_ring::VIRTIO_RING_F_EVENT_IDX;
use vm_memory::{ReadVolatile, VolatileMemoryError, VolatileSlice};

use super::{
    Activation, ActiveQueue, DeviceInterrupt, DeviceType, Handler, VirtioDevice, Worker,
    queue::{BrokenRing, Chain},
};
use crate::GuestMemory;

/// Bytes given for one request, however much the guest asks for: the driver asks again.
pub const MAX_REQUEST: usize = 64 << 10;

const QUEUE_SIZES: [u16; 1] = [64];
const NOTIFY: u32 = 0;

/// The entropy device.
#[derive(Debug)]
pub struct Rng {
    source: File,
}

impl Rng {
    /// `source` gives random bytes without end, as /dev/urandom does; opened by the caller, since the
    /// process that runs the device may see no file system.
    pub fn new(source: File) -> Self {
        Self { source }
    }
}

impl VirtioDevice for Rng {
    fn device_type(&self) -> DeviceType {
        DeviceType::Entropy
    }

    fn features(&self) -> u64 {
        1 << VIRTIO_RING_F_EVENT_IDX
    }

    fn queue_sizes(&self) -> &[u16] {
        &QUEUE_SIZES
    }

    fn activate(self: Box<Self>, activation: Activation) -> io::Result<Worker> {
        let name = activation.interrupt.name().to_owned();
        let handler = RngWorker {
            device: *self,
            memory: activation.memory,
            queue: activation.queues.into_iter().next(),
            interrupt: activation.interrupt,
            chain: Chain::new(),
        };
        Worker::spawn(&name, Box::new(handler))
    }
}

struct RngWorker {
    device: Rng,
    memory: Arc<GuestMemory>,
    /// None if the driver did not enable it.
    queue: Option<ActiveQueue>,
    interrupt: DeviceInterrupt,
    chain: Chain,
}

/// Why the device stopped working.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error(transparent)]
    Ring(#[from] BrokenRing),
    #[error("cannot read the entropy source: {0}")]
    Source(#[from] VolatileMemoryError),
}

impl Handler for RngWorker {
    fn start(&mut self, ops: &mut EventOps) {
        let Some(queue) = &self.queue else { return };
        if let Err(error) = ops.add(Events::with_data(&queue.notify, NOTIFY, EventSet::IN)) {
            self.interrupt.needs_reset(&error);
            return;
        }
        self.serve();
    }

    fn process(&mut self, _events: Events, ops: &mut EventOps) {
        if let Some(queue) = &self.queue {
            // Level-triggered: taken, or this comes again.
            queue.take_notifications();
            if self.interrupt.is_broken() {
                // A guest that goes on notifying a broken device costs nothing.
                let _ = ops.remove(Events::empty(&queue.notify));
                return;
            }
        }
        self.serve();
    }

    fn stop(self: Box<Self>) -> Box<dyn VirtioDevice> {
        Box::new(self.device)
    }
}

impl RngWorker {
    fn serve(&mut self) {
        if let Some(active) = &mut self.queue {
            match serve(
                active,
                &self.memory,
                &mut self.device.source,
                &mut self.chain,
            ) {
                Ok(true) => active.interrupt.signal(),
                Ok(false) => {}
                Err(error) => self.interrupt.needs_reset(&error),
            }
        }
    }
}

/// Fills what is available, at most a queue full; says whether the driver wants an interrupt for it.
fn serve(
    active: &mut ActiveQueue,
    memory: &GuestMemory,
    source: &mut File,
    chain: &mut Chain,
) -> Result<bool, Error> {
    let ring = &mut active.queue;
    let mut served = 0;
    ring.disable_notification(memory)?;
    loop {
        if served == QUEUE_SIZES[0] {
            // A guest that adds as fast as we fill must not keep the thread from its stop event.
            let _ = active.notify.write(1);
            break;
        }
        if ring.pop(memory, chain)? {
            let written = fill(source, chain.writable_slices(memory))?;
            ring.push_used(memory, chain.head(), written)?;
            served += 1;
        } else if !ring.enable_notification(memory)? {
            break;
        }
    }
    Ok(served > 0 && ring.needs_interrupt(memory)?)
}

/// Reads straight into guest memory, at most [`MAX_REQUEST`] bytes.
fn fill<'m>(
    source: &mut File,
    slices: impl Iterator<Item = VolatileSlice<'m>>,
) -> Result<u32, VolatileMemoryError> {
    let mut left = MAX_REQUEST;
    for slice in slices {
        let mut part = slice.subslice(0, slice.len().min(left))?;
        source.read_exact_volatile(&mut part)?;
        left -= part.len();
        if left == 0 {
            break;
        }
    }
    Ok((MAX_REQUEST - left) as u32)
}

#[cfg(test)]
mod tests;
