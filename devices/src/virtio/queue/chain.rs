//! One descriptor chain, checked.

use virtio_bindings::virtio_ring::{VRING_DESC_F_INDIRECT, VRING_DESC_F_NEXT, VRING_DESC_F_WRITE};
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, VolatileSlice};

use super::{BrokenRing, DESCRIPTOR};
use crate::GuestMemory;

/// The most descriptors of a chain with an indirect table, as many buffers as one readv takes (IOV_MAX).
///
/// The standard's limit is the queue size (2.7.5.3.1), but Linux makes longer indirect chains.
pub const MAX_CHAIN: usize = 1024;

/// A piece of guest memory that was checked to exist.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Buffer {
    /// Guest physical address.
    pub address: GuestAddress,
    /// Bytes, never 0.
    pub len: u32,
}

/// One request of a driver: buffers to read, then buffers to write.
///
/// Made once and filled by each [`pop`](super::pop); it keeps its room, which a guest cannot grow beyond
/// [`MAX_CHAIN`] or the queue size, whichever is more.
#[derive(Debug, Default)]
pub struct Chain {
    head: u16,
    readable: Vec<Buffer>,
    writable: Vec<Buffer>,
    readable_len: usize,
    writable_len: usize,
}

impl Chain {
    /// An empty chain for [`pop`](super::pop) to fill.
    pub fn new() -> Self {
        Self::default()
    }

    /// The descriptor it starts at, which names it in the used ring.
    pub fn head(&self) -> u16 {
        self.head
    }

    /// What the device may read.
    pub fn readable(&self) -> &[Buffer] {
        &self.readable
    }

    /// What the device may write.
    pub fn writable(&self) -> &[Buffer] {
        &self.writable
    }

    /// Sum of the readable buffers, at most 2³² bytes.
    pub fn readable_len(&self) -> usize {
        self.readable_len
    }

    /// Sum of the writable buffers, at most 2³² bytes.
    pub fn writable_len(&self) -> usize {
        self.writable_len
    }

    /// The readable buffers in this process's memory, in order, for a writev.
    ///
    /// A buffer gives more than one slice only where it goes over from one region of RAM to the next.
    pub fn readable_slices<'a>(
        &'a self,
        memory: &'a GuestMemory,
    ) -> impl Iterator<Item = VolatileSlice<'a>> {
        slices(&self.readable, memory)
    }

    /// The writable buffers in this process's memory, in order, for a readv.
    pub fn writable_slices<'a>(
        &'a self,
        memory: &'a GuestMemory,
    ) -> impl Iterator<Item = VolatileSlice<'a>> {
        slices(&self.writable, memory)
    }

    /// Copies from `offset` bytes into the readable part; gives the bytes copied, fewer than `data` at
    /// its end.
    pub fn read_at(&self, memory: &GuestMemory, offset: usize, data: &mut [u8]) -> usize {
        let mut done = 0;
        for slice in after(self.readable_slices(memory), offset) {
            if done == data.len() {
                break;
            }
            done += slice.copy_to(&mut data[done..]);
        }
        done
    }

    /// Copies to `offset` bytes into the writable part; gives the bytes copied, fewer than `data` at its
    /// end.
    pub fn write_at(&self, memory: &GuestMemory, offset: usize, data: &[u8]) -> usize {
        let mut done = 0;
        for slice in after(self.writable_slices(memory), offset) {
            if done == data.len() {
                break;
            }
            let n = slice.len().min(data.len() - done);
            slice.copy_from(&data[done..done + n]);
            done += n;
        }
        done
    }

    /// Fills this from the chain at `head` of the table.
    pub(super) fn walk(
        &mut self,
        memory: &GuestMemory,
        table: GuestAddress,
        size: u16,
        head: u16,
    ) -> Result<(), BrokenRing> {
        self.head = head;
        self.readable.clear();
        self.writable.clear();
        self.readable_len = 0;
        self.writable_len = 0;

        let mut table =
            Table::new(memory, table, u32::from(size)).ok_or(BrokenRing::Unreachable)?;
        let mut limit = usize::from(size);
        let mut indirect = false;
        let mut index = head;
        let mut seen = 0;
        loop {
            let descriptor = table.get(index)?;
            if descriptor.is(VRING_DESC_F_INDIRECT) {
                if indirect || descriptor.is(VRING_DESC_F_NEXT) {
                    return Err(BrokenRing::Indirect { head });
                }
                table = Table::indirect(memory, &descriptor)?;
                limit = limit.max(MAX_CHAIN);
                indirect = true;
                index = 0;
                continue;
            }
            if seen == limit {
                return Err(BrokenRing::Endless { head, limit });
            }
            seen += 1;
            self.push(memory, &descriptor)?;
            if !descriptor.is(VRING_DESC_F_NEXT) {
                return Ok(());
            }
            index = descriptor.next;
        }
    }

    fn push(&mut self, memory: &GuestMemory, descriptor: &Descriptor) -> Result<(), BrokenRing> {
        let Descriptor { address, len, .. } = *descriptor;
        let bytes = len as usize;
        let head = self.head;
        if self.readable_len + self.writable_len + bytes > 1 << 32 {
            return Err(BrokenRing::TooLong { head });
        }
        let writable = descriptor.is(VRING_DESC_F_WRITE);
        if !writable && !self.writable.is_empty() {
            return Err(BrokenRing::Order { head });
        }
        if len == 0 {
            return Ok(());
        }
        if !memory.check_range(address, bytes) {
            return Err(BrokenRing::Outside {
                address: address.0,
                len,
            });
        }
        let buffer = Buffer { address, len };
        if writable {
            self.writable.push(buffer);
            self.writable_len += bytes;
        } else {
            self.readable.push(buffer);
            self.readable_len += bytes;
        }
        Ok(())
    }
}

/// A descriptor (2.7.5).
struct Descriptor {
    address: GuestAddress,
    len: u32,
    flags: u16,
    next: u16,
}

impl Descriptor {
    /// From its two words: the address, then length, flags and next from the lowest bit up.
    fn new(words: [u64; 2]) -> Self {
        let [address, rest] = words.map(u64::from_le);
        Self {
            address: GuestAddress(address),
            len: rest as u32,
            flags: (rest >> 32) as u16,
            next: (rest >> 48) as u16,
        }
    }

    fn is(&self, flag: u32) -> bool {
        u32::from(self.flags) & flag != 0
    }
}

/// A descriptor table in guest memory: looked up once, each descriptor then copied out once.
struct Table<'m> {
    bytes: VolatileSlice<'m>,
    entries: u32,
}

impl<'m> Table<'m> {
    fn new(memory: &'m GuestMemory, address: GuestAddress, entries: u32) -> Option<Self> {
        let bytes = memory
            .get_slice(address, entries as usize * DESCRIPTOR as usize)
            .ok()?;
        Some(Self { bytes, entries })
    }

    fn indirect(memory: &'m GuestMemory, descriptor: &Descriptor) -> Result<Self, BrokenRing> {
        let Descriptor { address, len, .. } = *descriptor;
        let entries = len / DESCRIPTOR as u32;
        let whole = len % DESCRIPTOR as u32 == 0 && (1..=1 << 16).contains(&entries);
        whole
            .then(|| Self::new(memory, address, entries))
            .flatten()
            .ok_or(BrokenRing::IndirectTable {
                address: address.0,
                len,
            })
    }

    fn get(&self, index: u16) -> Result<Descriptor, BrokenRing> {
        if u32::from(index) >= self.entries {
            return Err(BrokenRing::DescriptorIndex {
                index,
                entries: self.entries,
            });
        }
        self.bytes
            .read_obj(usize::from(index) * DESCRIPTOR as usize)
            .map(Descriptor::new)
            .map_err(|_| BrokenRing::Unreachable)
    }
}

fn slices<'a>(
    buffers: &'a [Buffer],
    memory: &'a GuestMemory,
) -> impl Iterator<Item = VolatileSlice<'a>> {
    buffers
        .iter()
        .flat_map(move |buffer| memory.get_slices(buffer.address, buffer.len as usize))
        .map_while(Result::ok)
}

/// `slices` without their first `offset` bytes.
fn after<'a>(
    slices: impl Iterator<Item = VolatileSlice<'a>>,
    mut offset: usize,
) -> impl Iterator<Item = VolatileSlice<'a>> {
    slices.filter_map(move |slice| {
        let skip = offset.min(slice.len());
        offset -= skip;
        slice.offset(skip).ok().filter(|rest| !rest.is_empty())
    })
}
