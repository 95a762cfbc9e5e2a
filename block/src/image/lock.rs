//! Keeps an image that is written to for one VM.
#![allow(unsafe_code)]

use std::{
    fs::File,
    io,
    os::fd::AsRawFd,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use rustix::{
    fs::{FlockOperation, flock, fstatfs},
    io::Errno,
};

use super::{ImageError, holder::Holder};

/// File systems on which a lock by flock(2) *is* a lock of a range of bytes (NFS, CIFS, SMB2: linux/magic.h), so that one
/// would stand in the other's way.
const ONE_KIND: [u32; 3] = [0x6969, 0xff53_4d42, 0xfe53_4d42];

/// How long a lock is waited for that nobody seems to have, and how long between two tries.
const PATIENCE: Duration = Duration::from_secs(5);
const BETWEEN: Duration = Duration::from_millis(20);

/// Takes two locks that last as long as the open file description, in whatever process that is: one by flock(2), by
/// which others are told who has it, and one of all bytes, which other virtual machine monitors look at (QEMU,
/// cloud-hypervisor). Both are shared if the image is only read.
pub(super) fn take(file: &File, path: &Path, read_only: bool) -> Result<(), ImageError> {
    let failed = |error: io::Error| {
        let path = path.to_owned();
        match error.raw_os_error() {
            Some(libc::EWOULDBLOCK | libc::EACCES) => ImageError::InUse {
                holder: file.metadata().ok().and_then(|file| Holder::of(&file)),
                path,
            },
            _ => ImageError::Lock {
                path,
                source: error,
            },
        }
    };
    let how = match read_only {
        true => FlockOperation::NonBlockingLockShared,
        false => FlockOperation::NonBlockingLockExclusive,
    };
    flock_patiently(file, how).map_err(|error| failed(error.into()))?;
    let kind = fstatfs(file).map_err(|error| failed(error.into()))?.f_type as u32;
    match ONE_KIND.contains(&kind) {
        true => Ok(()),
        false => take_bytes(file, read_only).map_err(|error| {
            // Or it would be ourselves who is found to have it.
            let _ = flock(file, FlockOperation::Unlock);
            failed(error)
        }),
    }
}

/// Locks, and waits for a lock whose process has been killed: what it has begun may still be on its way to the disk.
fn flock_patiently(file: &File, how: FlockOperation) -> Result<(), Errno> {
    let until = Instant::now() + PATIENCE;
    loop {
        match flock(file, how) {
            Err(Errno::WOULDBLOCK) if Instant::now() < until && is_left_over(file) => {
                thread::sleep(BETWEEN);
            }
            result => return result,
        }
    }
}

/// Whether nobody can be found who has the lock, or one who has ended.
fn is_left_over(file: &File) -> bool {
    let holder = file.metadata().ok().and_then(|file| Holder::of(&file));
    holder.is_none_or(|holder| !holder.is_running())
}

/// Locks all bytes for the open file description (fcntl(2), F_OFD_SETLK).
fn take_bytes(file: &File, read_only: bool) -> io::Result<()> {
    let kind = if read_only {
        libc::F_RDLCK
    } else {
        libc::F_WRLCK
    };
    let lock = libc::flock {
        l_type: kind as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: 0,
        // To the end, wherever that will be.
        l_len: 0,
        l_pid: 0,
    };
    // SAFETY: the structure is only read, and during the call alone.
    match unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_SETLK, &raw const lock) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
