//! The thread of a balloon. It sleeps until its driver has something for it or somebody asks.

use std::{
    io,
    os::fd::{AsRawFd, OwnedFd},
    sync::Arc,
    time::Duration,
};

use event_manager::{EventOps, EventSet, Events};
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};

use super::{Balloon, Role, discard::Discard, feature, pages::PageNumbers, statistics::Statistics};
use crate::{
    GuestMemory,
    virtio::{
        Activation, ActiveQueue, DeviceInterrupt, Handler, VirtioDevice,
        queue::{BrokenRing, Chain},
    },
};

/// How long a guest may take for its statistics; who waits is told older ones then.
const PATIENCE: Duration = Duration::from_secs(1);
/// What is done for a queue before it is anybody else's turn, in calls to the host's kernel and in pieces of memory as
/// large as a huge page.
const TURN: u64 = 4096;
const PIECE: u64 = 2 << 20;

/// Tokens; those below are the queues' places in the list.
const WAKE: u32 = 0x10;
const TIMER: u32 = 0x11;

pub(super) struct BalloonWorker {
    device: Balloon,
    memory: Arc<GuestMemory>,
    discard: Discard,
    features: u64,
    queues: Vec<(Role, ActiveQueue)>,
    interrupt: DeviceInterrupt,
    chain: Chain,
    pages: PageNumbers,
    /// The buffer that the driver gets back when statistics are wanted.
    held: Option<u16>,
    timer: OwnedFd,
    /// The timer runs.
    armed: bool,
    /// The log has been told of memory that could not be given back.
    complained: bool,
}

impl BalloonWorker {
    pub(super) fn new(device: Balloon, activation: Activation) -> io::Result<Self> {
        let features = activation.features;
        let queues = activation.queues.into_iter();
        let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
        Ok(Self {
            device,
            discard: Discard::new(activation.memory.clone()),
            memory: activation.memory,
            features,
            queues: queues
                .filter_map(|queue| Some((Role::of(queue.index, features)?, queue)))
                .collect(),
            interrupt: activation.interrupt,
            chain: Chain::new(),
            pages: PageNumbers::default(),
            held: None,
            timer: timerfd_create(TimerfdClockId::Monotonic, flags)?,
            armed: false,
            complained: false,
        })
    }

    fn begin(&mut self, ops: &mut EventOps) -> Result<(), event_manager::Error> {
        let queues = (0..).zip(&self.queues);
        let queues = queues.map(|(n, (_, queue))| (queue.notify.as_raw_fd(), n));
        let own = [
            (self.device.control.woken().as_raw_fd(), WAKE),
            (self.timer.as_raw_fd(), TIMER),
        ];
        for (fd, token) in queues.chain(own) {
            ops.add(Events::with_data_raw(fd, token, EventSet::IN))?;
        }
        Ok(())
    }

    /// Serves the queue at this place.
    fn serve(&mut self, place: usize) -> Result<(), BrokenRing> {
        let Some((role, _)) = self.queues.get(place) else {
            return Ok(());
        };
        match role {
            Role::Statistics => self.take_statistics(place),
            Role::Inflate | Role::Deflate | Role::Reporting => self.take_pages(place),
        }
    }

    /// Takes what the driver has to say of pages.
    fn take_pages(&mut self, place: usize) -> Result<(), BrokenRing> {
        let mut work = 0;
        let mut served = false;
        loop {
            let (role, active) = &mut self.queues[place];
            if work >= TURN {
                // A guest that names pages without end must not keep the thread from all else.
                let _ = active.notify.write(1);
                break;
            }
            if !active.queue.pop(&self.memory, &mut self.chain)? {
                if active.queue.enable_notification(&self.memory)? {
                    continue;
                }
                break;
            }
            work += 1 + match role {
                Role::Inflate => self.inflate(),
                Role::Reporting => self.report(),
                // A page comes back by being touched.
                Role::Deflate | Role::Statistics => 0,
            };
            let (_, active) = &mut self.queues[place];
            active.queue.push_used(&self.memory, self.chain.head(), 0)?;
            served = true;
        }
        let (_, active) = &mut self.queues[place];
        if served && active.queue.needs_interrupt(&self.memory)? {
            active.interrupt.signal();
        }
        Ok(())
    }

    /// Gives pages back that the guest puts into the balloon; says how much work that was.
    fn inflate(&mut self) -> u64 {
        let mut given = 0;
        let mut failed = None;
        for (start, len) in self.pages.ranges(&self.memory, &self.chain) {
            match self.discard.give_back(start, len) {
                Ok(bytes) => given += bytes,
                Err(error) => failed = Some(error),
            }
        }
        self.device.control.count_inflated(given);
        self.complain(failed);
        self.pages.len() as u64
    }

    /// Gives ranges back that the guest reports as free; says how much work that was.
    ///
    /// They read as zero afterwards, so nothing is done for a guest that counts on another value in its free memory
    /// (5.5.6.7.2).
    fn report(&mut self) -> u64 {
        let poisoned = self.features & feature::PAGE_POISON != 0;
        if poisoned && self.device.control.fields().poison_val() != 0 {
            return 0;
        }
        let mut given = 0;
        let mut work = 0;
        let mut failed = None;
        for buffer in self.chain.writable() {
            match self
                .discard
                .give_back(buffer.address.0, u64::from(buffer.len))
            {
                Ok(bytes) => given += bytes,
                Err(error) => failed = Some(error),
            }
            work += 1 + u64::from(buffer.len) / PIECE;
        }
        self.device.control.count_reported(given);
        self.complain(failed);
        work
    }

    /// Says once for each activation that memory is not given back: the guest goes on, and only the host has less.
    fn complain(&mut self, failed: Option<io::Error>) {
        if let Some(error) = failed
            && !std::mem::replace(&mut self.complained, true)
        {
            let device = self.interrupt.name();
            tracing::warn!(device, %error, "guest memory cannot be given back to the host");
        }
    }

    /// Takes a buffer with statistics, and keeps it until there is another question (5.5.6.3).
    fn take_statistics(&mut self, place: usize) -> Result<(), BrokenRing> {
        let (_, active) = &mut self.queues[place];
        let mut came = None;
        let mut served = 0;
        loop {
            if served == active.queue.layout().size {
                let _ = active.notify.write(1);
                break;
            }
            if !active.queue.pop(&self.memory, &mut self.chain)? {
                if active.queue.enable_notification(&self.memory)? {
                    continue;
                }
                break;
            }
            served += 1;
            // There is to be one. A driver that adds more gets all but the last back.
            if let Some(held) = self.held.replace(self.chain.head()) {
                active.queue.push_used(&self.memory, held, 0)?;
            }
            came = Some(Statistics::read(&self.memory, &self.chain));
        }
        if let Some(statistics) = came {
            self.device.control.came(statistics);
            if std::mem::take(&mut self.armed) {
                self.set_timer(Duration::ZERO);
            }
        }
        Ok(())
    }

    /// Tells the driver of a target that was set.
    fn announce(&mut self) {
        if self.device.control.take_wanted() {
            self.interrupt.config_changed();
        }
    }

    /// Gives the driver its buffer back, which is how it is asked.
    fn ask(&mut self) -> Result<(), BrokenRing> {
        if !self.device.control.is_asked() {
            return Ok(());
        }
        let mut queues = self.queues.iter_mut();
        let Some((_, active)) = queues.find(|(role, _)| *role == Role::Statistics) else {
            self.device.control.tell();
            return Ok(());
        };
        // If it has the buffer already, it was asked and has not answered yet.
        if let Some(held) = self.held.take() {
            active.queue.push_used(&self.memory, held, 0)?;
            if active.queue.needs_interrupt(&self.memory)? {
                active.interrupt.signal();
            }
        }
        // Who asks later waits no longer than who has asked first.
        if !std::mem::replace(&mut self.armed, true) {
            self.set_timer(PATIENCE);
        }
        Ok(())
    }

    /// Has the timer expire once after `after`, or not at all if that is zero.
    fn set_timer(&self, after: Duration) {
        let once = Itimerspec {
            it_interval: Timespec::default(),
            it_value: Timespec {
                tv_sec: after.as_secs() as i64,
                tv_nsec: i64::from(after.subsec_nanos()),
            },
        };
        if let Err(error) = timerfd_settime(&self.timer, TimerfdTimerFlags::empty(), &once) {
            tracing::error!(%error, "the balloon's timer cannot be set");
            self.device.control.tell();
        }
    }

    /// The driver has broken a ring: nothing goes on until it resets the device.
    fn give_up(&mut self, why: &dyn std::fmt::Display, ops: &mut EventOps) {
        self.interrupt.needs_reset(why);
        for (_, queue) in &self.queues {
            // One that was never added need not be removed.
            let _ = ops.remove(Events::empty(&queue.notify));
        }
        self.device.control.end_answers();
    }
}

impl Handler for BalloonWorker {
    fn start(&mut self, ops: &mut EventOps) {
        if let Err(error) = self.begin(ops) {
            return self.give_up(&error, ops);
        }
        if self
            .queues
            .iter()
            .any(|(role, _)| *role == Role::Statistics)
        {
            self.device.control.begin_answers();
        }
        // What is there already.
        for place in 0..self.queues.len() {
            if let Err(error) = self.serve(place) {
                return self.give_up(&error, ops);
            }
        }
    }

    fn process(&mut self, events: Events, ops: &mut EventOps) {
        // Level-triggered: taken, or this comes again.
        let done = match events.data() {
            WAKE => {
                // An empty one refuses to be read: a spurious event.
                let _ = self.device.control.woken().read();
                if self.interrupt.is_broken() {
                    return;
                }
                self.announce();
                self.ask()
            }
            TIMER => {
                self.armed = false;
                let _ = rustix::io::read(&self.timer, &mut [0; 8]);
                self.device.control.tell();
                Ok(())
            }
            place => {
                let place = place as usize;
                if let Some((_, queue)) = self.queues.get(place) {
                    queue.take_notifications();
                }
                match self.interrupt.is_broken() {
                    true => Ok(()),
                    false => self.serve(place),
                }
            }
        };
        if let Err(error) = done {
            self.give_up(&error, ops);
        }
    }

    fn stop(self: Box<Self>) -> Box<dyn VirtioDevice> {
        self.device.control.reset();
        Box::new(self.device)
    }
}
