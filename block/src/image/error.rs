//! Why an image cannot be a disk.

use std::{io, path::PathBuf};

use super::holder::Holder;

/// Why an image cannot be a disk; each is one line that says what to do.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// Nothing of that name, and none is to be made.
    #[error("`{path}` does not exist: give another, or say auto_create = true and size, and it is made", path = path.display())]
    Missing {
        /// The image.
        path: PathBuf,
    },
    /// Neither a file nor a block device.
    #[error("`{path}` is {what} and no disk: a disk is a regular file or a block device", path = path.display())]
    Kind {
        /// The image.
        path: PathBuf,
        /// What it is.
        what: &'static str,
    },
    /// It may not be written.
    #[error(
        "`{path}` cannot be written ({source}): give minivmm the right to, or say read_only = true",
        path = path.display()
    )]
    NotWritable {
        /// The image.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// There is nothing in it.
    #[error("`{path}` is empty: a disk has at least 512 bytes", path = path.display())]
    Empty {
        /// The image.
        path: PathBuf,
    },
    /// No whole number of sectors.
    #[error(
        "`{path}` has {size} bytes, which is no multiple of {unit}: is it a raw image? `truncate -s %{unit} {path}` fills it up",
        path = path.display()
    )]
    Unit {
        /// The image.
        path: PathBuf,
        /// Its bytes.
        size: u64,
        /// What they must be a multiple of.
        unit: u32,
    },
    /// Smaller than its configuration says.
    #[error(
        "`{path}` has {size} bytes, and size says {wanted}: make it larger with `truncate -s {wanted} {path}` and its file system with resize2fs in the guest, or correct size",
        path = path.display()
    )]
    TooSmall {
        /// The image.
        path: PathBuf,
        /// Its bytes.
        size: u64,
        /// The bytes that it is to have.
        wanted: u64,
    },
    /// Another process works on it.
    #[error(
        "`{path}` is in use {}: a disk that is written to has one VM, and one with read_only = true has readers alone",
        by(holder.as_ref()),
        path = path.display()
    )]
    InUse {
        /// The image.
        path: PathBuf,
        /// Who that is, if it can be found out.
        holder: Option<Holder>,
    },
    /// It is being made.
    #[error("`{path}` is being made by another minivmm", path = path.display())]
    BeingMade {
        /// The image.
        path: PathBuf,
    },
    /// No lock, for another reason than that somebody has it.
    #[error("`{path}` cannot be locked: {source}", path = path.display())]
    Lock {
        /// The image.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Its file system cannot pass the page cache by.
    #[error("`{path}` cannot be opened with O_DIRECT ({source}): say direct = false", path = path.display())]
    Direct {
        /// The image.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// There is no program that makes such a file system.
    #[error(
        "{program} is not installed, which makes the file system of `{path}`: install it, or make the image yourself",
        path = path.display()
    )]
    NoMkfs {
        /// The program.
        program: String,
        /// The image.
        path: PathBuf,
    },
    /// The program that makes it has failed.
    #[error("{program} could not make the file system of `{path}`: {said}", path = path.display())]
    Mkfs {
        /// The program.
        program: String,
        /// The image.
        path: PathBuf,
        /// Its last words, or how it ended.
        said: String,
    },
    /// Anything else.
    #[error("`{path}` cannot be {what}: {source}", path = path.display())]
    Io {
        /// The image.
        path: PathBuf,
        /// What was to be done to it.
        what: &'static str,
        /// Why.
        source: io::Error,
    },
}

impl ImageError {
    /// The key of a volume that it is about.
    pub fn key(&self) -> &'static str {
        match self {
            Self::NotWritable { .. } => "read_only",
            Self::TooSmall { .. } => "size",
            Self::Direct { .. } => "direct",
            Self::NoMkfs { .. } | Self::Mkfs { .. } => "fs_type",
            _ => "image",
        }
    }
}

fn by(holder: Option<&Holder>) -> String {
    match holder {
        Some(holder) => format!("by {holder}"),
        None => "by another process".to_owned(),
    }
}
