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

/// How long anybody at all is waited for: udev locks a disk while it looks at it, and a process that is being killed has its
/// files for a while.
const BRIEFLY: Duration = Duration::from_secs(1);
/// How long a lock is waited for that nobody seems to have, and how long between two tries.
const PATIENCE: Duration = Duration::from_secs(5);
const BETWEEN: Duration = Duration::from_millis(20);

/// The byte that QEMU locks, and as all its locks only shared, where it may write (block/file-posix.c:
/// RAW_LOCK_PERM_BASE and BLK_PERM_WRITE).
const QEMU_WRITES: i64 = 101;

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
    let begun = Instant::now();
    loop {
        let waits = || {
            let waited = begun.elapsed();
            waited < BRIEFLY || waited < PATIENCE && is_left_over(file)
        };
        match flock(file, how) {
            Err(Errno::WOULDBLOCK) if waits() => thread::sleep(BETWEEN),
            result => return result,
        }
    }
}

/// Opens by `open`, and tries again for a while if the device is somebody else's (EBUSY).
pub(super) fn open_patiently(open: impl Fn() -> io::Result<File>) -> io::Result<File> {
    let begun = Instant::now();
    loop {
        match open() {
            Err(error)
                if error.raw_os_error() == Some(libc::EBUSY) && begun.elapsed() < BRIEFLY =>
            {
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

/// Locks all bytes for the open file description (fcntl(2), F_OFD_SETLK). Who only reads leaves the byte out by which QEMU
/// says that it writes, and looks whether it is locked.
fn take_bytes(file: &File, read_only: bool) -> io::Result<()> {
    if !read_only {
        return lock(file, libc::F_WRLCK, 0, END);
    }
    lock(file, libc::F_RDLCK, 0, QEMU_WRITES)?;
    lock(file, libc::F_RDLCK, QEMU_WRITES + 1, END)?;
    match is_locked(file, QEMU_WRITES)? {
        true => Err(io::Error::from_raw_os_error(libc::EWOULDBLOCK)),
        false => Ok(()),
    }
}

/// As a length: to the end, wherever that will be.
const END: i64 = 0;

fn lock(file: &File, kind: libc::c_int, start: i64, len: i64) -> io::Result<()> {
    let lock = range(kind, start, len);
    // SAFETY: the structure is only read, and during the call alone.
    match unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_SETLK, &raw const lock) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Whether somebody has any lock of the byte.
fn is_locked(file: &File, byte: i64) -> io::Result<bool> {
    let mut lock = range(libc::F_WRLCK, byte, 1);
    // SAFETY: the structure is written to during the call alone, and is nobody else's.
    match unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_GETLK, &raw mut lock) } {
        0 => Ok(libc::c_int::from(lock.l_type) != libc::F_UNLCK),
        _ => Err(io::Error::last_os_error()),
    }
}

fn range(kind: libc::c_int, start: i64, len: i64) -> libc::flock {
    libc::flock {
        l_type: kind as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: start,
        l_len: len,
        l_pid: 0,
    }
}
