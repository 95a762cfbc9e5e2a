//! A queue while its driver uses it: the work of one thread.

use std::{io, os::fd::AsRawFd, sync::Arc};

use event_manager::{EventOps, EventSet, Events};
use minivmm_devices::{
    GuestMemory,
    virtio::{
        ActiveQueue, DeviceInterrupt, Handler,
        queue::{BrokenRing, Chain},
    },
};
use virtio_bindings::virtio_blk::{
    VIRTIO_BLK_F_FLUSH, VIRTIO_BLK_S_IOERR, VIRTIO_BLK_S_OK, VIRTIO_BLK_S_UNSUPP,
};
use vm_memory::Bytes;

use crate::{
    QUEUE_SIZE, SERIAL_MAX,
    disk::Disk,
    engine::{Done, Engine},
    failure::Failure,
    request::{self, Refusal, Rules, Wish},
    slot::{Answer, Slot, Step},
    timer::Timer,
};

const NOTIFY: u32 = 0;
const ENGINE: u32 = 1;
const TIMER: u32 = 2;

/// Requests that are taken before other events have their turn.
const BUDGET: u16 = 256;
/// A queue at work.
pub(crate) struct Lane {
    disk: Arc<Disk>,
    rules: Rules,
    /// Every write is stable when it is answered, because the driver does not flush (5.2.6.2).
    writethrough: bool,
    memory: Arc<GuestMemory>,
    pub(crate) interrupt: DeviceInterrupt,
    queue: ActiveQueue,
    engine: Engine,
    /// Made as they are needed, up to [`QUEUE_SIZE`].
    slots: Vec<Slot>,
    free: Vec<u16>,
    /// Slots whose next operation waits for room on the host.
    held: Vec<u16>,
    chain: Chain,
    done: Vec<Done>,
    timer: Timer,
    gone: bool,
}

impl Lane {
    pub(crate) fn new(
        disk: Arc<Disk>,
        features: u64,
        memory: Arc<GuestMemory>,
        interrupt: DeviceInterrupt,
        queue: ActiveQueue,
        engine: Engine,
    ) -> io::Result<Self> {
        Ok(Self {
            rules: Rules {
                size: disk.size,
                read_only: disk.read_only,
                unit: disk.direct.map_or(crate::SECTOR, u64::from),
                features,
            },
            writethrough: features & 1 << VIRTIO_BLK_F_FLUSH == 0,
            disk,
            memory,
            interrupt,
            queue,
            engine,
            slots: Vec::new(),
            free: Vec::new(),
            held: Vec::new(),
            chain: Chain::new(),
            done: Vec::new(),
            timer: Timer::new()?,
            gone: false,
        })
    }

    fn sources(&self) -> [(i32, u32); 3] {
        [
            (self.queue.notify.as_raw_fd(), NOTIFY),
            (self.engine.fd(), ENGINE),
            (self.timer.as_raw_fd(), TIMER),
        ]
    }

    /// Registers its events, and serves what is there.
    pub(crate) fn begin(&mut self, ops: &mut EventOps) {
        let begun = self
            .sources()
            .into_iter()
            .try_for_each(|(fd, token)| ops.add(Events::with_data_raw(fd, token, EventSet::IN)));
        let begun = begun.map_err(Failure::from).and_then(|()| self.turn());
        if let Err(error) = begun {
            self.give_up(&error, ops);
        }
    }

    /// Serves one of its events.
    pub(crate) fn serve(&mut self, token: u32, ops: &mut EventOps) {
        // It also is another lane that finds a broken ring.
        if self.interrupt.is_broken() {
            return self.leave(ops);
        }
        let mut tried = Ok(());
        match token {
            NOTIFY => self.queue.take_notifications(),
            TIMER => tried = self.try_again(),
            _ => {}
        }
        if let Err(error) = tried.and_then(|()| self.turn()) {
            self.give_up(&error, ops);
        }
    }

    /// Leaves the queue alone until a reset.
    pub(crate) fn give_up(&mut self, why: &Failure, ops: &mut EventOps) {
        self.interrupt.needs_reset(why);
        self.leave(ops);
    }

    fn leave(&mut self, ops: &mut EventOps) {
        if !std::mem::replace(&mut self.gone, true) {
            for (fd, token) in self.sources() {
                // One that was never added need not be removed.
                let _ = ops.remove(Events::with_data_raw(fd, token, EventSet::IN));
            }
        }
    }

    /// Waits for what is on its way, and gives the engine back if it can be used again. What the driver has no answer to it
    /// has to ask again.
    pub(crate) fn end(mut self) -> Option<Engine> {
        let is_usable = self.engine.drain();
        let waiting = self.slots.iter().filter(|slot| slot.waiting).count();
        self.disk.end_waiting(waiting as u64, false);
        is_usable.then_some(self.engine)
    }

    /// Takes requests and answers what is done, until there is nothing to do or others have to have their turn.
    fn turn(&mut self) -> Result<(), Failure> {
        let mut budget = BUDGET;
        self.queue.queue.disable_notification(&self.memory)?;
        loop {
            let taken = self.accept(&mut budget)?;
            let begun = self.engine.submit().map_err(Failure::Engine)?;
            let finished = self.finish()?;
            self.queue.queue.publish_used(&self.memory)?;
            if !begun || !self.held.is_empty() {
                self.timer.arm()?;
            }
            if budget == 0 {
                // A guest that adds as fast as we answer must not keep the thread from its stop event.
                let _ = self.queue.notify.write(1);
                break;
            }
            if !taken && !finished {
                break;
            }
        }
        if self.queue.queue.needs_interrupt(&self.memory)? {
            self.queue.interrupt.signal();
        }
        Ok(())
    }

    /// Takes requests, as many as there are slots for; says whether there were any.
    fn accept(&mut self, budget: &mut u16) -> Result<bool, Failure> {
        let mut any = false;
        while *budget > 0
            && let Some(index) = self.free_slot()
        {
            if !self.queue.queue.pop(&self.memory, &mut self.chain)? {
                self.free.push(index);
                if self.queue.queue.enable_notification(&self.memory)? {
                    // One came in between.
                    continue;
                }
                break;
            }
            any = true;
            *budget -= 1;
            self.start(index)?;
        }
        Ok(any)
    }

    fn free_slot(&mut self) -> Option<u16> {
        self.free.pop().or_else(|| {
            // No more than 128.
            let index = self.slots.len() as u16;
            (index < QUEUE_SIZE).then(|| {
                self.slots.push(Slot::new(self.memory.clone()));
                index
            })
        })
    }

    /// Begins the request that was taken.
    fn start(&mut self, index: u16) -> Result<(), Failure> {
        let status = request::status(&self.chain)?;
        let slot = &mut self.slots[usize::from(index)];
        slot.begin(self.chain.head(), status);
        let wish = request::read(
            &self.chain,
            &self.memory,
            &self.rules,
            &mut slot.data,
            &mut slot.ranges,
        );
        match wish {
            Ok(wish) => {
                slot.wish = wish;
                slot.writethrough = self.writethrough;
                if wish == Wish::Id {
                    self.chain.write_at(&self.memory, 0, &self.disk.serial);
                }
                self.go_on(index)
            }
            Err(refusal) => {
                let status = match refusal {
                    Refusal::Error => VIRTIO_BLK_S_IOERR,
                    Refusal::Unsupported => VIRTIO_BLK_S_UNSUPP,
                };
                self.disk.refused();
                // How much before the status is written is not said: nothing was.
                let written = u32::from(self.chain.writable_len() == 1);
                self.answer(index, status, written)
            }
        }
    }

    /// Takes the next step of a request.
    fn go_on(&mut self, index: u16) -> Result<(), Failure> {
        let slot = &mut self.slots[usize::from(index)];
        let step = slot.step(&self.disk, &self.memory);
        self.do_step(index, step)
    }

    fn do_step(&mut self, index: u16, step: Step) -> Result<(), Failure> {
        let slot = &mut self.slots[usize::from(index)];
        match step {
            Step::Do(operation) => {
                self.engine.push(index, operation);
                Ok(())
            }
            Step::Wait => {
                if !std::mem::replace(&mut slot.waiting, true) {
                    self.disk.begin_waiting();
                }
                self.held.push(index);
                Ok(())
            }
            Step::Answer(answer) => {
                if slot.stop_waiting() {
                    self.disk.end_waiting(1, answer == Answer::Done);
                }
                let (into, status) = match (slot.wish, answer) {
                    (Wish::Read { len, .. }, Answer::Done) => (len as u32, VIRTIO_BLK_S_OK),
                    (Wish::Id, Answer::Done) => (SERIAL_MAX as u32, VIRTIO_BLK_S_OK),
                    (_, Answer::Done) => (0, VIRTIO_BLK_S_OK),
                    (_, Answer::Failed) => (0, VIRTIO_BLK_S_IOERR),
                };
                match answer {
                    Answer::Done => slot.count(&self.disk),
                    Answer::Failed => self.disk.refused(),
                }
                let unread = matches!(slot.wish, Wish::Read { .. }) && answer == Answer::Failed;
                self.answer(
                    index,
                    status,
                    if unread { 0 } else { into.saturating_add(1) },
                )
            }
        }
    }

    /// Answers a request, of whose writable part the first `written` bytes are written now.
    fn answer(&mut self, index: u16, status: u32, written: u32) -> Result<(), Failure> {
        let slot = &self.slots[usize::from(index)];
        self.memory
            .write_obj(status as u8, slot.status)
            .map_err(|_| BrokenRing::Unreachable)?;
        let ring = &mut self.queue.queue;
        ring.write_used(&self.memory, slot.head, written)?;
        self.free.push(index);
        Ok(())
    }

    /// Goes on with what the engine is done with; says whether there was anything.
    fn finish(&mut self) -> Result<bool, Failure> {
        let mut done = std::mem::take(&mut self.done);
        self.engine.reap(&mut done);
        let any = !done.is_empty();
        let mut result = Ok(());
        for Done {
            slot: index,
            operation,
            result: outcome,
        } in done.drain(..)
        {
            if result.is_err() {
                continue;
            }
            let slot = &mut self.slots[usize::from(index)];
            result = match slot.take(operation, outcome, &self.disk, &self.memory) {
                Some(step) => self.do_step(index, step),
                None => self.go_on(index),
            };
        }
        self.done = done;
        result.map(|()| any)
    }

    /// Tries what waits for the host again.
    fn try_again(&mut self) -> Result<(), Failure> {
        self.timer.take();
        let held = std::mem::take(&mut self.held);
        held.into_iter().try_for_each(|index| self.go_on(index))
    }
}

/// A lane with a thread of its own: all but the first.
impl Handler<Option<Engine>> for Lane {
    fn start(&mut self, ops: &mut EventOps) {
        self.begin(ops);
    }

    fn process(&mut self, events: Events, ops: &mut EventOps) {
        self.serve(events.data(), ops);
    }

    fn stop(self: Box<Self>) -> Option<Engine> {
        self.end()
    }
}
