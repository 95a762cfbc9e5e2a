//! The ioctls of /dev/net/tun (linux/if_tun.h), each as a function that cannot be called wrongly.
#![allow(unsafe_code)]

use std::{ffi::CStr, fs::File, io};

use vmm_sys_util::ioctl::{ioctl_with_mut_ref, ioctl_with_ref, ioctl_with_val};

/// The flags of an interface, IFF_TAP and so on.
pub(crate) type Flags = i32;

/// Attaches `file` to the interface `name` (TUNSETIFF). The name is shorter than IFNAMSIZ.
pub(crate) fn set_interface(file: &File, name: &str, flags: Flags) -> io::Result<()> {
    let mut request = request(name);
    request.ifr_ifru.ifru_flags = flags as libc::c_short;
    // SAFETY: TUNSETIFF reads and writes a struct ifreq, which this is.
    check(unsafe { ioctl_with_mut_ref(file, libc::TUNSETIFF as _, &mut request) })
}

/// The name and flags of the interface that `file` is attached to (TUNGETIFF).
pub(crate) fn interface(file: &File) -> io::Result<(String, Flags)> {
    let mut request = request("");
    // SAFETY: TUNGETIFF writes a struct ifreq, which this is.
    check(unsafe { ioctl_with_mut_ref(file, libc::TUNGETIFF as _, &mut request) })?;
    let name = request.ifr_name.map(|c| c as u8);
    let name = CStr::from_bytes_until_nul(&name)
        .map_err(io::Error::other)?
        .to_string_lossy()
        .into_owned();
    // SAFETY: TUNGETIFF has set this member of the union, and any bits are a number.
    let flags = unsafe { request.ifr_ifru.ifru_flags };
    // The flags are 16 bits of which the highest is one too.
    Ok((name, Flags::from(flags as u16)))
}

/// Sets the size of the header before each frame (TUNSETVNETHDRSZ).
pub(crate) fn set_header_size(file: &File, bytes: i32) -> io::Result<()> {
    // SAFETY: TUNSETVNETHDRSZ reads an int.
    check(unsafe { ioctl_with_ref(file, libc::TUNSETVNETHDRSZ as _, &bytes) })
}

/// Sets what the reader of the tap accepts unfinished: checksums, segments (TUNSETOFFLOAD).
pub(crate) fn set_offload(file: &File, offloads: u32) -> io::Result<()> {
    // SAFETY: the argument is a number.
    check(unsafe { ioctl_with_val(file, libc::TUNSETOFFLOAD as _, offloads.into()) })
}

/// Gives a queue of a tap with several its part of the frames, or none of them (TUNSETQUEUE).
pub(crate) fn set_queue(file: &File, attached: bool) -> io::Result<()> {
    let mut request = request("");
    let flag = if attached {
        libc::IFF_ATTACH_QUEUE
    } else {
        libc::IFF_DETACH_QUEUE
    };
    request.ifr_ifru.ifru_flags = flag as libc::c_short;
    // SAFETY: TUNSETQUEUE reads a struct ifreq, which this is.
    check(unsafe { ioctl_with_mut_ref(file, libc::TUNSETQUEUE as _, &mut request) })
}

/// A request about the interface `name`, which is shorter than IFNAMSIZ.
pub(crate) fn request(name: &str) -> libc::ifreq {
    // SAFETY: a struct ifreq is numbers and a union of numbers and pointers, for which all zero is a
    // value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    // The last byte stays zero.
    let room = request.ifr_name.len() - 1;
    for (to, from) in request.ifr_name[..room].iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    request
}

pub(crate) fn check(result: libc::c_int) -> io::Result<()> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}
