//! Buffers that were taken from the receive queue and wait for a frame.
#![allow(unsafe_code)]

use std::{collections::VecDeque, fs::File, io, os::fd::AsRawFd, sync::Arc};

use libc::iovec;
use minivmm_devices::{GuestMemory, virtio::queue::Chain};
use vm_memory::VolatileSlice;

use crate::{HEADER, header::Header};

/// The most pieces of one readv (UIO_MAXIOV in the kernel), without the header's and the one behind the frame.
const PIECES_MAX: usize = libc::UIO_MAXIOV as usize - 2;

/// A chain that was taken.
struct Taken {
    head: u16,
    len: usize,
    pieces: usize,
}

/// Chains in the order in which they were taken, as pieces of this process's memory that one readv fills from the
/// front.
pub(crate) struct Pool {
    /// What the pieces point into is mapped for as long as this is.
    memory: Arc<GuestMemory>,
    chains: VecDeque<Taken>,
    pieces: VecDeque<iovec>,
    room: usize,
    /// The list of one call, kept for its room.
    list: Vec<iovec>,
}

// SAFETY: the pointers are into guest memory, which belongs to no thread and stays mapped as long as `memory` lives; those
// of `list` are used only during the call that has put them there.
unsafe impl Send for Pool {}

/// A frame that was read.
pub(crate) enum Frame {
    /// So many bytes with the header, which is still to be [written](Pool::take).
    Whole(usize, Header),
    /// It was larger than the room, and is lost.
    Cut,
}

impl Pool {
    pub(crate) fn new(memory: Arc<GuestMemory>) -> Self {
        Self {
            memory,
            chains: VecDeque::new(),
            pieces: VecDeque::new(),
            room: 0,
            list: Vec::new(),
        }
    }

    /// Bytes that a frame with its header may have.
    pub(crate) fn room(&self) -> usize {
        self.room
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.chains.is_empty()
    }

    /// Adds the writable part of a chain, whose room is at least a header's; `false` if one call has no room for its
    /// pieces, and then it is not added. Of the first chain what is too much is left out.
    pub(crate) fn add(&mut self, chain: &Chain) -> bool {
        let count = chain.writable_slices(&self.memory).count();
        let left = PIECES_MAX.saturating_sub(self.pieces.len());
        if count > left && !self.is_empty() {
            return false;
        }
        let mut taken = Taken {
            head: chain.head(),
            len: 0,
            pieces: count.min(left),
        };
        for slice in chain.writable_slices(&self.memory).take(left) {
            taken.len += slice.len();
            self.pieces.push_back(iovec {
                iov_base: slice.ptr_guard_mut().as_ptr().cast(),
                iov_len: slice.len(),
            });
        }
        self.room += taken.len;
        self.chains.push_back(taken);
        true
    }

    /// Reads one frame into the pool, without a copy and without taking anything out of it yet.
    pub(crate) fn read(&mut self, file: &File) -> io::Result<Frame> {
        let mut header = Header::default();
        // A tap gives no sign of having cut a frame: one byte more than there is room for is one.
        let mut over = 0_u8;
        self.list.clear();
        self.list.push(iovec {
            iov_base: header.0.as_mut_ptr().cast(),
            iov_len: HEADER,
        });
        let mut skipped = HEADER;
        for piece in &self.pieces {
            let skip = skipped.min(piece.iov_len);
            skipped -= skip;
            if skip < piece.iov_len {
                self.list.push(iovec {
                    iov_base: piece.iov_base.wrapping_byte_add(skip),
                    iov_len: piece.iov_len - skip,
                });
            }
        }
        self.list.push(iovec {
            iov_base: (&raw mut over).cast(),
            iov_len: 1,
        });
        let count = libc::c_int::try_from(self.list.len()).map_err(io::Error::other)?;
        // SAFETY: the pieces are mapped guest memory, `header` and `over` outlive the call. Others may write guest memory
        // meanwhile, which is why nothing here has a reference to it.
        let read = unsafe { libc::readv(file.as_raw_fd(), self.list.as_ptr(), count) };
        let read = usize::try_from(read).map_err(|_| io::Error::last_os_error())?;
        Ok(match (HEADER..=self.room).contains(&read) {
            true => Frame::Whole(read, header),
            false => Frame::Cut,
        })
    }

    /// How many chains a frame of `len` bytes fills.
    pub(crate) fn chains_of(&self, len: usize) -> u16 {
        let mut left = len;
        let mut count = 0;
        for chain in &self.chains {
            if left == 0 && count > 0 {
                break;
            }
            left = left.saturating_sub(chain.len);
            count += 1;
        }
        count
    }

    /// Writes the header of the frame of `len` bytes that was read, and takes the chains out that it fills: `used` gets
    /// each one's head and how much of it is filled.
    pub(crate) fn take<E>(
        &mut self,
        len: usize,
        header: Header,
        mut used: impl FnMut(u16, u32) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut bytes = &header.0[..];
        for piece in &self.pieces {
            let (now, later) = bytes.split_at(bytes.len().min(piece.iov_len));
            // SAFETY: a piece is mapped guest memory for as long as `self.memory`.
            let slice = unsafe { VolatileSlice::new(piece.iov_base.cast(), now.len()) };
            slice.copy_from(now);
            bytes = later;
            if bytes.is_empty() {
                break;
            }
        }
        let mut left = len;
        for _ in 0..self.chains_of(len) {
            let Some(chain) = self.chains.pop_front() else {
                break;
            };
            self.pieces.drain(..chain.pieces);
            self.room -= chain.len;
            let filled = left.min(chain.len);
            left -= filled;
            used(chain.head, u32::try_from(filled).unwrap_or(u32::MAX))?;
        }
        Ok(())
    }
}
