//! The device while its driver uses it: rings, descriptors and the clock, on one thread.

use std::{
    io,
    os::fd::{AsRawFd, OwnedFd},
    sync::Arc,
    time::{Duration, Instant},
};

use event_manager::{EventOps, EventSet, Events};
use minivmm_devices::{
    GuestMemory,
    virtio::{
        Activation, ActiveQueue, DeviceInterrupt, Handler, VirtioDevice,
        queue::{BrokenRing, Chain},
    },
};
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};

use crate::{
    BUFFER,
    device::VsockDevice,
    hub::Hub,
    packet::{HEADER, Header},
    table::Token,
};

const RX: u32 = 0;
const TX: u32 = 1;
const LISTENER: u32 = 2;
const ANSWERS: u32 = 3;
const TIMER: u32 = 4;

/// Packets of one direction, and clients, that are served before other events have their turn.
const BUDGET: usize = 64;
/// How long nobody is listened to when a client cannot be taken for want of descriptors or memory.
const PAUSE: Duration = Duration::from_secs(1);

pub(crate) struct Active {
    device: VsockDevice,
    memory: Arc<GuestMemory>,
    interrupt: DeviceInterrupt,
    rx: Option<ActiveQueue>,
    tx: Option<ActiveQueue>,
    chain: Chain,
    hub: Hub,
    timer: OwnedFd,
    armed: Option<Instant>,
    /// Until when the listening socket is not watched.
    paused: Option<Instant>,
    /// The guest's packets wait until it has taken some of ours.
    waiting: bool,
    /// A packet's bytes, on their way.
    bytes: Vec<u8>,
}

impl Active {
    pub(crate) fn new(device: VsockDevice, activation: Activation) -> io::Result<Self> {
        let (mut rx, mut tx) = (None, None);
        for queue in activation.queues {
            match queue.index {
                0 => rx = Some(queue),
                1 => tx = Some(queue),
                // Events, of which there are none.
                _ => {}
            }
        }
        let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
        Ok(Self {
            hub: Hub::new(device.rules.clone(), device.question, Instant::now()),
            device,
            memory: activation.memory,
            interrupt: activation.interrupt,
            rx,
            tx,
            chain: Chain::new(),
            timer: timerfd_create(TimerfdClockId::Monotonic, flags)?,
            armed: None,
            paused: None,
            waiting: false,
            bytes: Vec::new(),
        })
    }

    /// The descriptors that are watched as long as the device works.
    fn sources(&self) -> Vec<(i32, u32)> {
        let mut sources = vec![
            (self.device.answers.event().as_raw_fd(), ANSWERS),
            (self.timer.as_raw_fd(), TIMER),
        ];
        sources.extend(self.rx.iter().map(|queue| (queue.notify.as_raw_fd(), RX)));
        sources.extend(self.tx.iter().map(|queue| (queue.notify.as_raw_fd(), TX)));
        if self.paused.is_none() {
            let listener = self.device.listener.iter();
            sources.extend(listener.map(|listener| (listener.as_raw_fd(), LISTENER)));
        }
        sources
    }

    fn begin(&mut self, ops: &mut EventOps) -> Result<(), event_manager::Error> {
        // What was asked before belongs to nobody.
        drop(self.device.answers.take());
        for (fd, token) in self.sources() {
            ops.add(Events::with_data_raw(fd, token, EventSet::IN))?;
        }
        Ok(())
    }

    /// The driver has broken a ring: nothing goes on until it resets the device.
    fn give_up(&mut self, why: &dyn std::fmt::Display, ops: &mut EventOps) {
        self.interrupt.needs_reset(why);
        for (fd, token) in self.sources() {
            // One that was never added need not be removed.
            let _ = ops.remove(Events::with_data_raw(fd, token, EventSet::IN));
        }
        self.hub.close();
        self.watch(ops);
    }

    /// Takes packets from the guest.
    fn serve_tx(&mut self, now: Instant) -> Result<(), BrokenRing> {
        let Some(active) = &mut self.tx else {
            return Ok(());
        };
        let (ring, memory) = (&mut active.queue, &*self.memory);
        let mut served = 0;
        ring.disable_notification(memory)?;
        loop {
            self.waiting = !self.hub.can_receive();
            if self.waiting {
                break;
            }
            if served == BUDGET {
                // A guest that adds as fast as we take must not keep the thread from all others.
                let _ = active.notify.write(1);
                break;
            }
            if !ring.pop(memory, &mut self.chain)? {
                if ring.enable_notification(memory)? {
                    continue;
                }
                break;
            }
            served += 1;
            let mut header = [0; HEADER];
            if self.chain.read_at(memory, 0, &mut header) == HEADER {
                let header = Header::from_bytes(&header);
                let present = self.chain.readable_len() - HEADER;
                if header.len > BUFFER || header.len as usize > present {
                    self.hub.malformed(&header);
                } else {
                    let bytes = room_for(&mut self.bytes, header.len as usize);
                    let read = self.chain.read_at(memory, HEADER, bytes);
                    self.hub.receive(now, &header, &bytes[..read]);
                }
            } else {
                self.hub
                    .complain("a packet that is shorter than its header");
            }
            ring.push_used(memory, self.chain.head(), 0)?;
        }
        if served > 0 && ring.needs_interrupt(memory)? {
            active.interrupt.signal();
        }
        Ok(())
    }

    /// Gives packets to the guest.
    fn serve_rx(&mut self) -> Result<(), BrokenRing> {
        let Some(active) = &mut self.rx else {
            return Ok(());
        };
        let (ring, memory) = (&mut active.queue, &*self.memory);
        let mut served = 0;
        ring.disable_notification(memory)?;
        while self.hub.may_have_packet() {
            if served == BUDGET {
                let _ = active.notify.write(1);
                break;
            }
            if !ring.pop(memory, &mut self.chain)? {
                if ring.enable_notification(memory)? {
                    continue;
                }
                break;
            }
            let Some(room) = self.chain.writable_len().checked_sub(HEADER) else {
                // It can hold no packet, ever: back to the driver with it.
                ring.push_used(memory, self.chain.head(), 0)?;
                served += 1;
                continue;
            };
            let bytes = room_for(&mut self.bytes, room.min(BUFFER as usize));
            let Some(header) = self.hub.next_packet(bytes) else {
                ring.undo_pop();
                break;
            };
            let len = header.len as usize;
            self.chain.write_at(memory, 0, &header.to_bytes());
            self.chain.write_at(memory, HEADER, &bytes[..len]);
            ring.push_used(memory, self.chain.head(), HEADER as u32 + header.len)?;
            served += 1;
        }
        if served > 0 && ring.needs_interrupt(memory)? {
            active.interrupt.signal();
        }
        if let Some(tx) = &self.tx
            && self.waiting
            && self.hub.can_receive()
        {
            let _ = tx.notify.write(1);
        }
        Ok(())
    }

    /// Takes programs of the host that want something.
    fn accept(&mut self, now: Instant, ops: &mut EventOps) {
        let Some(listener) = &self.device.listener else {
            return;
        };
        for _ in 0..BUDGET {
            match listener.accept() {
                Ok((stream, _)) => self.hub.accept(now, stream),
                Err(error) => match error.kind() {
                    io::ErrorKind::WouldBlock => return,
                    io::ErrorKind::Interrupted | io::ErrorKind::ConnectionAborted => {}
                    _ => {
                        // The client stays there, and would wake us without end.
                        tracing::warn!(%error, "vsock: a client cannot be taken");
                        let _ = ops.remove(Events::empty(listener));
                        self.paused = Some(now + PAUSE);
                        return;
                    }
                },
            }
        }
    }

    /// The clock: streams that took too long, and a listening socket that rests.
    fn on_time(&mut self, now: Instant, ops: &mut EventOps) {
        self.hub.expire(now);
        if self.paused.is_some_and(|until| now >= until)
            && let Some(listener) = &self.device.listener
        {
            self.paused = None;
            if let Err(error) = ops.add(Events::with_data(listener, LISTENER, EventSet::IN)) {
                tracing::error!(%error, "vsock: nobody is listened to any more");
            }
        }
    }

    /// Has the event loop watch the streams for what they are to be watched for now.
    fn watch(&mut self, ops: &mut EventOps) {
        for token in self.hub.take_changed() {
            let Some((wanted, stream)) = self.hub.interest(token) else {
                continue;
            };
            let Token(data) = token;
            let fd = stream.fd();
            let events = |set| Events::with_data_raw(fd, data, set);
            let done = match (stream.watched.map(|(_, set)| set), wanted) {
                (None, None) => continue,
                (None, Some(set)) => ops.add(events(set)),
                (Some(_), None) => ops.remove(Events::empty_raw(fd)),
                (Some(_), Some(set)) if stream.watched == Some((data, set)) => continue,
                (Some(_), Some(set)) => ops.modify(events(set)),
            };
            stream.watched = wanted.map(|set| (data, set));
            if let Err(error) = done {
                tracing::error!(%error, "vsock: a stream cannot be watched");
                stream.watched = None;
                self.hub.lose(token);
            }
        }
        for stream in self.hub.take_closed() {
            if stream.watched.is_some() {
                let _ = ops.remove(Events::empty_raw(stream.fd()));
            }
        }
    }

    /// Sets the clock, if it is to ring at another time. Without anything to wait for it does not.
    fn arm(&mut self) {
        let wanted = [self.hub.deadline(), self.paused];
        let wanted = wanted.into_iter().flatten().min();
        if wanted == self.armed {
            return;
        }
        self.armed = wanted;
        let left = wanted.map_or(Duration::ZERO, |wanted| {
            // Zero would be never.
            let left = wanted.saturating_duration_since(Instant::now());
            left.max(Duration::from_nanos(1))
        });
        let zero = Timespec::default();
        let value = Itimerspec {
            it_interval: zero,
            it_value: Timespec::try_from(left).unwrap_or(zero),
        };
        if let Err(error) = timerfd_settime(&self.timer, TimerfdTimerFlags::empty(), &value) {
            tracing::error!(%error, "vsock: the clock cannot be set");
        }
    }
}

/// So many bytes of a buffer that only grows.
fn room_for(bytes: &mut Vec<u8>, len: usize) -> &mut [u8] {
    if bytes.len() < len {
        bytes.resize(len, 0);
    }
    &mut bytes[..len]
}

impl Handler for Active {
    fn start(&mut self, ops: &mut EventOps) {
        if let Err(error) = self.begin(ops) {
            return self.give_up(&error, ops);
        }
        // A driver may have added packets before it was DRIVER_OK.
        if let Some(tx) = &self.tx {
            let _ = tx.notify.write(1);
        }
    }

    fn process(&mut self, events: Events, ops: &mut EventOps) {
        let now = Instant::now();
        let served = match events.data() {
            RX => {
                if let Some(queue) = &self.rx {
                    queue.take_notifications();
                }
                Ok(())
            }
            TX => {
                if let Some(queue) = &self.tx {
                    queue.take_notifications();
                }
                self.serve_tx(now)
            }
            LISTENER => {
                self.accept(now, ops);
                Ok(())
            }
            ANSWERS => {
                self.hub.answered(self.device.answers.take());
                Ok(())
            }
            TIMER => {
                let _ = rustix::io::read(&self.timer, &mut [0; 8]);
                self.armed = None;
                self.on_time(now, ops);
                Ok(())
            }
            token => {
                self.hub.on_events(now, Token(token), events.event_set());
                Ok(())
            }
        };
        if let Err(error) = served.and_then(|()| self.serve_rx()) {
            return self.give_up(&error, ops);
        }
        self.watch(ops);
        self.arm();
    }

    fn stop(mut self: Box<Self>) -> Box<dyn VirtioDevice> {
        self.device.question = self.hub.question();
        Box::new(self.device)
    }
}
