//! Vectored output straight from guest memory.
#![allow(unsafe_code)]

use std::{fs::File, io, os::fd::AsRawFd};

use libc::iovec;
use vm_memory::VolatileSlice;

/// The most pieces of one system call (IOV_MAX, UIO_MAXIOV in the kernel).
const MAX: usize = libc::UIO_MAXIOV as usize;

/// The list of pieces of one system call. It is kept between calls for its room only.
#[derive(Default)]
pub(crate) struct Vectors(Vec<iovec>);

// SAFETY: the pointers in the list are used only during the call that has put them there.
unsafe impl Send for Vectors {}

impl Vectors {
    /// Writes `head`, then `slices`; gives the bytes written.
    pub(crate) fn write<'a>(
        &mut self,
        file: &File,
        head: &[u8],
        slices: impl Iterator<Item = VolatileSlice<'a>>,
    ) -> io::Result<usize> {
        self.0.clear();
        self.0.push(iovec {
            iov_base: head.as_ptr().cast_mut().cast(),
            iov_len: head.len(),
        });
        self.extend(slices);
        let count = self.count()?;
        // SAFETY: the slices are mapped guest memory for as long as their lifetime, which outlasts this
        // call, and writev only reads its pieces, so that `head` is shared is right. Others may write guest
        // memory meanwhile, which is why nothing here has a reference to it.
        check(unsafe { libc::writev(file.as_raw_fd(), self.0.as_ptr(), count) })
    }

    fn extend<'a>(&mut self, slices: impl Iterator<Item = VolatileSlice<'a>>) {
        self.0.extend(slices.map(|slice| iovec {
            iov_base: slice.ptr_guard_mut().as_ptr().cast(),
            iov_len: slice.len(),
        }));
    }

    fn count(&self) -> io::Result<libc::c_int> {
        if self.0.len() > MAX {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        libc::c_int::try_from(self.0.len()).map_err(io::Error::other)
    }
}

fn check(result: isize) -> io::Result<usize> {
    usize::try_from(result).map_err(|_| io::Error::last_os_error())
}
