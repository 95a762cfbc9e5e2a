//! Whether a back end still works on a guest's requests, without being in their way.
//!
//! A back end that is stopped, or hangs, is silent: its connection stays as it is. So while the guest has
//! requests pending, and only then, their progress is looked at every [`EVERY`]. A guest's notification
//! starts this, by way of an epoll on the eventfd that wakes its back end, which is told once and then
//! disarmed until all is quiet again: a busy guest costs one wake-up in [`EVERY`], an idle one none.

use std::{io, time::Duration};

use event_manager::{EventOps, EventSet, Events};
use minivmm_devices::{GuestMemory, virtio::ActiveQueue};
use vmm_sys_util::timerfd::TimerFd;

/// How long a request may lie there without any other being answered before the back end is asked whether
/// it is still there.
pub const EVERY: Duration = Duration::from_secs(2);

/// What a look found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Look {
    /// Nothing is pending.
    Idle,
    /// Something is, and is being worked on.
    Busy,
    /// Something is, and nothing was answered on its queue since the last look.
    Stalled,
}

/// The watch on the queues of an active device.
pub struct Watch {
    timer: TimerFd,
    ticking: bool,
    /// How far the back end had come with each queue at the last look.
    used: Vec<Option<u16>>,
}

impl Watch {
    /// Token of the timer.
    pub const TIMER: u32 = 1;
    /// Token of the first queue's notification.
    const KICK: u32 = 2;

    /// Nothing is watched yet.
    pub fn new() -> io::Result<Self> {
        Ok(Self {
            timer: TimerFd::new()?,
            ticking: false,
            used: Vec::new(),
        })
    }

    /// Waits for the first notification on each of `queues`.
    pub fn begin(
        &mut self,
        queues: &[ActiveQueue],
        ops: &mut EventOps,
    ) -> event_manager::Result<()> {
        ops.add(Events::with_data(&self.timer, Self::TIMER, EventSet::IN))?;
        queues.iter().try_for_each(|queue| ops.add(kick(queue)))
    }

    /// The guest has notified its back end.
    pub fn kicked(&mut self, memory: &GuestMemory, queues: &[ActiveQueue]) -> io::Result<()> {
        if self.ticking {
            return Ok(());
        }
        let used = |queue| indices(memory, queue).map(|(_, used)| used);
        self.used = queues.iter().map(used).collect();
        self.tick()
    }

    /// The timer has expired: has anything got on?
    pub fn look(
        &mut self,
        memory: &GuestMemory,
        queues: &[ActiveQueue],
        ops: &mut EventOps,
    ) -> io::Result<Look> {
        // A timer that was read by nobody would expire for ever.
        self.timer.wait().map_err(io::Error::from)?;
        self.ticking = false;
        let mut look = Look::Idle;
        for (queue, before) in queues.iter().zip(&mut self.used) {
            let now = indices(memory, queue);
            let used = now.map(|(_, used)| used);
            let got_on = std::mem::replace(before, used) != used;
            if now.is_some_and(|(available, used)| available != used) {
                look = look.max(if got_on { Look::Busy } else { Look::Stalled });
            }
        }
        match look {
            // What came meanwhile makes a descriptor that is armed again ready at once.
            Look::Idle => queues
                .iter()
                .try_for_each(|queue| ops.modify(kick(queue)))
                .map_err(io::Error::other)?,
            Look::Busy | Look::Stalled => self.tick()?,
        }
        Ok(look)
    }

    fn tick(&mut self) -> io::Result<()> {
        self.timer.reset(EVERY, None).map_err(io::Error::from)?;
        self.ticking = true;
        Ok(())
    }
}

/// A queue's notification, told once.
fn kick(queue: &ActiveQueue) -> Events {
    let token = Watch::KICK + u32::from(queue.index);
    Events::with_data(&queue.notify, token, EventSet::IN | EventSet::ONE_SHOT)
}

/// How many requests of a queue were made available, and answered, so far. These are the guest's numbers: they
/// are compared and nothing else. A ring that is gone has none.
fn indices(memory: &GuestMemory, active: &ActiveQueue) -> Option<(u16, u16)> {
    active.queue.indices(memory).ok()
}
