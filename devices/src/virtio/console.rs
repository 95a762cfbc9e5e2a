//! The console device (virtio 1.3, 5.3) with one port: Linux calls it hvc0.

use std::{io, os::fd::AsRawFd, sync::Arc};

use event_manager::{EventOps, EventSet, Events};
use virtio_bindings::virtio_ring::VIRTIO_RING_F_EVENT_IDX;

use super::{
    Activation, ActiveQueue, ConfigSpace, DeviceInterrupt, DeviceType, Handler, StaticConfig,
    VirtioDevice, Worker,
    queue::{BrokenRing, Chain},
};
use crate::{
    GuestMemory,
    console::{ConsoleInput, ConsoleSink, Origin},
};

/// Bytes that are taken of one output buffer, however long it is; Linux' are of a page at most.
pub const MAX_OUTPUT: usize = 64 << 10;
/// Bytes that are given with one input buffer at most.
const MAX_INPUT: usize = 4096;
/// Bytes that are copied at once.
const COPY: usize = 4096;

const RECEIVE: u16 = 0;
const TRANSMIT: u16 = 1;
/// Linux fills the receive queue with a page for each entry, and nobody types so much.
const QUEUE_SIZES: [u16; 2] = [16, 64];
/// cols, rows, max_nr_ports and emerg_wr (5.3.4), none of which is valid without its feature bit.
const CONFIG_SIZE: usize = 12;

const RECEIVE_NOTIFY: u32 = 0;
const TRANSMIT_NOTIFY: u32 = 1;
const INPUT: u32 = 2;

/// The console device.
pub struct Console {
    output: ConsoleSink,
    input: ConsoleInput,
}

impl Console {
    /// What the guest prints goes into `output`, what it reads comes from `input`.
    pub fn new(output: ConsoleSink, input: ConsoleInput) -> Self {
        Self { output, input }
    }
}

impl VirtioDevice for Console {
    fn device_type(&self) -> DeviceType {
        DeviceType::Console
    }

    fn features(&self) -> u64 {
        1 << VIRTIO_RING_F_EVENT_IDX
    }

    fn queue_sizes(&self) -> &[u16] {
        &QUEUE_SIZES
    }

    fn config(&self) -> Arc<dyn ConfigSpace> {
        Arc::new(StaticConfig(vec![0; CONFIG_SIZE]))
    }

    fn activate(self: Box<Self>, activation: Activation) -> io::Result<Worker> {
        let name = activation.interrupt.name().to_owned();
        let (mut receive, mut transmit) = (None, None);
        for queue in activation.queues {
            match queue.index {
                RECEIVE => receive = Some(queue),
                _ => transmit = Some(queue),
            }
        }
        let handler = ConsoleWorker {
            device: *self,
            memory: activation.memory,
            receive,
            transmit,
            interrupt: activation.interrupt,
            chain: Chain::new(),
        };
        Worker::spawn(&name, Box::new(handler))
    }
}

struct ConsoleWorker {
    device: Console,
    memory: Arc<GuestMemory>,
    /// None if the driver did not enable it.
    receive: Option<ActiveQueue>,
    transmit: Option<ActiveQueue>,
    interrupt: DeviceInterrupt,
    chain: Chain,
}

impl Handler for ConsoleWorker {
    fn start(&mut self, ops: &mut EventOps) {
        let queues = [
            (&self.receive, RECEIVE_NOTIFY),
            (&self.transmit, TRANSMIT_NOTIFY),
        ];
        let notified = (queues.into_iter())
            .filter_map(|(queue, token)| Some((&queue.as_ref()?.notify, token)));
        for (event, token) in notified.chain([(self.device.input.filled(), INPUT)]) {
            if let Err(error) = ops.add(Events::with_data(event, token, EventSet::IN)) {
                self.interrupt.needs_reset(&error);
                return;
            }
        }
        self.serve(RECEIVE_NOTIFY);
        self.serve(TRANSMIT_NOTIFY);
    }

    fn process(&mut self, events: Events, ops: &mut EventOps) {
        // Level-triggered: taken, or this comes again.
        let notified = |queue: &Option<ActiveQueue>| {
            let queue = queue.as_ref()?;
            queue.take_notifications();
            Some(queue.notify.as_raw_fd())
        };
        let event = match events.data() {
            RECEIVE_NOTIFY => notified(&self.receive),
            TRANSMIT_NOTIFY => notified(&self.transmit),
            _ => {
                let filled = self.device.input.filled();
                // An empty one refuses to be read: a spurious event.
                let _ = filled.read();
                Some(filled.as_raw_fd())
            }
        };
        if let Some(event) = event
            && self.interrupt.is_broken()
        {
            // A guest that goes on notifying a broken device costs nothing.
            let _ = ops.remove(Events::empty_raw(event));
            return;
        }
        self.serve(events.data());
    }

    fn stop(self: Box<Self>) -> Box<dyn VirtioDevice> {
        self.device.input.set_virtio(false);
        Box::new(self.device)
    }
}

impl ConsoleWorker {
    fn serve(&mut self, token: u32) {
        let (device, memory, chain) = (&self.device, &self.memory, &mut self.chain);
        let (queue, done) = match token {
            TRANSMIT_NOTIFY => match &mut self.transmit {
                Some(queue) => {
                    let done = transmit(queue, memory, &device.output, chain);
                    (queue, done)
                }
                None => return,
            },
            _ => match &mut self.receive {
                Some(queue) => {
                    let done = receive(queue, memory, &device.input, chain);
                    (queue, done)
                }
                None => return,
            },
        };
        match done {
            Ok(true) => queue.interrupt.signal(),
            Ok(false) => {}
            Err(error) => {
                // Nobody is going to take what is typed.
                device.input.set_virtio(false);
                self.interrupt.needs_reset(&error);
            }
        }
    }
}

/// Takes what the guest prints, at most a queue full; says whether the driver wants an interrupt for it.
///
/// It never waits for a reader: Linux' driver turns with interrupts off until its buffer is used.
fn transmit(
    active: &mut ActiveQueue,
    memory: &GuestMemory,
    output: &ConsoleSink,
    chain: &mut Chain,
) -> Result<bool, BrokenRing> {
    let ring = &mut active.queue;
    let mut served = 0;
    ring.disable_notification(memory)?;
    loop {
        if served == QUEUE_SIZES[usize::from(TRANSMIT)] {
            // A guest that adds as fast as we take must not keep the thread from its stop event.
            let _ = active.notify.write(1);
            break;
        }
        if ring.pop(memory, chain)? {
            print(chain, memory, output);
            ring.push_used(memory, chain.head(), 0)?;
            served += 1;
        } else if !ring.enable_notification(memory)? {
            break;
        }
    }
    Ok(served > 0 && ring.needs_interrupt(memory)?)
}

fn print(chain: &Chain, memory: &GuestMemory, output: &ConsoleSink) {
    let mut bytes = [0; COPY];
    let mut offset = 0;
    while offset < MAX_OUTPUT {
        let n = chain.read_at(memory, offset, &mut bytes);
        if n == 0 {
            break;
        }
        output.push(Origin::Virtio, &bytes[..n]);
        offset += n;
    }
}

/// Gives the guest what was typed, all that is there with one interrupt; says whether the driver wants it.
fn receive(
    active: &mut ActiveQueue,
    memory: &GuestMemory,
    input: &ConsoleInput,
    chain: &mut Chain,
) -> Result<bool, BrokenRing> {
    let ring = &mut active.queue;
    let (available, _) = ring.indices(memory)?;
    if available != ring.next_avail() {
        input.set_virtio(true);
    }
    let mut served = 0;
    let mut bytes = [0; MAX_INPUT];
    while !input.is_empty() {
        if served == QUEUE_SIZES[usize::from(RECEIVE)] {
            let _ = active.notify.write(1);
            break;
        }
        if ring.pop(memory, chain)? {
            let room = chain.writable_len().min(MAX_INPUT);
            let n = input.take(&mut bytes[..room]);
            let written = chain.write_at(memory, 0, &bytes[..n]);
            ring.push_used(memory, chain.head(), written as u32)?;
            served += 1;
        } else if !ring.enable_notification(memory)? {
            break;
        }
    }
    Ok(served > 0 && ring.needs_interrupt(memory)?)
}

#[cfg(test)]
mod tests;
