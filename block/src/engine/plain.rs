//! One operation by one system call.
#![allow(unsafe_code)]

use std::{fs::File, io, os::fd::AsRawFd};

use super::{Action, Operation};

/// Modes of fallocate(2): the size of the image stays.
pub(super) const PUNCH: i32 = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
pub(super) const ZERO: i32 = libc::FALLOC_FL_ZERO_RANGE | libc::FALLOC_FL_KEEP_SIZE;

/// Carries `operation` out; gives the bytes that were read or written.
pub(super) fn perform(file: &File, operation: &Operation) -> io::Result<u64> {
    let fd = file.as_raw_fd();
    let iovecs = operation.vectors.iovecs();
    let count = iovecs.len() as libc::c_int;
    let offset = offset(operation.offset)?;
    let result = match operation.action {
        // SAFETY: the list's pieces are mapped memory that is nobody's until the operation is given back, but for the
        // guest, to whose memory nothing here has a reference.
        Action::Read => unsafe { libc::preadv(fd, iovecs.as_ptr(), count, offset) },
        Action::Write { stable } => {
            let flags = if stable { libc::RWF_DSYNC } else { 0 };
            // SAFETY: as above; and what is written is only read.
            unsafe { libc::pwritev2(fd, iovecs.as_ptr(), count, offset, flags) }
        }
        Action::Flush => {
            // SAFETY: it takes a descriptor alone.
            (unsafe { libc::fdatasync(fd) }) as isize
        }
        Action::Punch => allocate(fd, PUNCH, offset, operation.len)?,
        Action::Zero => allocate(fd, ZERO, offset, operation.len)?,
    };
    u64::try_from(result).map_err(|_| io::Error::last_os_error())
}

fn allocate(fd: i32, mode: i32, at: i64, len: u64) -> io::Result<isize> {
    let len = offset(len)?;
    // SAFETY: it takes numbers alone.
    Ok(unsafe { libc::fallocate(fd, mode, at, len) } as isize)
}

fn offset(bytes: u64) -> io::Result<i64> {
    i64::try_from(bytes).map_err(|_| io::ErrorKind::InvalidInput.into())
}
