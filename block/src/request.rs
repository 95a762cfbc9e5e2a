//! Requests of a driver (virtio 1.3, 5.2.6), checked before anything is done for them.

use minivmm_devices::{
    GuestMemory,
    virtio::queue::{Buffer, Chain},
};
use virtio_bindings::virtio_blk::{
    VIRTIO_BLK_F_DISCARD, VIRTIO_BLK_F_WRITE_ZEROES, VIRTIO_BLK_T_DISCARD, VIRTIO_BLK_T_FLUSH,
    VIRTIO_BLK_T_GET_ID, VIRTIO_BLK_T_IN, VIRTIO_BLK_T_OUT, VIRTIO_BLK_T_WRITE_ZEROES,
    VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP,
};
use vm_memory::{Address, GuestAddress};

use crate::{SECTOR, SEG_MAX, SERIAL_MAX};

/// Bytes of a request's header: type, reserved, sector.
const HEADER: usize = 16;
/// Bytes of a range of a discard: sector, sectors, flags.
const RANGE: usize = 16;
/// Sectors of a range to discard, and ranges of a request, at most: 1 GiB each.
pub(crate) const DISCARD_SECTORS: u32 = 1 << 21;
pub(crate) const DISCARD_SEGMENTS: u32 = 16;
/// The same of zeros to be written; drivers give one range alone.
pub(crate) const ZEROES_SECTORS: u32 = 1 << 21;
pub(crate) const ZEROES_SEGMENTS: u32 = 1;

/// A range of the disk, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Range {
    pub(crate) offset: u64,
    pub(crate) len: u64,
    /// It may be given back to the host's file system.
    pub(crate) unmap: bool,
}

/// What a driver wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wish {
    Read { offset: u64, len: u64 },
    Write { offset: u64, len: u64 },
    Flush,
    Id,
    Discard,
    Zeroes,
}

/// What a driver does not get.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// VIRTIO_BLK_S_IOERR
    Error,
    /// VIRTIO_BLK_S_UNSUPP
    Unsupported,
}

/// What a request is checked against.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rules {
    /// Bytes of the disk.
    pub(crate) size: u64,
    pub(crate) read_only: bool,
    /// What offsets and lengths must be multiples of.
    pub(crate) unit: u64,
    /// What was negotiated.
    pub(crate) features: u64,
}

/// A request without a byte for its status, which nothing can be answered to.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("the request at descriptor {head} has no room for its status")]
pub(crate) struct NoStatus {
    head: u16,
}

/// Where a request's status goes: the last byte of its writable part.
pub(crate) fn status(chain: &Chain) -> Result<GuestAddress, NoStatus> {
    let head = chain.head();
    let last = chain.writable().last().ok_or(NoStatus { head })?;
    // It is in memory and not empty.
    Ok(last.address.unchecked_add(u64::from(last.len) - 1))
}

/// Reads the request in `chain`. Its data's place goes to `data`, the ranges that it is about to `ranges`; both are empty.
pub(crate) fn read(
    chain: &Chain,
    memory: &GuestMemory,
    rules: &Rules,
    data: &mut Vec<Buffer>,
    ranges: &mut Vec<Range>,
) -> Result<Wish, Refusal> {
    let mut header = [0; HEADER];
    if chain.read_at(memory, 0, &mut header) < HEADER {
        return Err(Refusal::Error);
    }
    let (kind, sector) = (u32_at(&header, 0), u64_at(&header, 8));
    let out = (chain.readable_len() - HEADER) as u64;
    let into = chain.writable_len().saturating_sub(1) as u64;
    let only = |right: bool| right.then_some(()).ok_or(Refusal::Error);
    match kind {
        VIRTIO_BLK_T_IN => {
            only(out == 0)?;
            collect(chain.writable(), 0, into, data)?;
            let offset = rules.range(sector, into)?;
            Ok(Wish::Read { offset, len: into })
        }
        VIRTIO_BLK_T_OUT => {
            only(into == 0 && !rules.read_only)?;
            collect(chain.readable(), HEADER as u64, out, data)?;
            let offset = rules.range(sector, out)?;
            Ok(Wish::Write { offset, len: out })
        }
        VIRTIO_BLK_T_FLUSH => only(out == 0 && into == 0).map(|()| Wish::Flush),
        VIRTIO_BLK_T_GET_ID => {
            only(out == 0 && into >= SERIAL_MAX as u64)?;
            Ok(Wish::Id)
        }
        VIRTIO_BLK_T_DISCARD if rules.has(VIRTIO_BLK_F_DISCARD) => {
            only(into == 0 && !rules.read_only)?;
            rules.ranges(
                chain,
                memory,
                out,
                DISCARD_SEGMENTS,
                DISCARD_SECTORS,
                ranges,
            )?;
            // What is discarded is given back, and there is no way to ask for it (5.2.6.2).
            match ranges.iter().any(|range| range.unmap) {
                true => Err(Refusal::Unsupported),
                false => Ok(Wish::Discard),
            }
        }
        VIRTIO_BLK_T_WRITE_ZEROES if rules.has(VIRTIO_BLK_F_WRITE_ZEROES) => {
            only(into == 0 && !rules.read_only)?;
            rules.ranges(chain, memory, out, ZEROES_SEGMENTS, ZEROES_SECTORS, ranges)?;
            Ok(Wish::Zeroes)
        }
        _ => Err(Refusal::Unsupported),
    }
}

impl Rules {
    fn has(&self, feature: u32) -> bool {
        self.features & 1 << feature != 0
    }

    /// The offset of a range of the disk.
    fn range(&self, sector: u64, len: u64) -> Result<u64, Refusal> {
        let offset = sector.checked_mul(SECTOR).ok_or(Refusal::Error)?;
        let end = offset.checked_add(len).ok_or(Refusal::Error)?;
        let whole = offset.is_multiple_of(self.unit) && len.is_multiple_of(self.unit);
        match whole && end <= self.size {
            true => Ok(offset),
            false => Err(Refusal::Error),
        }
    }

    /// Reads `len` bytes of ranges (`struct virtio_blk_discard_write_zeroes`).
    fn ranges(
        &self,
        chain: &Chain,
        memory: &GuestMemory,
        len: u64,
        segments: u32,
        sectors: u32,
        ranges: &mut Vec<Range>,
    ) -> Result<(), Refusal> {
        let count = len / RANGE as u64;
        if !len.is_multiple_of(RANGE as u64) || !(1..=u64::from(segments)).contains(&count) {
            return Err(Refusal::Error);
        }
        for n in 0..count as usize {
            let mut bytes = [0; RANGE];
            chain.read_at(memory, HEADER + n * RANGE, &mut bytes);
            let (sector, count) = (u64_at(&bytes, 0), u32_at(&bytes, 8));
            let flags = u32_at(&bytes, 12);
            if flags & !VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP != 0 {
                return Err(Refusal::Unsupported);
            }
            if count > sectors {
                return Err(Refusal::Error);
            }
            let len = u64::from(count) * SECTOR;
            ranges.push(Range {
                offset: self.range(sector, len)?,
                len,
                unmap: flags & VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP != 0,
            });
        }
        Ok(())
    }
}

/// `len` bytes of `buffers` after the first `skip`.
fn collect(
    buffers: &[Buffer],
    mut skip: u64,
    mut len: u64,
    into: &mut Vec<Buffer>,
) -> Result<(), Refusal> {
    for buffer in buffers {
        let passed = skip.min(buffer.len.into());
        skip -= passed;
        let taken = len.min(u64::from(buffer.len) - passed);
        len -= taken;
        if taken > 0 {
            if into.len() == SEG_MAX {
                return Err(Refusal::Error);
            }
            into.push(Buffer {
                address: buffer.address.unchecked_add(passed),
                // No more than the buffer's own.
                len: taken as u32,
            });
        }
    }
    Ok(())
}

fn u32_at(bytes: &[u8; 16], at: usize) -> u32 {
    let part = bytes[at..at + 4].try_into();
    u32::from_le_bytes(part.expect("four bytes are four"))
}

fn u64_at(bytes: &[u8; 16], at: usize) -> u64 {
    let part = bytes[at..at + 8].try_into();
    u64::from_le_bytes(part.expect("eight bytes are eight"))
}

#[cfg(test)]
mod tests;
