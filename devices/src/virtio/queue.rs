//! Taking buffers out of a split virtqueue whose driver is not trusted (virtio 1.3, 2.7).
//!
//! The ring is ours and not a library's for two reasons. Every rule that a driver can break is a
//! [`BrokenRing`], after which a device says [`needs_reset`](super::DeviceInterrupt::needs_reset) and
//! leaves its queues alone; a walk that ends silently at the first malformed descriptor could not be told
//! from a short request. And a device may write several used entries and move the used index over them at
//! once, as the network card must for one frame in several chains (5.1.6.4).
//!
//! A walk ends after a bounded number of descriptors, and a [`Chain`] is reused, so the data path does not
//! allocate.
//!
//! ```no_run
//! # use minivmm_devices::{GuestMemory, virtio::queue::{BrokenRing, Chain, Queue}};
//! # fn work(queue: &mut Queue, memory: &GuestMemory, chain: &mut Chain) -> Result<bool, BrokenRing> {
//! loop {
//!     queue.disable_notification(memory)?;
//!     while queue.pop(memory, chain)? {
//!         let written = 0; // serve the request
//!         queue.push_used(memory, chain.head(), written)?;
//!     }
//!     if !queue.enable_notification(memory)? {
//!         break queue.needs_interrupt(memory);
//!     }
//! }
//! # }
//! ```

mod chain;
mod counters;
#[cfg(test)]
mod tests;

use std::sync::{
    Arc,
    atomic::{Ordering, fence},
};

use virtio_bindings::virtio_ring::{VRING_AVAIL_F_NO_INTERRUPT, VRING_USED_F_NO_NOTIFY};
use vm_memory::{Address, Bytes, GuestAddress, GuestMemoryBackend};

pub use chain::{Buffer, Chain, MAX_CHAIN};
pub use counters::{QueueCounters, QueueCounts};

use crate::GuestMemory;

/// The largest queue size (2.7).
pub const MAX_SIZE: u16 = 1 << 15;

/// Bytes of the available and of the used ring beside their entries: flags, idx and the event field after
/// the entries, for which Linux always has room.
const RING_META: usize = 6;
/// Offset of idx in the available and in the used ring.
const IDX: u64 = 2;
/// Offset of the first entry.
const ENTRIES: u64 = 4;
/// Bytes of an entry of the available ring (2.7.6), of the used ring (2.7.8), and of the descriptor table.
const AVAIL_ENTRY: u64 = 2;
const USED_ENTRY: u64 = 8;
const DESCRIPTOR: u64 = 16;

/// Where a driver has put a virtqueue, as it says in its device's registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Entries of the table and of both rings, a power of two up to [`MAX_SIZE`].
    pub size: u16,
    /// The descriptor table, called the descriptor area (2.6).
    pub desc_table: u64,
    /// The available ring, in the driver area.
    pub avail_ring: u64,
    /// The used ring, in the device area.
    pub used_ring: u64,
}

/// Why there is no virtqueue where a driver has put it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LayoutError {
    /// A size that no queue can have.
    #[error("its size {0} is not a power of two up to {MAX_SIZE}")]
    Size(u16),
    /// A part at an address where it cannot be.
    #[error("its {part} at {address:#x} is misaligned or outside guest memory")]
    Misplaced {
        /// The part's name in the standard (2.6).
        part: &'static str,
        /// Guest physical address.
        address: u64,
    },
}

/// What a driver did to a virtqueue that no driver may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BrokenRing {
    /// A ring is not, or no longer, where it was when the queue was enabled.
    #[error("a part of the virtqueue is outside guest memory")]
    Unreachable,
    /// The available index went further than the ring is long (2.7.13.3).
    #[error("the available ring claims {entries} new entries but has {size}")]
    AvailIndex {
        /// How far the index is ahead of the last buffer taken.
        entries: u16,
        /// The queue size.
        size: u16,
    },
    /// A head or a next field beyond the descriptor table.
    #[error("descriptor {index} does not exist in a table of {entries}")]
    DescriptorIndex {
        /// The index.
        index: u16,
        /// Entries of the table.
        entries: u32,
    },
    /// More descriptors than a chain may have, which every loop comes to (2.7.5.2).
    #[error("the chain at descriptor {head} has a loop or more than {limit} descriptors")]
    Endless {
        /// Where the chain starts.
        head: u16,
        /// Most descriptors that it may have.
        limit: usize,
    },
    /// A device-readable descriptor after a device-writable one (2.7.4.2).
    #[error("the chain at descriptor {head} has a readable buffer after a writable one")]
    Order {
        /// Where the chain starts.
        head: u16,
    },
    /// A buffer that is not wholly in guest memory.
    #[error("the buffer {address:#x}+{len:#x} is outside guest memory")]
    Outside {
        /// Guest physical address.
        address: u64,
        /// Bytes.
        len: u32,
    },
    /// An indirect table that is empty, no multiple of 16 bytes, too long for its indices or outside
    /// guest memory (2.7.5.3).
    #[error("the indirect descriptor table {address:#x}+{len:#x} is malformed")]
    IndirectTable {
        /// Guest physical address.
        address: u64,
        /// Bytes.
        len: u32,
    },
    /// An indirect descriptor in an indirect table, or with a next one (2.7.5.3.1).
    #[error("the chain at descriptor {head} has an indirect descriptor where none may be")]
    Indirect {
        /// Where the chain starts.
        head: u16,
    },
    /// More than 2³² bytes in one chain (2.7.5.2).
    #[error("the chain at descriptor {head} is longer than 4 GiB")]
    TooLong {
        /// Where the chain starts.
        head: u16,
    },
}

/// The device's side of a split virtqueue, all of whose parts are in guest memory.
#[derive(Debug)]
pub struct Queue {
    layout: Layout,
    /// VIRTIO_F_EVENT_IDX was negotiated.
    event_idx: bool,
    next_avail: u16,
    /// The next entry of the used ring to be written.
    next_used: u16,
    /// Where `next_used` was when the driver was last asked whether it wants an interrupt.
    signalled: u16,
    counters: Arc<QueueCounters>,
    /// Readable bytes of the chain that was popped last.
    popped: usize,
}

impl Queue {
    /// A queue that has not been used; `event_idx` says whether VIRTIO_F_EVENT_IDX was negotiated.
    pub fn new(layout: Layout, event_idx: bool, memory: &GuestMemory) -> Result<Self, LayoutError> {
        if !layout.size.is_power_of_two() || layout.size > MAX_SIZE {
            return Err(LayoutError::Size(layout.size));
        }
        let size = usize::from(layout.size);
        // Sizes and alignments (2.7).
        for (part, address, len, align) in [
            ("descriptor area", layout.desc_table, 16 * size, 16),
            ("driver area", layout.avail_ring, RING_META + 2 * size, 2),
            ("device area", layout.used_ring, RING_META + 8 * size, 4),
        ] {
            let in_memory = memory.get_slice(GuestAddress(address), len).is_ok();
            if !in_memory || !address.is_multiple_of(align) {
                return Err(LayoutError::Misplaced { part, address });
            }
        }
        Ok(Self {
            layout,
            event_idx,
            next_avail: 0,
            next_used: 0,
            signalled: 0,
            counters: Arc::default(),
            popped: 0,
        })
    }

    /// Counts in `counters` from here on.
    pub fn count_in(&mut self, counters: Arc<QueueCounters>) {
        self.counters = counters;
    }

    /// What has gone through it.
    pub fn counters(&self) -> &QueueCounters {
        &self.counters
    }

    /// Where it is, for a back end that serves it in our place.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Index of the next chain to be taken.
    pub fn next_avail(&self) -> u16 {
        self.next_avail
    }

    /// Continues as if so many chains had been taken and given back, as far as a driver can count them.
    #[cfg(any(test, feature = "test-utils"))]
    pub fn set_next(&mut self, index: u16) {
        self.next_avail = index;
        self.next_used = index;
        self.signalled = index;
    }

    /// Takes the next available chain into `chain`; says `false` when there is none, and then `chain`
    /// holds what it held before.
    pub fn pop(&mut self, memory: &GuestMemory, chain: &mut Chain) -> Result<bool, BrokenRing> {
        let size = self.layout.size;
        let entries = self
            .avail_idx(memory, Ordering::Acquire)?
            .wrapping_sub(self.next_avail);
        if entries == 0 {
            return Ok(false);
        }
        if entries > size {
            return Err(BrokenRing::AvailIndex { entries, size });
        }
        let offset = ENTRIES + AVAIL_ENTRY * u64::from(self.next_avail % size);
        let head = load(memory, self.layout.avail_ring, offset, Ordering::Relaxed)?;
        chain.walk(memory, GuestAddress(self.layout.desc_table), size, head)?;
        self.next_avail = self.next_avail.wrapping_add(1);
        self.popped = chain.readable_len();
        self.counters.taken(self.popped);
        Ok(true)
    }

    /// Makes the chain that was popped last available again, as for a packet that has not come yet.
    pub fn undo_pop(&mut self) {
        self.next_avail = self.next_avail.wrapping_sub(1);
        self.counters.put_back(std::mem::take(&mut self.popped));
    }

    /// Writes the next entry of the used ring: the chain that starts at `head`, with `written` bytes of its
    /// writable part filled. The driver sees it only after [`publish_used`](Self::publish_used).
    pub fn write_used(
        &mut self,
        memory: &GuestMemory,
        head: u16,
        written: u32,
    ) -> Result<(), BrokenRing> {
        let offset = ENTRIES + USED_ENTRY * u64::from(self.next_used % self.layout.size);
        let entry = [u32::from(head).to_le(), written.to_le()];
        memory
            .write_obj(entry, at(self.layout.used_ring, offset)?)
            .map_err(|_| BrokenRing::Unreachable)?;
        self.next_used = self.next_used.wrapping_add(1);
        self.counters.used(written);
        Ok(())
    }

    /// Gives all chains that were [written](Self::write_used) to the used ring back to the driver, by one
    /// move of the used index.
    pub fn publish_used(&mut self, memory: &GuestMemory) -> Result<(), BrokenRing> {
        let used = self.layout.used_ring;
        store(memory, used, IDX, self.next_used, Ordering::Release)
    }

    /// Gives one chain back to the driver.
    pub fn push_used(
        &mut self,
        memory: &GuestMemory,
        head: u16,
        written: u32,
    ) -> Result<(), BrokenRing> {
        self.write_used(memory, head, written)?;
        self.publish_used(memory)
    }

    /// Whether the driver wants an interrupt for what was used since it was asked last (2.7.7).
    pub fn needs_interrupt(&mut self, memory: &GuestMemory) -> Result<bool, BrokenRing> {
        let needed = self.is_interrupt_wanted(memory)?;
        if needed {
            self.counters.interrupted();
        }
        Ok(needed)
    }

    fn is_interrupt_wanted(&mut self, memory: &GuestMemory) -> Result<bool, BrokenRing> {
        let (old, new) = (self.signalled, self.next_used);
        if old == new {
            return Ok(false);
        }
        self.signalled = new;
        // The used index must be seen by a driver that sets the flag or the event after this read, or an
        // interrupt that it waits for is lost.
        fence(Ordering::SeqCst);
        let avail = self.layout.avail_ring;
        if self.event_idx {
            let event = load(memory, avail, self.used_event(), Ordering::Relaxed)?;
            return Ok(is_passed(event, old, new));
        }
        let flags = load(memory, avail, 0, Ordering::Relaxed)?;
        Ok(flags & VRING_AVAIL_F_NO_INTERRUPT as u16 == 0)
    }

    /// Asks the driver to notify of the next available buffer. `true`: one came in between, so look again
    /// before waiting.
    pub fn enable_notification(&mut self, memory: &GuestMemory) -> Result<bool, BrokenRing> {
        let (offset, value) = match self.event_idx {
            true => (self.avail_event(), self.next_avail),
            false => (0, 0),
        };
        let used = self.layout.used_ring;
        store(memory, used, offset, value, Ordering::Relaxed)?;
        // Either the driver sees what was just written, or we see what it has added (2.7.10).
        fence(Ordering::SeqCst);
        Ok(self.avail_idx(memory, Ordering::Relaxed)? != self.next_avail)
    }

    /// Tells the driver that notifications are not needed now.
    ///
    /// With VIRTIO_F_EVENT_IDX nothing is to be said: a driver notifies once for the index that it was
    /// asked for, and that one has passed.
    pub fn disable_notification(&mut self, memory: &GuestMemory) -> Result<(), BrokenRing> {
        if self.event_idx {
            return Ok(());
        }
        let flags = VRING_USED_F_NO_NOTIFY as u16;
        store(memory, self.layout.used_ring, 0, flags, Ordering::Relaxed)
    }

    /// The available and the used index as they stand in memory. Whoever watches another's work on the
    /// queue sees from them whether something is pending; the driver may have written anything there.
    pub fn indices(&self, memory: &GuestMemory) -> Result<(u16, u16), BrokenRing> {
        let used = load(memory, self.layout.used_ring, IDX, Ordering::Acquire)?;
        Ok((self.avail_idx(memory, Ordering::Acquire)?, used))
    }

    fn avail_idx(&self, memory: &GuestMemory, order: Ordering) -> Result<u16, BrokenRing> {
        load(memory, self.layout.avail_ring, IDX, order)
    }

    /// Offset of `used_event`, which follows the available ring's entries (2.7.6).
    fn used_event(&self) -> u64 {
        ENTRIES + AVAIL_ENTRY * u64::from(self.layout.size)
    }

    /// Offset of `avail_event`, which follows the used ring's entries (2.7.8).
    fn avail_event(&self) -> u64 {
        ENTRIES + USED_ENTRY * u64::from(self.layout.size)
    }
}

/// Whether an index that moved from `old` to `new` went over `event` (2.7.7.1, vring_need_event).
fn is_passed(event: u16, old: u16, new: u16) -> bool {
    new.wrapping_sub(event).wrapping_sub(1) < new.wrapping_sub(old)
}

fn at(ring: u64, offset: u64) -> Result<GuestAddress, BrokenRing> {
    GuestAddress(ring)
        .checked_add(offset)
        .ok_or(BrokenRing::Unreachable)
}

fn load(memory: &GuestMemory, ring: u64, offset: u64, order: Ordering) -> Result<u16, BrokenRing> {
    memory
        .load(at(ring, offset)?, order)
        .map(u16::from_le)
        .map_err(|_| BrokenRing::Unreachable)
}

fn store(
    memory: &GuestMemory,
    ring: u64,
    offset: u64,
    value: u16,
    order: Ordering,
) -> Result<(), BrokenRing> {
    memory
        .store(value.to_le(), at(ring, offset)?, order)
        .map_err(|_| BrokenRing::Unreachable)
}
