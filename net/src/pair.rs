//! A receive and a transmit queue with their queue of the tap: the work of one thread.

use std::{fs::File, io, sync::Arc};

use event_manager::{EventOps, EventSet, Events};
use minivmm_devices::{
    GuestMemory,
    virtio::{DeviceInterrupt, Handler, queue::BrokenRing},
};

use crate::{
    device::Link,
    rx::{Receiver, Turn},
    steering::Seat,
    tap::use_queue,
    tx::Sender,
};

/// Frames that one direction moves before it interrupts and the other has its turn.
pub(crate) const BUDGET: u16 = 64;

/// Tokens of a pair's events.
const TAP: u32 = 0;
const RX_NOTIFY: u32 = 1;
const TX_NOTIFY: u32 = 2;
const SEAT: u32 = 3;
/// The first token that is free for others.
pub(crate) const FREE_TOKEN: u32 = 4;

/// A pair while the driver uses its card.
pub(crate) struct Pair {
    pub(crate) link: Arc<Link>,
    pub(crate) tap: Arc<File>,
    pub(crate) memory: Arc<GuestMemory>,
    pub(crate) interrupt: DeviceInterrupt,
    pub(crate) rx: Option<Receiver>,
    pub(crate) tx: Option<Sender>,
    /// Whether frames are steered to it; without one they always are.
    pub(crate) seat: Option<Seat>,
    /// The tap gives it frames.
    pub(crate) used: bool,
    /// Whether the tap is watched: not while the driver has no buffers, or it would wake us for nothing.
    pub(crate) watching: bool,
}

/// What ends an activation.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    #[error(transparent)]
    Ring(#[from] BrokenRing),
    #[error("cannot watch a file: {0}")]
    Events(#[from] event_manager::Error),
    #[error("cannot start a thread for a pair of queues: {0}")]
    Thread(io::Error),
    #[error("cannot set up the tap: {0}")]
    Tap(io::Error),
}

impl Pair {
    /// Registers its events.
    pub(crate) fn begin(&mut self, ops: &mut EventOps) -> Result<(), Failure> {
        if let Some(rx) = &self.rx {
            ops.add(Events::with_data(&rx.queue.notify, RX_NOTIFY, EventSet::IN))?;
        }
        if let Some(tx) = &self.tx {
            ops.add(Events::with_data(&tx.queue.notify, TX_NOTIFY, EventSet::IN))?;
        }
        if let Some(seat) = &self.seat {
            ops.add(Events::with_data(seat.event(), SEAT, EventSet::IN))?;
        }
        self.watch(true, ops)
    }

    /// Serves one of its events.
    pub(crate) fn serve(&mut self, token: u32, ops: &mut EventOps) {
        // It also is another thread that finds a broken ring.
        let served = match self.interrupt.is_broken() && token != SEAT {
            true => return self.leave_queues(ops),
            false => self.work(token, ops),
        };
        if let Err(error) = served {
            self.give_up(&error, ops);
        }
    }

    /// Leaves the queues alone until a reset.
    pub(crate) fn give_up(&mut self, why: &Failure, ops: &mut EventOps) {
        self.interrupt.needs_reset(why);
        self.leave_queues(ops);
    }

    fn leave_queues(&mut self, ops: &mut EventOps) {
        let rx = self.rx.take().map(|rx| (rx.queue.notify, RX_NOTIFY));
        let tx = self.tx.take().map(|tx| (tx.queue.notify, TX_NOTIFY));
        for (notify, token) in rx.into_iter().chain(tx) {
            // One that was never added need not be removed.
            let _ = ops.remove(Events::with_data(&notify, token, EventSet::IN));
        }
        let _ = self.watch(false, ops);
    }

    fn work(&mut self, token: u32, ops: &mut EventOps) -> Result<(), Failure> {
        match token {
            TAP => match self.receive()? {
                Turn::Over => {}
                Turn::NoBuffer => self.watch(false, ops)?,
                Turn::Gone(error) => {
                    self.link.die(&error, &self.interrupt);
                    self.watch(false, ops)?;
                }
            },
            RX_NOTIFY => {
                if let Some(rx) = &self.rx {
                    rx.queue.take_notifications();
                    self.watch(true, ops)?;
                }
            }
            TX_NOTIFY => self.send()?,
            SEAT => self.take_seat(ops)?,
            _ => {}
        }
        Ok(())
    }

    fn receive(&mut self) -> Result<Turn, BrokenRing> {
        match &mut self.rx {
            Some(rx) => rx.turn(&self.tap, &self.memory, &self.link.counters),
            None => Ok(Turn::Over),
        }
    }

    fn send(&mut self) -> Result<(), BrokenRing> {
        let Some(tx) = &mut self.tx else {
            return Ok(());
        };
        tx.queue.take_notifications();
        let tap = (self.used && !self.link.is_dead()).then_some(&*self.tap);
        if let Some(error) = tx.turn(tap, &self.memory, &self.link.counters)? {
            self.link.die(&error, &self.interrupt);
        }
        Ok(())
    }

    /// Puts the tap's queue into use, or takes it out, as the driver has said to the control queue.
    fn take_seat(&mut self, ops: &mut EventOps) -> Result<(), Failure> {
        let Some(seat) = &self.seat else {
            return Ok(());
        };
        let used = seat.is_used();
        let done = if used == self.used {
            Ok(())
        } else {
            self.use_queue(used, ops)
        };
        // Whatever came of it, the driver waits for an answer.
        if let Some(seat) = &self.seat {
            seat.answer();
        }
        done
    }

    fn use_queue(&mut self, used: bool, ops: &mut EventOps) -> Result<(), Failure> {
        if !used {
            // The kernel says of a queue out of use that it is broken.
            self.watch(false, ops)?;
        }
        if !self.link.is_dead() {
            use_queue(&self.tap, used).map_err(Failure::Tap)?;
        }
        self.used = used;
        if used {
            self.watch(true, ops)?;
        }
        Ok(())
    }

    fn watch(&mut self, watch: bool, ops: &mut EventOps) -> Result<(), Failure> {
        let watch = watch && self.used && self.rx.is_some() && !self.link.is_dead();
        let events = Events::with_data(&*self.tap, TAP, EventSet::IN);
        if watch && !self.watching {
            ops.add(events)?;
        } else if !watch && self.watching {
            ops.remove(events)?;
        }
        self.watching = watch;
        Ok(())
    }
}

/// A pair with a thread of its own: all but the first.
impl Handler<()> for Pair {
    fn start(&mut self, ops: &mut EventOps) {
        if let Err(error) = self.begin(ops) {
            self.give_up(&error, ops);
        }
    }

    fn process(&mut self, events: Events, ops: &mut EventOps) {
        self.serve(events.data(), ops);
    }

    fn stop(self: Box<Self>) {}
}
