//! Descriptors that the program which starts minivmm has left open for it.
#![allow(unsafe_code)]

use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd};

use minivmm_net::TapError;
use rustix::{
    fs::{FileType, fstat, major, minor},
    io::{FdFlags, fcntl_setfd},
};

/// /dev/net/tun (Documentation/admin-guide/devices.txt).
const TUN: (u32, u32) = (10, 200);

/// Takes descriptor `fd` if it is an open /dev/net/tun, of which this process has opened none yet; children get it only
/// if it is sent to them.
pub fn take_tap(fd: i32) -> Result<OwnedFd, TapError> {
    // SAFETY: it only asks, and nothing is done with a descriptor that is not open.
    if unsafe { libc::fcntl(fd, libc::F_GETFD) } < 0 {
        return Err(TapError::Closed { fd });
    }
    // SAFETY: it is open, and nothing is closed while this is looked at.
    let file = unsafe { BorrowedFd::borrow_raw(fd) };
    let why = "it is of another kind of file";
    let is_tun = fstat(file).is_ok_and(|stat| {
        FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice
            && (major(stat.st_rdev), minor(stat.st_rdev)) == TUN
    });
    if !is_tun || fcntl_setfd(file, FdFlags::CLOEXEC).is_err() {
        return Err(TapError::Descriptor { fd, why });
    }
    // SAFETY: it is no descriptor that anything of this process has opened: it begins with those of the configuration,
    // each of which stands there once.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
