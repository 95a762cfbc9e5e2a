//! How many pairs of queues have work, which the driver says on the control queue (virtio 1.3, 5.1.6.5.6).
//!
//! Each pair puts its own queue of the tap into use or out of it, so that none is taken away under a thread that reads
//! it, and the driver's command is answered when all have done so: from then on no frame comes to a pair beyond
//! (5.1.6.5.6.1).

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

/// What the threads share.
#[derive(Debug)]
struct Shared {
    /// How many pairs are to be used.
    wanted: AtomicUsize,
    /// Seats that have not answered yet.
    open: AtomicUsize,
    done: EventFd,
}

/// The control queue's side.
#[derive(Debug)]
pub(crate) struct Steering {
    shared: Arc<Shared>,
    seats: Vec<Arc<EventFd>>,
}

/// A pair's side.
#[derive(Debug)]
pub(crate) struct Seat {
    shared: Arc<Shared>,
    index: usize,
    event: Arc<EventFd>,
}

impl Steering {
    /// With one pair in use.
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self {
            shared: Arc::new(Shared {
                wanted: AtomicUsize::new(1),
                open: AtomicUsize::new(0),
                done: EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC)?,
            }),
            seats: Vec::new(),
        })
    }

    /// The seat of the next pair after the first.
    pub(crate) fn seat(&mut self) -> io::Result<Seat> {
        let event = Arc::new(EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC)?);
        self.seats.push(event.clone());
        Ok(Seat {
            shared: self.shared.clone(),
            index: self.seats.len(),
            event,
        })
    }

    /// How many pairs there are.
    pub(crate) fn pairs(&self) -> usize {
        self.seats.len() + 1
    }

    /// Has every pair see to its queue; [`done`](Self::done) is readable when all have. Not to be called before that.
    pub(crate) fn set(&self, pairs: usize) {
        self.shared.wanted.store(pairs, Ordering::Release);
        self.shared.open.store(self.seats.len(), Ordering::Release);
        for seat in &self.seats {
            // A full counter is a call that is still to be heard.
            let _ = seat.write(1);
        }
    }

    pub(crate) fn done(&self) -> &EventFd {
        &self.shared.done
    }
}

impl Seat {
    /// Readable when the pair is to look whether it is used.
    pub(crate) fn event(&self) -> &EventFd {
        &self.event
    }

    pub(crate) fn is_used(&self) -> bool {
        let _ = self.event.read();
        self.index < self.shared.wanted.load(Ordering::Acquire)
    }

    /// Says that it has been done.
    pub(crate) fn answer(&self) {
        if self.shared.open.fetch_sub(1, Ordering::AcqRel) == 1 {
            let _ = self.shared.done.write(1);
        }
    }
}
