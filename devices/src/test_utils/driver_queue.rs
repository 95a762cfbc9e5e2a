//! The driver's side of a split virtqueue.

use std::sync::{
    Arc,
    atomic::{Ordering, fence},
};

use virtio_bindings::virtio_ring::{
    VRING_AVAIL_F_NO_INTERRUPT, VRING_DESC_F_NEXT, VRING_DESC_F_WRITE,
};
use virtio_queue::{Queue, QueueT, desc::split::Descriptor};
use vm_memory::{Bytes, GuestAddress};

use crate::GuestMemory;

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

    /// The device's side, ready.
    pub fn queue(&self) -> Queue {
        let mut queue = Queue::new(self.size).unwrap();
        queue
            .try_set_desc_table_address(GuestAddress(self.desc))
            .unwrap();
        queue
            .try_set_avail_ring_address(GuestAddress(self.avail))
            .unwrap();
        queue
            .try_set_used_ring_address(GuestAddress(self.used))
            .unwrap();
        queue.set_ready(true);
        queue
    }

    /// Writes one descriptor as it is.
    pub fn write_descriptor(&self, index: u16, address: u64, len: u32, flags: u32, next: u16) {
        self.write_descriptor_at(self.desc + 16 * u64::from(index), address, len, flags, next);
    }

    /// Writes one descriptor anywhere, as for an indirect table.
    pub fn write_descriptor_at(&self, at: u64, address: u64, len: u32, flags: u32, next: u16) {
        let flags = u16::try_from(flags).unwrap();
        self.memory
            .write_obj(Descriptor::new(address, len, flags, next), GuestAddress(at))
            .unwrap();
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

    /// Whether the device asked for no notifications, by the used ring's flag.
    pub fn no_notify(&self) -> bool {
        let flags: u16 = self.memory.read_obj(GuestAddress(self.used)).unwrap();
        u16::from_le(flags) & 1 != 0
    }

    /// The next used entry, `(head, written)`, if the device gave one back.
    pub fn take_used(&mut self) -> Option<(u16, u32)> {
        let idx: u16 = self
            .memory
            .load(GuestAddress(self.used + 2), Ordering::Acquire)
            .unwrap();
        if u16::from_le(idx) == self.next_used {
            return None;
        }
        let at = self.used + 4 + 8 * u64::from(self.next_used % self.size);
        let entry: [u32; 2] = self.memory.read_obj(GuestAddress(at)).unwrap();
        self.next_used = self.next_used.wrapping_add(1);
        let [head, written] = entry.map(u32::from_le);
        Some((u16::try_from(head).unwrap(), written))
    }
}
