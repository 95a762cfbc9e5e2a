//! The sizes in which an image is best, or must be, read and written.
#![allow(unsafe_code)]

use std::{
    fs::{File, Metadata},
    io,
    os::{
        fd::AsRawFd,
        unix::fs::{FileTypeExt, MetadataExt},
    },
};

use rustix::fs::{ioctl_blkpbszget, ioctl_blksszget};

use crate::{SECTOR, engine::PAGE};

/// Sizes in bytes, powers of two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sectors {
    /// The disk's logical sector: with O_DIRECT the smallest unit, and what memory is aligned to.
    pub(crate) logical: u32,
    /// What is read and written as a whole below.
    pub(crate) physical: u32,
}

impl Sectors {
    pub(super) fn of(file: &File, metadata: &Metadata, direct: bool) -> io::Result<Self> {
        let device = metadata.file_type().is_block_device();
        let mut sectors = match device {
            true => Self {
                logical: ioctl_blksszget(file)?,
                physical: ioctl_blkpbszget(file)?,
            },
            false => Self {
                logical: SECTOR as u32,
                physical: u32::try_from(metadata.blksize()).unwrap_or(PAGE as u32),
            },
        };
        if direct && !device {
            sectors.logical = probe(file)?;
        }
        let possible =
            |size: &u32| size.is_power_of_two() && (SECTOR as u32..=PAGE as u32).contains(size);
        if !possible(&sectors.logical) {
            let why = format!("its sectors have {} bytes", sectors.logical);
            return Err(io::Error::other(why));
        }
        if !possible(&sectors.physical) {
            sectors.physical = PAGE as u32;
        }
        sectors.physical = sectors.physical.max(sectors.logical);
        Ok(sectors)
    }
}

/// The smallest unit that O_DIRECT takes: statx(2) says it since Linux 6.1 for some file systems, a read says it for all.
fn probe(file: &File) -> io::Result<u32> {
    #[repr(align(4096))]
    struct Buffer([u8; 2 * PAGE]);
    let mut buffer = Buffer([0; 2 * PAGE]);
    let mut last = io::Error::from(io::ErrorKind::InvalidInput);
    let mut size = SECTOR as usize;
    while size <= PAGE {
        // As little aligned as it is to be allowed, in memory as in the file.
        let memory = &mut buffer.0[size..2 * size];
        // SAFETY: it writes at most as much as the slice has.
        let read = unsafe {
            libc::pread(
                file.as_raw_fd(),
                memory.as_mut_ptr().cast(),
                memory.len(),
                size as i64,
            )
        };
        if read >= 0 {
            return Ok(size as u32);
        }
        last = io::Error::last_os_error();
        if last.raw_os_error() != Some(libc::EINVAL) {
            break;
        }
        size *= 2;
    }
    Err(last)
}
