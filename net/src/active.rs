//! The card while its driver uses it: the thread of the first pair, which starts those of the others and serves the
//! control queue.

use std::{collections::BTreeMap, io};

use event_manager::{EventOps, EventSet, Events};
use minivmm_devices::virtio::{Activation, ActiveQueue, Handler, VirtioDevice, Worker};
use virtio_bindings::virtio_net::{VIRTIO_NET_F_CTRL_VQ, VIRTIO_NET_F_MQ};

use crate::{
    control::{Command, Control},
    device::NetDevice,
    features::Features,
    pair::{FREE_TOKEN, Failure, Pair},
    rx::Receiver,
    steering::{Seat, Steering},
    tx::Sender,
};

const CONTROL: u32 = FREE_TOKEN;
const STEERED: u32 = FREE_TOKEN + 1;

/// Commands that are served before other events have their turn.
const COMMANDS: usize = 16;

pub(crate) struct Active {
    device: NetDevice,
    features: Features,
    pair: Pair,
    /// Pairs whose threads are not started yet.
    waiting: Vec<Pair>,
    others: Vec<Worker<()>>,
    control: Option<Control>,
    steering: Steering,
    /// How many pairs the driver has enabled both queues of, up to the first that it has not.
    usable: usize,
    /// A command waits until all pairs have done what it says.
    pending: bool,
}

impl Active {
    pub(crate) fn new(device: NetDevice, activation: Activation) -> io::Result<Self> {
        let features = Features(activation.features);
        let (memory, interrupt) = (activation.memory, activation.interrupt);
        let queues = activation.queues.into_iter();
        let mut queues: BTreeMap<u16, ActiveQueue> = queues.map(|q| (q.index, q)).collect();
        let available = device.tap.queue_count() as u16;
        // Without VIRTIO_NET_F_MQ there is one pair, and the control queue follows it (5.1.2).
        let pairs = match features.has(VIRTIO_NET_F_MQ) {
            true => available,
            false => 1,
        };
        let control = match features.has(VIRTIO_NET_F_CTRL_VQ) {
            true => queues.remove(&(2 * pairs)).map(Control::new),
            false => None,
        };
        let mut steering = Steering::new()?;
        let mut make = |index: u16, seat: Option<Seat>| {
            let tap = device.tap.queue(index.into()).cloned()?;
            let rx = queues.remove(&(2 * index));
            let tx = queues.remove(&(2 * index + 1));
            Some(Pair {
                link: device.link.clone(),
                tap,
                memory: memory.clone(),
                interrupt: interrupt.clone(),
                rx: rx.map(|queue| Receiver::new(queue, features, memory.clone())),
                tx: tx.map(|queue| Sender::new(queue, features)),
                used: seat.is_none(),
                seat,
                watching: false,
            })
        };
        let lacking = || io::Error::other("the tap has no queue");
        let pair = make(0, None).ok_or_else(lacking)?;
        let mut waiting = Vec::new();
        for index in 1..pairs {
            let seat = steering.seat()?;
            waiting.push(make(index, Some(seat)).ok_or_else(lacking)?);
        }
        let all = std::iter::once(&pair).chain(&waiting);
        let usable = all.take_while(|pair| pair.rx.is_some() && pair.tx.is_some());
        Ok(Self {
            usable: usable.count(),
            device,
            features,
            pair,
            waiting,
            others: Vec::new(),
            control,
            steering,
            pending: false,
        })
    }

    fn begin(&mut self, ops: &mut EventOps) -> Result<(), Failure> {
        // A tap that is gone takes no settings, and needs none.
        if !self.device.link.is_dead() {
            let tap = &self.device.tap;
            let set = tap.set_offload(self.features.tun_offload());
            let set = set.and_then(|()| tap.use_first_queue());
            match set {
                Err(error) if error.raw_os_error() == Some(libc::EBADFD) => {
                    self.device.link.die(&error, &self.pair.interrupt);
                }
                result => result.map_err(Failure::Tap)?,
            }
        }
        for (index, pair) in (1..).zip(self.waiting.drain(..)) {
            let name = format!("net{index}-{}", self.device.tap.name());
            let worker = Worker::spawn(&name, Box::new(pair)).map_err(Failure::Thread)?;
            self.others.push(worker);
        }
        if let Some(control) = &self.control {
            ops.add(Events::with_data(
                &control.queue.notify,
                CONTROL,
                EventSet::IN,
            ))?;
            ops.add(Events::with_data(
                self.steering.done(),
                STEERED,
                EventSet::IN,
            ))?;
        }
        self.pair.begin(ops)
    }

    fn serve_control(&mut self, steered: bool) -> Result<(), Failure> {
        let Some(control) = &mut self.control else {
            return Ok(());
        };
        let memory = &self.pair.memory;
        if steered {
            let _ = self.steering.done().read();
            if std::mem::take(&mut self.pending) {
                control.answer(memory, true)?;
            }
        } else {
            control.queue.take_notifications();
        }
        for _ in 0..COMMANDS {
            // The next one when this one is done.
            if self.pending {
                return Ok(());
            }
            match control.next(memory)? {
                None => return Ok(()),
                Some(Command::UsePairs(pairs)) if (1..=self.usable).contains(&pairs) => {
                    // Without another pair nobody would answer.
                    if self.steering.pairs() == 1 {
                        control.answer(memory, true)?;
                    } else {
                        self.steering.set(pairs);
                        self.pending = true;
                    }
                }
                Some(_) => control.answer(memory, false)?,
            }
        }
        let _ = control.queue.notify.write(1);
        Ok(())
    }

    fn leave_control(&mut self, ops: &mut EventOps) {
        if let Some(control) = self.control.take() {
            for (event, token) in [
                (&control.queue.notify, CONTROL),
                (self.steering.done(), STEERED),
            ] {
                // One that was never added need not be removed.
                let _ = ops.remove(Events::with_data(event, token, EventSet::IN));
            }
        }
    }
}

impl Handler for Active {
    fn start(&mut self, ops: &mut EventOps) {
        if let Err(error) = self.begin(ops) {
            self.pair.give_up(&error, ops);
            self.leave_control(ops);
        }
    }

    fn process(&mut self, events: Events, ops: &mut EventOps) {
        let token = events.data();
        if token < FREE_TOKEN {
            return self.pair.serve(token, ops);
        }
        let served = match self.pair.interrupt.is_broken() {
            true => return self.leave_control(ops),
            false => self.serve_control(token == STEERED),
        };
        if let Err(error) = served {
            self.pair.give_up(&error, ops);
            self.leave_control(ops);
        }
    }

    fn stop(mut self: Box<Self>) -> Box<dyn VirtioDevice> {
        for worker in &self.others {
            worker.stop();
        }
        for worker in self.others.drain(..) {
            worker.join();
        }
        // Nothing that this driver has agreed to holds for the next one, or for who is handed the tap.
        let _ = self.device.tap.set_offload(0);
        Box::new(self.device)
    }
}
