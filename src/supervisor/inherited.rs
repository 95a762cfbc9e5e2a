//! Descriptors that the program which starts minivmm has left open for it.
#![allow(unsafe_code)]

use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd};

use minivmm_net::{TapError, tap::TUN_NUMBERS};
use rustix::{
    fs::{FileType, fstat, major, minor},
    io::{FdFlags, fcntl_setfd},
};

/// Takes descriptor `fd` if it is an open /dev/net/tun or the device of a macvtap, of which this process has opened none yet; children get it only
/// if it is sent to them.
pub fn take_tap(fd: i32) -> Result<OwnedFd, TapError> {
    // SAFETY: it only asks, and nothing is done with a descriptor that is not open.
    if unsafe { libc::fcntl(fd, libc::F_GETFD) } < 0 {
        return Err(TapError::Closed { fd });
    }
    // SAFETY: it is open, and nothing is closed while this is looked at.
    let file = unsafe { BorrowedFd::borrow_raw(fd) };
    let why = "it is of another kind of file";
    let is_tap = fstat(file).is_ok_and(|stat| {
        let numbers = (major(stat.st_rdev), minor(stat.st_rdev));
        FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice
            && (numbers == TUN_NUMBERS || macvtap() == Some(numbers.0))
    });
    if !is_tap || fcntl_setfd(file, FdFlags::CLOEXEC).is_err() {
        return Err(TapError::Descriptor { fd, why });
    }
    // SAFETY: it is no descriptor that anything of this process has opened: it begins with those of the configuration,
    // each of which stands there once.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// The major number of the devices of macvtaps, which the kernel gives when the driver is loaded.
fn macvtap() -> Option<u32> {
    let devices = std::fs::read_to_string("/proc/devices").ok()?;
    major_of(&devices, "macvtap")
}

/// The number of the character devices of this name, in the text of /proc/devices.
fn major_of(devices: &str, name: &str) -> Option<u32> {
    let (characters, _) = devices.split_once("Block devices:")?;
    let mut lines = characters.lines().map(str::split_whitespace);
    lines.find_map(|mut line| {
        let number = line.next()?;
        (line.next()? == name).then(|| number.parse().ok())?
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_number_of_a_driver_is_among_the_character_devices() {
        let devices =
            "Character devices:\n  1 mem\n 10 misc\n246 macvtap\n\nBlock devices:\n  7 loop\n";
        assert_eq!(major_of(devices, "macvtap"), Some(246));
        assert_eq!(major_of(devices, "loop"), None);
        assert_eq!(major_of(devices, "ipvtap"), None);
        assert_eq!(major_of("", "macvtap"), None);
    }
}
