//! The thread on which an activated device runs: one event loop, ended by an eventfd.

use std::{
    convert::Infallible,
    io,
    sync::mpsc::{self, RecvTimeoutError},
    thread::{self, JoinHandle},
    time::Instant,
};

use event_manager::{EventManager, EventOps, EventSet, Events, MutEventSubscriber, SubscriberOps};
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use super::VirtioDevice;

/// Token of the stop event; a [`Handler`]'s own tokens are below it.
const STOP: u32 = u32::MAX;

/// What a device does on its worker thread. `T` is what it gives back in the end: the device, or nothing for a
/// further thread of a device that has several.
pub trait Handler<T = Box<dyn VirtioDevice>>: Send + 'static {
    /// Runs first, on the worker thread: registers its eventfds with tokens of its choice below
    /// `u32::MAX` and may talk to a back end.
    fn start(&mut self, ops: &mut EventOps);

    /// An event that [`start`](Self::start) registered.
    fn process(&mut self, events: Events, ops: &mut EventOps);

    /// Ends the work and gives the device back, ready for another activation.
    fn stop(self: Box<Self>) -> T;
}

struct Loop<T> {
    handler: Box<dyn Handler<T>>,
    stop: EventFd,
    stopped: bool,
}

impl<T: 'static> MutEventSubscriber for Loop<T> {
    fn init(&mut self, ops: &mut EventOps) {
        if let Err(error) = ops.add(Events::with_data(&self.stop, STOP, EventSet::IN)) {
            // Without its stop event the thread could not be ended: do not begin.
            tracing::error!(%error, "cannot watch a device worker's stop event");
            self.stopped = true;
            return;
        }
        self.handler.start(ops);
    }

    fn process(&mut self, events: Events, ops: &mut EventOps) {
        if events.data() == STOP {
            self.stopped = true;
        } else {
            self.handler.process(events, ops);
        }
    }
}

/// A running device worker. Dropping it asks it to end.
#[derive(Debug)]
pub struct Worker<T = Box<dyn VirtioDevice>> {
    stop: StopEvent,
    /// Never receives: its other end is dropped when the thread ends.
    ended: mpsc::Receiver<Infallible>,
    thread: JoinHandle<Option<T>>,
}

#[derive(Debug)]
struct StopEvent(EventFd);

impl StopEvent {
    fn signal(&self) {
        // A full counter is a stop that was asked for already.
        let _ = self.0.write(1);
    }
}

impl Drop for StopEvent {
    fn drop(&mut self) {
        self.signal();
    }
}

impl<T: Send + 'static> Worker<T> {
    /// Starts `handler` on a thread called `name` (15 bytes are visible to the system).
    pub fn spawn(name: &str, handler: Box<dyn Handler<T>>) -> io::Result<Self> {
        let stop = EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC)?;
        let seen = stop.try_clone()?;
        let (alive, ended) = mpsc::channel();
        let mut events = EventManager::new().map_err(io::Error::other)?;
        let thread = thread::Builder::new()
            // A name with a NUL in it would make the spawn panic.
            .name(name.replace('\0', ""))
            .spawn(move || {
                let _alive = alive;
                let id = events.add_subscriber(Loop {
                    handler,
                    stop: seen,
                    stopped: false,
                });
                while events.subscriber_mut(id).is_ok_and(|state| !state.stopped) {
                    // A signal to the thread (a debugger's, a profiler's) is no error here.
                    if let Err(error) = events.run() {
                        tracing::error!(%error, "a device worker's event loop failed");
                        break;
                    }
                }
                let state = events.remove_subscriber(id).ok()?;
                Some(state.handler.stop())
            })?;
        Ok(Self {
            stop: StopEvent(stop),
            ended,
            thread,
        })
    }

    /// Asks the worker to end; returns at once.
    pub fn stop(&self) {
        self.stop.signal();
    }

    /// Whether the worker has ended, so that [`join`](Self::join) does not wait.
    pub fn is_finished(&self) -> bool {
        self.thread.is_finished()
    }

    /// Waits until `deadline` for the worker's end; `false` when it has not ended then.
    pub fn wait(&self, deadline: Instant) -> bool {
        let left = deadline.saturating_duration_since(Instant::now());
        self.ended.recv_timeout(left) == Err(RecvTimeoutError::Disconnected)
    }

    /// Waits for the worker's end and gives the device back; `None` if the worker failed.
    pub fn join(self) -> Option<T> {
        self.thread.join().ok().flatten()
    }
}

#[cfg(test)]
mod tests;
