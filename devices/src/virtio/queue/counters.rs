//! What has gone through a queue.

use std::sync::atomic::{AtomicU64, Ordering};

/// What has gone through a queue since its device was made. Written by the one thread that serves the queue, in a cache
/// line that no other queue's thread writes to.
#[derive(Debug, Default)]
#[repr(align(64))]
pub struct QueueCounters {
    requests: AtomicU64,
    read_bytes: AtomicU64,
    written_bytes: AtomicU64,
    notifications: AtomicU64,
    interrupts: AtomicU64,
}

/// [`QueueCounters`] at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct QueueCounts {
    /// Chains of buffers that were given back to the driver.
    pub requests: u64,
    /// Bytes of buffers for the device, headers included.
    pub read_bytes: u64,
    /// Bytes that the device wrote, headers included.
    pub written_bytes: u64,
    /// Notifications; those that came before the first of them was looked at count, too.
    pub notifications: u64,
    /// How often the driver was interrupted, or would have been if it had a vector.
    pub interrupts: u64,
}

impl QueueCounters {
    /// The numbers now.
    pub fn read(&self) -> QueueCounts {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        QueueCounts {
            requests: read(&self.requests),
            read_bytes: read(&self.read_bytes),
            written_bytes: read(&self.written_bytes),
            notifications: read(&self.notifications),
            interrupts: read(&self.interrupts),
        }
    }

    pub(super) fn taken(&self, bytes: usize) {
        add(&self.read_bytes, bytes as u64);
    }

    pub(super) fn put_back(&self, bytes: usize) {
        add(&self.read_bytes, (bytes as u64).wrapping_neg());
    }

    pub(super) fn used(&self, written: u32) {
        add(&self.requests, 1);
        add(&self.written_bytes, written.into());
    }

    pub(super) fn interrupted(&self) {
        add(&self.interrupts, 1);
    }

    pub(crate) fn notified(&self, times: u64) {
        add(&self.notifications, times);
    }
}

/// There is one writer, so nothing is lost between the two, and no bus is locked.
fn add(counter: &AtomicU64, n: u64) {
    let sum = counter.load(Ordering::Relaxed).wrapping_add(n);
    counter.store(sum, Ordering::Relaxed);
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::sync::Arc;

    use super::*;
    use crate::{
        test_utils::{DriverQueue, guest_memory},
        virtio::queue::Chain,
    };

    #[test]
    fn what_goes_through_a_queue_is_counted_once() {
        let memory = guest_memory(0x1_0000);
        let driver = DriverQueue::new(&memory, 0x1000, 8);
        let mut queue = driver.queue();
        let counters = Arc::new(QueueCounters::default());
        queue.count_in(counters.clone());
        // 100 bytes to be read, then 50 to be written.
        driver.write_descriptor(0, 0x8000, 100, 1, 1);
        driver.write_descriptor(1, 0x9000, 50, 2, 0);
        driver.publish(0);
        let mut chain = Chain::new();
        assert!(queue.pop(&memory, &mut chain).unwrap());
        queue.undo_pop();
        assert_eq!(counters.read(), QueueCounts::default());
        assert!(queue.pop(&memory, &mut chain).unwrap());
        queue.push_used(&memory, chain.head(), 20).unwrap();
        assert!(queue.needs_interrupt(&memory).unwrap());
        assert!(!queue.needs_interrupt(&memory).unwrap());
        counters.notified(3);
        assert_eq!(
            counters.read(),
            QueueCounts {
                requests: 1,
                read_bytes: 100,
                written_bytes: 20,
                notifications: 3,
                interrupts: 1,
            }
        );
    }
}
