//! Raw images and block devices of the host: opened, checked, locked and, if need be, made.
//!
//! The supervisor [opens](Image::open) them, and the VMM process, which opens nothing, gets their descriptors
//! ([`Image::from_file`]). A format is never guessed: a guest that writes to its disk what looks like another format would
//! have the host read it as one.

mod create;
mod error;
mod holder;
mod lock;
mod sectors;

use std::{
    fs::{File, Metadata},
    io,
    os::{
        fd::{AsFd, BorrowedFd},
        unix::fs::{FileTypeExt, OpenOptionsExt},
    },
    path::Path,
};

use rustix::fs::OFlags;

pub use create::NewImage;
pub use error::ImageError;
pub use holder::Holder;
use sectors::Sectors;

use crate::SECTOR;

/// How an image is used.
#[derive(Clone, Copy, Debug, Default)]
pub struct ImageOptions {
    /// Nobody writes to it, so any number of VMs may have it; else this one has it alone.
    pub read_only: bool,
    /// What is read and written passes the host's page cache by (O_DIRECT).
    pub direct: bool,
    /// The bytes that it must have at least.
    pub size: Option<u64>,
}

/// An open image.
#[derive(Debug)]
pub struct Image {
    pub(crate) file: File,
    pub(crate) options: ImageOptions,
    /// Bytes, a multiple of 512.
    pub(crate) size: u64,
    pub(crate) sectors: Sectors,
}

impl Image {
    /// Opens the image at `path`, and locks it.
    pub fn open(path: &Path, options: ImageOptions) -> Result<Self, ImageError> {
        let image = Self::look(path, options, true)?;
        lock::take(&image.file, path, options.read_only)?;
        Ok(image)
    }

    /// Makes sure that [`open`](Self::open) would find what it needs; who else uses it is not asked. Gives what tells one
    /// file from another.
    pub fn check(path: &Path, options: ImageOptions) -> Result<Metadata, ImageError> {
        Self::look(path, options, false)?.metadata(path)
    }

    /// What tells one file from another.
    pub fn metadata(&self, path: &Path) -> Result<Metadata, ImageError> {
        let metadata = self.file.metadata();
        metadata.map_err(|source| io_error(path, "looked at", source))
    }

    /// An image that [`open`](Self::open) has opened, perhaps in another process, and locked; `name` stands for its path.
    pub fn from_file(file: File, name: &Path, options: ImageOptions) -> Result<Self, ImageError> {
        let metadata = file.metadata();
        let metadata = metadata.map_err(|source| io_error(name, "looked at", source))?;
        let path = || name.to_owned();
        if let Some(what) = no_disk(&metadata) {
            return Err(ImageError::Kind { path: path(), what });
        }
        // A block device says its size nowhere else.
        let size = rustix::fs::seek(&file, rustix::fs::SeekFrom::End(0))
            .map_err(|error| io_error(name, "measured", error.into()))?;
        if size == 0 {
            return Err(ImageError::Empty { path: path() });
        }
        let sectors = Sectors::of(&file, &metadata, options.direct).map_err(|source| {
            let path = path();
            match options.direct {
                true => ImageError::Direct { path, source },
                false => io_error(name, "looked at", source),
            }
        })?;
        let unit = match options.direct {
            true => sectors.logical,
            false => SECTOR as u32,
        };
        if !size.is_multiple_of(unit.into()) {
            return Err(ImageError::Unit {
                path: path(),
                size,
                unit,
            });
        }
        if let Some(wanted) = options.size.filter(|wanted| size < *wanted) {
            return Err(ImageError::TooSmall {
                path: path(),
                size,
                wanted,
            });
        }
        Ok(Self {
            file,
            options,
            size,
            sectors,
        })
    }

    /// Bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Opens it; `claim`: a block device is then nobody else's to mount.
    fn look(path: &Path, options: ImageOptions, claim: bool) -> Result<Self, ImageError> {
        let missing = |source: io::Error| match source.kind() {
            io::ErrorKind::NotFound => ImageError::Missing {
                path: path.to_owned(),
            },
            _ => io_error(path, "opened", source),
        };
        // Looked at before it is opened: to open a pipe or a terminal may have effects.
        let metadata = std::fs::metadata(path).map_err(missing)?;
        if let Some(what) = no_disk(&metadata) {
            let path = path.to_owned();
            return Err(ImageError::Kind { path, what });
        }
        let mut flags = libc::O_NONBLOCK | libc::O_NOCTTY;
        if options.direct {
            flags |= libc::O_DIRECT;
        }
        if claim && metadata.file_type().is_block_device() && !options.read_only {
            // Refuses a device that the host has mounted, or uses otherwise (open(2)).
            flags |= libc::O_EXCL;
        }
        let mut how = File::options();
        how.read(true).write(!options.read_only).custom_flags(flags);
        let file = lock::open_patiently(|| how.open(path)).map_err(|source| {
            let path = path.to_owned();
            match source.raw_os_error() {
                Some(libc::EACCES | libc::EPERM | libc::EROFS) if !options.read_only => {
                    ImageError::NotWritable { path, source }
                }
                Some(libc::EINVAL) if options.direct => ImageError::Direct { path, source },
                Some(libc::EBUSY) => ImageError::InUse {
                    path,
                    holder: Holder::of(&metadata),
                },
                _ => missing(source),
            }
        })?;
        // Was for the opening alone: io_uring takes it for a wish that nothing ever waits.
        rustix::fs::fcntl_getfl(&file)
            .and_then(|flags| rustix::fs::fcntl_setfl(&file, flags - OFlags::NONBLOCK))
            .map_err(|error| io_error(path, "opened", error.into()))?;
        Self::from_file(file, path, options)
    }
}

impl AsFd for Image {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

fn io_error(path: &Path, what: &'static str, source: io::Error) -> ImageError {
    ImageError::Io {
        path: path.to_owned(),
        what,
        source,
    }
}

/// What it is, if it cannot be a disk.
fn no_disk(metadata: &Metadata) -> Option<&'static str> {
    let kind = metadata.file_type();
    match () {
        () if kind.is_file() || kind.is_block_device() => None,
        () if kind.is_dir() => Some("a directory"),
        () if kind.is_fifo() => Some("a pipe"),
        () if kind.is_socket() => Some("a socket"),
        () if kind.is_char_device() => Some("a character device"),
        () => Some("something else"),
    }
}

/// Whether two images are one file.
pub fn is_same(one: &Metadata, other: &Metadata) -> bool {
    use std::os::unix::fs::MetadataExt;
    let devices = [one, other].map(|file| file.file_type().is_block_device());
    match devices {
        // Two names of one device are two files.
        [true, true] => one.rdev() == other.rdev(),
        _ => holder::same(one, other),
    }
}

#[cfg(test)]
mod tests;
