//! The driver's side of a split virtqueue.

use std::sync::{
    Arc,
    atomic::{Ordering, fence},
};

use virtio_bindings::virtio_ring::{
    VRING_AVAIL_F_NO_INTERRUPT, VRING_DESC_F_NEXT, VRING_DESC_F_WRITE,
};
use vm_memory::{Bytes, GuestAddress};

use crate::{
    GuestMemory,
    virtio::queue::{Layout, Queue},
};

/// A split virtqueue as a driver sees it; it can also be told to break every rule.
pub struct DriverQueue {
    memory: Arc<GuestMemory>,
    size: u16,
    desc: u64,
    avail: u64,
    used: u64,
    next_descriptor: u16,
    next_used: u16,
}

impl DriverQueue {
    /// Lays the three rings out one after another from `at`, which is a multiple of 16.
    pub fn new(memory: &Arc<GuestMemory>, at: u64, size: u16) -> Self {
        let n = u64::from(size);
        let avail = at + 16 * n;
        let queue = Self {
            memory: memory.clone(),
            size,
            desc: at,
            avail,
            used: (avail + 6 + 2 * n).next_multiple_of(4),
            next_descriptor: 0,
            next_used: 0,
        };
        let len = usize::try_from(queue.end() - at).unwrap();
        memory.write_slice(&vec![0; len], GuestAddress(at)).unwrap();
        queue
    }

    /// Address of the descriptor table.
    pub fn desc(&self) -> u64 {
        self.desc
    }

    /// Address of the available ring.
    pub fn avail(&self) -> u64 {
        self.avail
    }

    /// Address of the used ring.
    pub fn used(&self) -> u64 {
        self.used
    }

    /// First address after the rings.
    pub fn end(&self) -> u64 {
        self.used + 6 + 8 * u64::from(self.size)
    }

    /// Entries.
    pub fn size(&self) -> u16 {
        self.size
    }

    /// The device's side.
    pub fn queue(&self) -> Queue {
        self.make_queue(false)
    }

    /// The device's side with VIRTIO_F_EVENT_IDX.
    pub fn queue_with_event_idx(&self) -> Queue {
        self.make_queue(true)
    }

    fn make_queue(&self, event_idx: bool) -> Queue {
        let layout = Layout {
            size: self.size,
            desc_table: self.desc,
            avail_ring: self.avail,
            used_ring: self.used,
        };
        Queue::new(layout, event_idx, &self.memory).unwrap()
    }

    /// Continues as a driver that has used the queue `idx` times, all of which were given back.
    pub fn start_at(&mut self, idx: u16) {
        self.set_avail_idx(idx);
        self.memory
            .store(idx.to_le(), GuestAddress(self.used + 2), Ordering::Release)
            .unwrap();
        self.next_used = idx;
    }

    /// The index of the used entry that it takes next.
    pub fn next_used(&self) -> u16 {
        self.next_used
    }

    /// Writes one descriptor as it is.
    pub fn write_descriptor(&self, index: u16, address: u64, len: u32, flags: u32, next: u16) {
        self.write_descriptor_at(self.desc + 16 * u64::from(index), address, len, flags, next);
    }

    /// Writes one descriptor anywhere, as for an indirect table.
    pub fn write_descriptor_at(&self, at: u64, address: u64, len: u32, flags: u32, next: u16) {
        let flags = u16::try_from(flags).unwrap();
        let rest = u64::from(len) | u64::from(flags) << 32 | u64::from(next) << 48;
        let words = [address.to_le(), rest.to_le()];
        self.memory.write_obj(words, GuestAddress(at)).unwrap();
    }

    /// Makes a chain of readable, then writable `(address, length)` buffers, makes it available, and gives
    /// its head. Descriptors are used round the table; whoever adds more than it holds breaks his own.
    pub fn add(&mut self, readable: &[(u64, u32)], writable: &[(u64, u32)]) -> u16 {
        let head = self.next_descriptor;
        let count = readable.len() + writable.len();
        let buffers = readable
            .iter()
            .map(|b| (b, 0))
            .chain(writable.iter().map(|b| (b, VRING_DESC_F_WRITE)));
        for (i, (&(address, len), flags)) in buffers.enumerate() {
            let index = self.next_descriptor;
            self.next_descriptor = (index + 1) % self.size;
            let flags = flags | if i + 1 < count { VRING_DESC_F_NEXT } else { 0 };
            self.write_descriptor(index, address, len, flags, self.next_descriptor);
        }
        self.publish(head);
        head
    }

    /// Makes the chain at `head` available.
    pub fn publish(&self, head: u16) {
        let idx = self.avail_idx();
        let slot = self.avail + 4 + 2 * u64::from(idx % self.size);
        self.memory
            .write_obj(head.to_le(), GuestAddress(slot))
            .unwrap();
        self.set_avail_idx(idx.wrapping_add(1));
    }

    /// The available ring's idx.
    pub fn avail_idx(&self) -> u16 {
        u16::from_le(
            self.memory
                .load(GuestAddress(self.avail + 2), Ordering::Relaxed)
                .unwrap(),
        )
    }

    /// Sets the available ring's idx, which an honest driver only counts up.
    pub fn set_avail_idx(&self, idx: u16) {
        self.memory
            .store(idx.to_le(), GuestAddress(self.avail + 2), Ordering::Release)
            .unwrap();
        fence(Ordering::SeqCst);
    }

    /// Asks for no interrupts, by the available ring's flag.
    pub fn set_no_interrupt(&self, no_interrupt: bool) {
        let flags = if no_interrupt {
            VRING_AVAIL_F_NO_INTERRUPT as u16
        } else {
            0
        };
        self.memory
            .write_obj(flags.to_le(), GuestAddress(self.avail))
            .unwrap();
    }

    /// Asks for an interrupt after the used entry `idx` (VIRTIO_F_EVENT_IDX).
    pub fn set_used_event(&self, idx: u16) {
        let at = self.avail + 4 + 2 * u64::from(self.size);
        self.memory
            .write_obj(idx.to_le(), GuestAddress(at))
            .unwrap();
    }

    /// The index of which the device wants to be notified (VIRTIO_F_EVENT_IDX).
    pub fn avail_event(&self) -> u16 {
        let at = self.used + 4 + 8 * u64::from(self.size);
        u16::from_le(self.memory.read_obj(GuestAddress(at)).unwrap())
    }

    /// The used ring's idx.
    pub fn used_idx(&self) -> u16 {
        u16::from_le(
            self.memory
                .load(GuestAddress(self.used + 2), Ordering::Acquire)
                .unwrap(),
        )
    }

    /// Whether the device asked for no notifications, by the used ring's flag.
    pub fn no_notify(&self) -> bool {
        let flags: u16 = self.memory.read_obj(GuestAddress(self.used)).unwrap();
        u16::from_le(flags) & 1 != 0
    }

    /// The next used entry, `(head, written)`, if the device gave one back.
    pub fn take_used(&mut self) -> Option<(u16, u32)> {
        if self.used_idx() == self.next_used {
            return None;
        }
        let at = self.used + 4 + 8 * u64::from(self.next_used % self.size);
        let entry: [u32; 2] = self.memory.read_obj(GuestAddress(at)).unwrap();
        self.next_used = self.next_used.wrapping_add(1);
        let [head, written] = entry.map(u32::from_le);
        Some((u16::try_from(head).unwrap(), written))
    }
}
