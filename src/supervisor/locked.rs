//! Memory for secrets.
#![allow(unsafe_code)]

use std::{
    ffi::c_void,
    io,
    ops::{Deref, DerefMut},
    ptr::{self, NonNull},
    slice,
};

use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mlock, mmap_anonymous, munmap};
use zeroize::Zeroize;

/// Bytes that are in no core dump, not in a forked child's memory, and, if the process may lock that much, never on a
/// swap device. Overwritten with zeros in the end.
#[derive(Debug)]
pub struct Locked {
    start: NonNull<u8>,
    len: usize,
}

impl Locked {
    /// Zeros, of which there must be one at least.
    pub fn new(len: usize) -> io::Result<Self> {
        // SAFETY: a new mapping at an address of the kernel's choice.
        let start = unsafe {
            mmap_anonymous(
                ptr::null_mut(),
                len,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::PRIVATE,
            )?
        };
        let start = NonNull::new(start.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        let memory = Self { start, len };
        for advice in [Advice::LinuxDontDump, Advice::LinuxWipeOnFork] {
            // SAFETY: the range is ours, nobody has a reference into it, and a child that is forked has none either.
            unsafe { madvise(memory.address(), len, advice)? };
        }
        // SAFETY: the range is ours.
        if let Err(error) = unsafe { mlock(memory.address(), len) } {
            tracing::warn!(
                %error,
                "credentials cannot be locked in memory and may come onto a swap device: raise the limit (LimitMEMLOCK=)"
            );
        }
        Ok(memory)
    }

    fn address(&self) -> *mut c_void {
        self.start.as_ptr().cast()
    }
}

impl Deref for Locked {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: the mapping is ours alone for as long as `self` lives, readable and initialised.
        unsafe { slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }
}

impl DerefMut for Locked {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as for `deref`, and writable.
        unsafe { slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }
}

impl Drop for Locked {
    fn drop(&mut self) {
        self.zeroize();
        // SAFETY: the mapping is ours, and nobody has a reference into it any more.
        if let Err(error) = unsafe { munmap(self.address(), self.len) } {
            tracing::error!("cannot unmap memory: {error}");
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::fs;

    use super::*;

    #[test]
    fn it_is_locked_undumpable_and_wiped_in_children() {
        let mut memory = Locked::new(100).unwrap();
        memory.copy_from_slice(&[7; 100]);
        let start = format!("{:x}-", memory.start.as_ptr() as usize);
        let smaps = fs::read_to_string("/proc/self/smaps").unwrap();
        let mut lines = smaps.lines().skip_while(|line| !line.starts_with(&start));
        let flags = lines
            .find_map(|line| line.strip_prefix("VmFlags:"))
            .unwrap();
        for flag in ["lo", "dd", "wf"] {
            assert!(flags.split(' ').any(|f| f == flag), "no {flag} in {flags}");
        }
        assert_eq!(*memory, [7; 100]);
    }
}
