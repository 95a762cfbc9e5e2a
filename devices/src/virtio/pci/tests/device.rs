//! A device that gives back what it is sent, and misbehaves when it is told to.

use std::{
    io,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU8, AtomicU32, Ordering},
        mpsc,
    },
};

use event_manager::{EventOps, EventSet, Events};
use vmm_sys_util::eventfd::EventFd;

use crate::{
    GuestMemory,
    virtio::{
        Activation, ActiveQueue, ConfigSpace, DeviceInterrupt, DeviceType, Handler, VirtioDevice,
        Worker, queue::Chain,
    },
};

pub(super) const FEATURES: u64 = 1 << 29 | 1 << 40;
pub(super) const QUEUE_SIZES: [u16; 2] = [8, 256];

/// What a test sees and changes of a device that is inside its worker.
#[derive(Default)]
pub(super) struct Control {
    pub(super) activations: AtomicU32,
    pub(super) features: Mutex<u64>,
    pub(super) refuse_activation: AtomicBool,
    /// The worker waits for this before it stops.
    pub(super) leave_to_stop: Mutex<Option<mpsc::Receiver<()>>>,
    pub(super) panic_at_next_event: AtomicBool,
    pub(super) interrupt: Mutex<Option<DeviceInterrupt>>,
    pub(super) generation: AtomicU8,
    pub(super) config: Mutex<[u8; 8]>,
}

impl ConfigSpace for Control {
    fn read(&self, offset: u64, data: &mut [u8]) {
        let config = self.config.lock().unwrap();
        for (at, byte) in (offset as usize..).zip(data) {
            *byte = config.get(at).copied().unwrap_or(0);
        }
    }
    fn write(&self, offset: u64, data: &[u8]) {
        let mut config = self.config.lock().unwrap();
        for (at, byte) in (offset as usize..).zip(data) {
            if let Some(to) = config.get_mut(at) {
                *to = *byte;
            }
        }
    }
    fn generation(&self) -> u8 {
        self.generation.load(Ordering::Relaxed)
    }
}

pub(super) struct Echo {
    control: Arc<Control>,
    sizes: Vec<u16>,
}

impl Echo {
    pub(super) fn new(control: Arc<Control>) -> Self {
        Self::with_queues(control, &QUEUE_SIZES)
    }

    pub(super) fn with_queues(control: Arc<Control>, sizes: &[u16]) -> Self {
        Self {
            control,
            sizes: sizes.to_vec(),
        }
    }
}

impl VirtioDevice for Echo {
    fn device_type(&self) -> DeviceType {
        DeviceType::Net
    }
    fn features(&self) -> u64 {
        FEATURES
    }
    fn queue_sizes(&self) -> &[u16] {
        &self.sizes
    }
    fn config(&self) -> Arc<dyn ConfigSpace> {
        self.control.clone()
    }
    fn activate(self: Box<Self>, activation: Activation) -> io::Result<Worker> {
        let control = self.control.clone();
        control.activations.fetch_add(1, Ordering::Relaxed);
        *control.features.lock().unwrap() = activation.features;
        *control.interrupt.lock().unwrap() = Some(activation.interrupt.clone());
        if control.refuse_activation.load(Ordering::Relaxed) {
            return Err(io::Error::other("no threads today"));
        }
        Worker::spawn(
            "echo",
            Box::new(EchoWorker {
                device: *self,
                memory: activation.memory,
                queues: activation.queues,
                interrupt: activation.interrupt,
            }),
        )
    }
}

struct EchoWorker {
    device: Echo,
    memory: Arc<GuestMemory>,
    queues: Vec<ActiveQueue>,
    interrupt: DeviceInterrupt,
}

impl Handler for EchoWorker {
    fn start(&mut self, ops: &mut EventOps) {
        for (data, queue) in (0..).zip(&self.queues) {
            ops.add(Events::with_data(&queue.notify, data, EventSet::IN))
                .unwrap();
        }
    }

    fn process(&mut self, events: Events, _: &mut EventOps) {
        let control = &self.device.control;
        assert!(!control.panic_at_next_event.load(Ordering::Relaxed));
        let active = &mut self.queues[events.data() as usize];
        let _ = EventFd::read(&active.notify);
        let mut chain = Chain::new();
        loop {
            match active.queue.pop(&self.memory, &mut chain) {
                Ok(true) => {}
                Ok(false) => break,
                Err(error) => return self.interrupt.needs_reset(&error),
            }
            let mut data = [0; 64];
            let read = chain.read_at(&self.memory, 0, &mut data);
            let written = chain.write_at(&self.memory, 0, &data[..read]) as u32;
            active
                .queue
                .push_used(&self.memory, chain.head(), written)
                .unwrap();
        }
        active.interrupt.signal();
    }

    fn stop(self: Box<Self>) -> Box<dyn VirtioDevice> {
        let leave = self.device.control.leave_to_stop.lock().unwrap().take();
        if let Some(leave) = leave {
            let _ = leave.recv();
        }
        Box::new(self.device)
    }
}
