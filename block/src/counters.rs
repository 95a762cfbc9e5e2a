//! What has gone through a disk.

use std::sync::atomic::{AtomicU64, Ordering};

/// What has gone through a disk since it was made.
#[derive(Debug, Default)]
pub struct Counters {
    pub(crate) reads: AtomicU64,
    pub(crate) read_bytes: AtomicU64,
    pub(crate) writes: AtomicU64,
    pub(crate) written_bytes: AtomicU64,
    pub(crate) flushes: AtomicU64,
    pub(crate) discards: AtomicU64,
    pub(crate) errors: AtomicU64,
    pub(crate) waiting: AtomicU64,
}

/// [`Counters`] at one moment. A request counts when it is answered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Reads that succeeded.
    pub reads: u64,
    /// Their bytes.
    pub read_bytes: u64,
    /// Writes that succeeded.
    pub writes: u64,
    /// Their bytes.
    pub written_bytes: u64,
    /// Flushes that succeeded.
    pub flushes: u64,
    /// Discards and writes of zeros that succeeded.
    pub discards: u64,
    /// Requests that were answered with an error, whoever's fault it was.
    pub errors: u64,
    /// Requests that wait now because the host has no room for what they write.
    pub waiting: u64,
}

impl Counters {
    /// The numbers now.
    pub fn read(&self) -> Counts {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Counts {
            reads: read(&self.reads),
            read_bytes: read(&self.read_bytes),
            writes: read(&self.writes),
            written_bytes: read(&self.written_bytes),
            flushes: read(&self.flushes),
            discards: read(&self.discards),
            errors: read(&self.errors),
            waiting: read(&self.waiting),
        }
    }
}

pub(crate) fn add(counter: &AtomicU64, n: u64) {
    counter.fetch_add(n, Ordering::Relaxed);
}
