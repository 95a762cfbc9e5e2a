//! The disk while its driver uses it: the thread of the first lane, which starts those of the others and ends them.

use std::io;

use event_manager::{EventOps, Events};
use minivmm_devices::virtio::{Activation, DeviceInterrupt, Handler, VirtioDevice, Worker};

use crate::{device::BlockDevice, engine::Engine, failure::Failure, lane::Lane};

pub(crate) struct Active {
    device: BlockDevice,
    interrupt: DeviceInterrupt,
    /// The lane of this thread with its queue's index; None if the driver has enabled no queue.
    first: Option<(usize, Lane)>,
    /// Lanes whose threads are not started yet.
    waiting: Vec<(usize, Lane)>,
    others: Vec<(usize, Worker<Option<Engine>>)>,
}

impl Active {
    pub(crate) fn new(mut device: BlockDevice, activation: Activation) -> io::Result<Self> {
        let Activation {
            memory,
            features,
            queues,
            interrupt,
        } = activation;
        let mut lanes = Vec::new();
        for queue in queues {
            let index = usize::from(queue.index);
            let engine = device.engine(index)?;
            let lane = Lane::new(
                device.disk.clone(),
                features,
                memory.clone(),
                interrupt.clone(),
                queue,
                engine,
            )?;
            lanes.push((index, lane));
        }
        let mut lanes = lanes.into_iter();
        Ok(Self {
            device,
            interrupt,
            first: lanes.next(),
            waiting: lanes.collect(),
            others: Vec::new(),
        })
    }
}

impl Handler for Active {
    fn start(&mut self, ops: &mut EventOps) {
        for (index, lane) in self.waiting.drain(..) {
            let name = format!("blk{index}-{}", self.interrupt.name());
            match Worker::spawn(&name, Box::new(lane)) {
                Ok(worker) => self.others.push((index, worker)),
                Err(error) => self.interrupt.needs_reset(&Failure::Thread(error)),
            }
        }
        if let Some((_, lane)) = &mut self.first {
            lane.begin(ops);
        }
    }

    fn process(&mut self, events: Events, ops: &mut EventOps) {
        if let Some((_, lane)) = &mut self.first {
            lane.serve(events.data(), ops);
        }
    }

    fn stop(mut self: Box<Self>) -> Box<dyn VirtioDevice> {
        // All are asked before one is waited for.
        for (_, worker) in &self.others {
            worker.stop();
        }
        let mut back = |index: usize, engine| {
            if let Some(place) = self.device.engines.get_mut(index) {
                *place = engine;
            }
        };
        if let Some((index, lane)) = self.first.take() {
            back(index, lane.end());
        }
        for (index, worker) in self.others.drain(..) {
            back(index, worker.join().flatten());
        }
        Box::new(self.device)
    }
}
