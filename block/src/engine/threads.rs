//! Operations by threads, each with plain system calls.

use std::{
    collections::VecDeque,
    fs::File,
    io, mem,
    os::fd::{AsRawFd, RawFd},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread::{self, JoinHandle},
};

use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use super::{Done, Operation, plain::perform};
use crate::THREADS;

/// Threads that wait for operations; there are none before the first one.
pub(crate) struct Threads {
    shared: Arc<Shared>,
    pushed: Vec<(u16, Operation)>,
    threads: Vec<JoinHandle<()>>,
}

struct Shared {
    file: Arc<File>,
    state: Mutex<State>,
    /// There is work, or an end to it.
    work: Condvar,
    /// Something is done.
    finished: Condvar,
    /// The same, for who waits for several things.
    event: EventFd,
}

#[derive(Default)]
struct State {
    waiting: VecDeque<(u16, Operation)>,
    /// Operations that a thread works on.
    running: usize,
    /// Threads that wait for work.
    idle: usize,
    done: Vec<Done>,
    stop: bool,
}

impl Threads {
    pub(super) fn new(file: Arc<File>) -> io::Result<Self> {
        Ok(Self {
            shared: Arc::new(Shared {
                file,
                state: Mutex::default(),
                work: Condvar::new(),
                finished: Condvar::new(),
                event: EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC)?,
            }),
            pushed: Vec::new(),
            threads: Vec::new(),
        })
    }

    pub(super) fn fd(&self) -> RawFd {
        self.shared.event.as_raw_fd()
    }

    pub(super) fn push(&mut self, slot: u16, operation: Operation) {
        self.pushed.push((slot, operation));
    }

    pub(super) fn submit(&mut self) -> io::Result<()> {
        if self.pushed.is_empty() {
            return Ok(());
        }
        let missing = {
            let mut state = self.shared.lock();
            state.waiting.extend(self.pushed.drain(..));
            self.shared.work.notify_all();
            state.waiting.len().saturating_sub(state.idle)
        };
        for _ in 0..missing.min(THREADS - self.threads.len()) {
            match self.spawn() {
                Ok(thread) => self.threads.push(thread),
                // One is enough to go on.
                Err(error) if self.threads.is_empty() => return Err(error),
                Err(_) => break,
            }
        }
        Ok(())
    }

    fn spawn(&self) -> io::Result<JoinHandle<()>> {
        let shared = self.shared.clone();
        let name = format!("blk-io{}", self.threads.len());
        thread::Builder::new()
            .name(name)
            .spawn(move || shared.work())
    }

    pub(super) fn reap(&mut self, done: &mut Vec<Done>) {
        // An empty one refuses to be read; then the answer was taken before the event was.
        let _ = self.shared.event.read();
        done.append(&mut self.shared.lock().done);
    }

    pub(super) fn drain(&mut self) {
        self.pushed.clear();
        let mut state = self.shared.lock();
        // What nobody has begun need not be done.
        state.waiting.clear();
        while state.running > 0 {
            let finished = &self.shared.finished;
            state = finished.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.done.clear();
        let _ = self.shared.event.read();
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        {
            let mut state = self.shared.lock();
            state.waiting.clear();
            state.stop = true;
            self.shared.work.notify_all();
        }
        for thread in mem::take(&mut self.threads) {
            // One that has panicked has said so.
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn work(&self) {
        let mut state = self.lock();
        while !state.stop {
            let Some((slot, operation)) = state.waiting.pop_front() else {
                state.idle += 1;
                state = self
                    .work
                    .wait(state)
                    .unwrap_or_else(PoisonError::into_inner);
                state.idle -= 1;
                continue;
            };
            state.running += 1;
            drop(state);
            let result = perform(&self.file, &operation);
            state = self.lock();
            state.running -= 1;
            state.done.push(Done {
                slot,
                operation,
                result,
            });
            self.finished.notify_all();
            // A full counter is an event that is still to be seen.
            let _ = self.event.write(1);
        }
    }
}
