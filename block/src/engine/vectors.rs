//! The memory that an operation reads or writes: pieces of guest memory, zeros, or a buffer of our own.
#![allow(unsafe_code)]

use std::sync::Arc;

use libc::iovec;
use minivmm_devices::{GuestMemory, virtio::queue::Buffer};
use vm_memory::GuestMemoryBackend;

/// Bytes of a [`Page`], to which a buffer of our own is aligned; no file wants more of O_DIRECT.
pub(crate) const PAGE: usize = 4096;

#[repr(align(4096))]
#[derive(Clone)]
struct Page([u8; PAGE]);

/// What is written where a file system cannot make zeros itself.
static ZEROS: Page = Page([0; PAGE]);

/// The pieces of memory of one operation. Its lists are kept between operations for their room.
pub(crate) struct Vectors {
    iovecs: Vec<iovec>,
    /// Keeps what the list points at where it is, for as long as anybody works on it.
    memory: Arc<GuestMemory>,
    own: Vec<Page>,
    own_len: usize,
}

// SAFETY: the pointers are to guest memory, which `memory` keeps mapped, to `own`, which moves with them, and to a static;
// none of it belongs to a thread.
unsafe impl Send for Vectors {}

impl Vectors {
    /// No memory yet; later pieces are of `memory`.
    pub(crate) fn new(memory: Arc<GuestMemory>) -> Self {
        Self {
            iovecs: Vec::new(),
            memory,
            own: Vec::new(),
            own_len: 0,
        }
    }

    fn clear(&mut self) {
        self.iovecs.clear();
        // Rare, so its room is not kept.
        self.own = Vec::new();
        self.own_len = 0;
    }

    /// Makes it `buffers` of guest memory without their first `skip` bytes.
    pub(crate) fn set_guest(&mut self, buffers: &[Buffer], skip: u64) {
        self.clear();
        let mut skip = usize::try_from(skip).unwrap_or(usize::MAX);
        for buffer in buffers {
            let slices = self.memory.get_slices(buffer.address, buffer.len as usize);
            for slice in slices.map_while(Result::ok) {
                let passed = skip.min(slice.len());
                skip -= passed;
                if passed < slice.len() {
                    self.iovecs.push(iovec {
                        // SAFETY: `passed` is within the slice.
                        iov_base: unsafe { slice.ptr_guard_mut().as_ptr().add(passed) }.cast(),
                        iov_len: slice.len() - passed,
                    });
                }
            }
        }
    }

    /// Makes it `len` zeros, or as many as a list of `pieces` can have; to be read only. Gives their number.
    pub(crate) fn set_zeros(&mut self, len: u64, pieces: usize) -> u64 {
        self.clear();
        let mut left = usize::try_from(len).unwrap_or(usize::MAX);
        while left > 0 && self.iovecs.len() < pieces {
            let iov_len = left.min(PAGE);
            left -= iov_len;
            self.iovecs.push(iovec {
                iov_base: ZEROS.0.as_ptr().cast_mut().cast(),
                iov_len,
            });
        }
        self.len()
    }

    /// Makes it a buffer of our own of `len` zeros, aligned to a [`PAGE`].
    pub(crate) fn set_own(&mut self, len: usize) {
        self.clear();
        self.own = vec![ZEROS.clone(); len.div_ceil(PAGE)];
        self.own_len = len;
        self.iovecs.push(iovec {
            iov_base: self.own.as_mut_ptr().cast(),
            iov_len: len,
        });
    }

    /// The buffer of our own; empty if there is none.
    pub(crate) fn own(&mut self) -> &mut [u8] {
        let bytes: *mut u8 = self.own.as_mut_ptr().cast();
        // SAFETY: the pages are bytes without gaps, at least `own_len` of them, and borrowed as long as the slice. Who has
        // this value has its memory: an operation that is being worked on has been given away.
        unsafe { std::slice::from_raw_parts_mut(bytes, self.own_len) }
    }

    /// Whether it is a buffer of our own.
    pub(crate) fn is_own(&self) -> bool {
        self.own_len > 0
    }

    /// Whether every piece begins at a multiple of `align` and is one of it.
    pub(crate) fn is_aligned(&self, align: usize) -> bool {
        let mut pieces = self.iovecs.iter();
        pieces
            .all(|v| (v.iov_base as usize).is_multiple_of(align) && v.iov_len.is_multiple_of(align))
    }

    /// Bytes of all pieces.
    pub(crate) fn len(&self) -> u64 {
        self.iovecs.iter().map(|v| v.iov_len as u64).sum()
    }

    /// The list.
    pub(crate) fn iovecs(&self) -> &[iovec] {
        &self.iovecs
    }
}

#[cfg(test)]
mod tests {
    use minivmm_devices::test_utils::guest_memory;
    use vm_memory::GuestAddress;

    use super::*;

    fn vectors() -> Vectors {
        Vectors::new(guest_memory(0x4000))
    }

    fn buffer(address: u64, len: u32) -> Buffer {
        let address = GuestAddress(address);
        Buffer { address, len }
    }

    #[test]
    fn what_is_skipped_is_not_in_the_list() {
        let mut vectors = vectors();
        let buffers = [buffer(0, 512), buffer(0x1000, 512), buffer(0x2000, 1024)];
        for (skip, pieces, len) in [
            (0, 3, 2048),
            (1, 3, 2047),
            (512, 2, 1536),
            (1024, 1, 1024),
            (2047, 1, 1),
            (2048, 0, 0),
            (u64::MAX, 0, 0),
        ] {
            vectors.set_guest(&buffers, skip);
            assert_eq!(
                (vectors.iovecs().len(), vectors.len()),
                (pieces, len),
                "{skip}"
            );
        }
        vectors.set_guest(&buffers, 0);
        assert!(vectors.is_aligned(512) && !vectors.is_aligned(1024));
        vectors.set_guest(&buffers, 8);
        assert!(!vectors.is_aligned(512) && vectors.is_aligned(8));
    }

    #[test]
    fn zeros_take_one_page_however_many_there_are() {
        let mut vectors = vectors();
        assert_eq!(vectors.set_zeros(10_000, 16), 10_000);
        assert_eq!(vectors.iovecs().len(), 3);
        assert_eq!(vectors.set_zeros(u64::MAX, 16), 16 * 4096);
        assert!(vectors.is_aligned(4096));
    }

    #[test]
    fn a_buffer_of_our_own_is_aligned_and_clean() {
        let mut vectors = vectors();
        assert!(!vectors.is_own() && vectors.own().is_empty());
        vectors.set_own(5120);
        assert_eq!(vectors.own(), [0; 5120]);
        assert!(vectors.is_own() && vectors.is_aligned(512));
        assert_eq!((vectors.iovecs().len(), vectors.len()), (1, 5120));
        vectors.set_guest(&[buffer(0, 1)], 0);
        assert!(!vectors.is_own());
    }
}
