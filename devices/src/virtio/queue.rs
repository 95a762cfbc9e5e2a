//! Taking buffers out of a split virtqueue whose driver is not trusted (virtio 1.3, 2.7).
//!
//! `virtio_queue` ends a chain silently at its first malformed descriptor, so a device could not tell a
//! broken ring from a short request. Here the walk is ours: every rule that a driver can break is a
//! [`BrokenRing`], after which a device says [`needs_reset`](super::DeviceInterrupt::needs_reset) and
//! leaves its queues alone. A walk ends after a bounded number of descriptors, and a [`Chain`] is reused,
//! so the data path does not allocate.
//!
//! ```no_run
//! # use minivmm_devices::{GuestMemory, virtio::queue::{self, BrokenRing, Chain}};
//! # fn work(ring: &mut virtio_queue::Queue, memory: &GuestMemory, chain: &mut Chain) -> Result<bool, BrokenRing> {
//! loop {
//!     queue::disable_notification(ring, memory)?;
//!     while queue::pop(ring, memory, chain)? {
//!         let written = 0; // serve the request
//!         queue::push_used(ring, memory, chain.head(), written)?;
//!     }
//!     if !queue::enable_notification(ring, memory)? {
//!         break queue::needs_interrupt(ring, memory);
//!     }
//! }
//! # }
//! ```

mod chain;
#[cfg(test)]
mod tests;

use std::sync::atomic::{Ordering, fence};

use virtio_bindings::virtio_ring::VRING_AVAIL_F_NO_INTERRUPT;
use virtio_queue::{Queue, QueueT};
use vm_memory::{Address, Bytes, GuestAddress};

pub use chain::{Buffer, Chain, MAX_CHAIN};

use crate::GuestMemory;

/// Bytes before the first entry of the available and of the used ring: flags and idx.
const RING_HEADER: u64 = 4;

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

/// Takes the next available chain into `chain`; says `false` when there is none, and then `chain` holds
/// what it held before.
pub fn pop(queue: &mut Queue, memory: &GuestMemory, chain: &mut Chain) -> Result<bool, BrokenRing> {
    let size = queue.size();
    let next = queue.next_avail();
    let entries = queue
        .avail_idx(memory, Ordering::Acquire)
        .map_err(|_| BrokenRing::Unreachable)?
        .0
        .wrapping_sub(next);
    if entries == 0 {
        return Ok(false);
    }
    if entries > size {
        return Err(BrokenRing::AvailIndex { entries, size });
    }
    let slot = next.checked_rem(size).ok_or(BrokenRing::Unreachable)?;
    let head = GuestAddress(queue.avail_ring())
        .checked_add(RING_HEADER + 2 * u64::from(slot))
        .and_then(|address| memory.load::<u16>(address, Ordering::Relaxed).ok())
        .map(u16::from_le)
        .ok_or(BrokenRing::Unreachable)?;
    chain.walk(memory, GuestAddress(queue.desc_table()), size, head)?;
    queue.set_next_avail(next.wrapping_add(1));
    Ok(true)
}

/// Makes the chain that was popped last available again, as for a packet that has not come yet.
pub fn undo_pop(queue: &mut Queue) {
    queue.set_next_avail(queue.next_avail().wrapping_sub(1));
}

/// Gives the chain that starts at `head` back to the driver, with `written` bytes of its writable part
/// filled.
pub fn push_used(
    queue: &mut Queue,
    memory: &GuestMemory,
    head: u16,
    written: u32,
) -> Result<(), BrokenRing> {
    queue
        .add_used(memory, head, written)
        .map_err(|_| BrokenRing::Unreachable)
}

/// Whether the driver wants an interrupt for what was used since it was asked last (2.7.7).
pub fn needs_interrupt(queue: &mut Queue, memory: &GuestMemory) -> Result<bool, BrokenRing> {
    if queue.event_idx_enabled() {
        return queue
            .needs_notification(memory)
            .map_err(|_| BrokenRing::Unreachable);
    }
    // The used index must be seen by a driver that sets the flag after this read, or an interrupt that
    // it waits for is lost.
    fence(Ordering::SeqCst);
    let flags = memory
        .load::<u16>(GuestAddress(queue.avail_ring()), Ordering::Relaxed)
        .map(u16::from_le)
        .map_err(|_| BrokenRing::Unreachable)?;
    Ok(flags & VRING_AVAIL_F_NO_INTERRUPT as u16 == 0)
}

/// Asks the driver to notify of the next available buffer. `true`: one came in between, so look again
/// before waiting.
pub fn enable_notification(queue: &mut Queue, memory: &GuestMemory) -> Result<bool, BrokenRing> {
    queue
        .enable_notification(memory)
        .map_err(|_| BrokenRing::Unreachable)
}

/// Tells the driver that notifications are not needed now.
pub fn disable_notification(queue: &mut Queue, memory: &GuestMemory) -> Result<(), BrokenRing> {
    queue
        .disable_notification(memory)
        .map_err(|_| BrokenRing::Unreachable)
}
