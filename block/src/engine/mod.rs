//! What carries operations out on an image: `uring` hands them to the kernel, `threads` does them with plain system calls
//! where that is not permitted.
//!
//! An operation is given away with the memory that it works on and comes back with it when it is done, so nothing that the
//! kernel may still write to is ever freed or used otherwise. Operations are carried out in any order.

mod plain;
mod threads;
mod uring;
mod vectors;

use std::{fs::File, io, os::fd::RawFd, sync::Arc};

pub(crate) use self::vectors::{PAGE, Vectors};
use self::{threads::Threads, uring::Uring};

/// How operations are carried out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EngineKind {
    /// By io_uring if the kernel permits it, else by threads.
    #[default]
    Auto,
    /// By io_uring; an error where it is not permitted.
    IoUring,
    /// By up to [`THREADS`](crate::THREADS) threads for each queue.
    Threads,
}

/// What is done to the image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// Reads into memory.
    Read,
    /// Writes from memory; `stable`: it is done when a power cut does not lose it.
    Write {
        /// See above.
        stable: bool,
    },
    /// Makes what was written before stable.
    Flush,
    /// Gives a range back to the file system; it reads as zeros.
    Punch,
    /// Makes a range zeros without giving it back.
    Zero,
}

/// One thing to do.
pub(crate) struct Operation {
    pub(crate) action: Action,
    /// Where, in bytes.
    pub(crate) offset: u64,
    /// How many bytes a [`Punch`](Action::Punch) or a [`Zero`](Action::Zero) is about.
    pub(crate) len: u64,
    /// The memory of a [`Read`](Action::Read) or a [`Write`](Action::Write).
    pub(crate) vectors: Vectors,
}

/// What has come of an operation.
pub(crate) struct Done {
    /// What it was given under.
    pub(crate) slot: u16,
    pub(crate) operation: Operation,
    /// Bytes that were read or written.
    pub(crate) result: io::Result<u64>,
}

/// Carries operations on one image out for one queue.
pub(crate) enum Engine {
    Uring(Box<Uring>),
    Threads(Threads),
}

impl Engine {
    /// For up to `slots` operations at a time.
    pub(crate) fn new(kind: EngineKind, file: &Arc<File>, slots: u16) -> io::Result<Self> {
        let uring = || Uring::new(file.clone(), slots).map(|ring| Self::Uring(Box::new(ring)));
        let threads = || Threads::new(file.clone()).map(Self::Threads);
        match kind {
            EngineKind::IoUring => uring(),
            EngineKind::Threads => threads(),
            EngineKind::Auto => uring().or_else(|error| {
                tracing::debug!(%error, "no io_uring");
                threads()
            }),
        }
    }

    /// A descriptor that is readable while [`reap`](Self::reap) has something.
    pub(crate) fn fd(&self) -> RawFd {
        match self {
            Self::Uring(engine) => engine.fd(),
            Self::Threads(engine) => engine.fd(),
        }
    }

    /// Takes an operation for the next [`submit`](Self::submit); no other one has this `slot`.
    pub(crate) fn push(&mut self, slot: u16, operation: Operation) {
        match self {
            Self::Uring(engine) => engine.push(slot, operation),
            Self::Threads(engine) => engine.push(slot, operation),
        }
    }

    /// Begins what was pushed. `false`: the host is short of something, so ask again in a while.
    pub(crate) fn submit(&mut self) -> io::Result<bool> {
        match self {
            Self::Uring(engine) => engine.submit(),
            Self::Threads(engine) => engine.submit().map(|()| true),
        }
    }

    /// Adds what is done to `done`.
    pub(crate) fn reap(&mut self, done: &mut Vec<Done>) {
        match self {
            Self::Uring(engine) => engine.reap(done),
            Self::Threads(engine) => engine.reap(done),
        }
    }

    /// Waits for everything that was pushed, and forgets it. `false`: that was not possible, and the engine is of no more
    /// use.
    pub(crate) fn drain(&mut self) -> bool {
        match self {
            Self::Uring(engine) => engine.drain(),
            Self::Threads(engine) => {
                engine.drain();
                true
            }
        }
    }
}

#[cfg(test)]
mod tests;
