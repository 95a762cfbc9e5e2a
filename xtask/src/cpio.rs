//! Writes initramfs images: cpio archives in the "newc" format, as the Linux kernel's
//! Documentation/driver-api/early-userspace/buffer-format.rst describes it.
//!
//! Everything belongs to root and has no time, and entries are sorted, so the same files give the same bytes whoever
//! builds them. No privileges are needed, also for device nodes.

use std::collections::BTreeMap;
use std::io::{self, Write};

/// An initramfs in the making: paths without a leading slash, and what is there.
#[derive(Debug, Default)]
pub struct Archive {
    entries: BTreeMap<String, Entry>,
}

#[derive(Debug)]
struct Entry {
    /// File type and permissions, as in `st_mode`.
    mode: u32,
    /// The device number that a node stands for, major and minor.
    device: (u32, u32),
    /// A file's content or a symlink's target.
    data: Vec<u8>,
}

const S_IFDIR: u32 = 0o040_000;
const S_IFCHR: u32 = 0o020_000;
const S_IFREG: u32 = 0o100_000;
const S_IFLNK: u32 = 0o120_000;

impl Archive {
    /// Adds a directory, and the directories above it.
    pub fn directory(&mut self, path: &str, permissions: u32) {
        self.add(path, S_IFDIR | permissions, (0, 0), Vec::new());
    }

    /// Adds a regular file.
    pub fn file(&mut self, path: &str, permissions: u32, data: impl Into<Vec<u8>>) {
        self.add(path, S_IFREG | permissions, (0, 0), data.into());
    }

    /// Adds a symbolic link to `target`.
    pub fn symlink(&mut self, path: &str, target: &str) {
        self.add(path, S_IFLNK | 0o777, (0, 0), target.as_bytes().to_vec());
    }

    /// Adds a character device.
    pub fn character_device(&mut self, path: &str, permissions: u32, major: u32, minor: u32) {
        self.add(path, S_IFCHR | permissions, (major, minor), Vec::new());
    }

    fn add(&mut self, path: &str, mode: u32, device: (u32, u32), data: Vec<u8>) {
        for (slash, _) in path.match_indices('/') {
            self.entries
                .entry(path[..slash].to_owned())
                .or_insert(Entry {
                    mode: S_IFDIR | 0o755,
                    device: (0, 0),
                    data: Vec::new(),
                });
        }
        self.entries
            .insert(path.to_owned(), Entry { mode, device, data });
    }

    /// Writes the archive. Several may follow each other in one initramfs: the kernel unpacks them in order.
    pub fn write(&self, mut to: impl Write) -> io::Result<()> {
        for (inode, (path, entry)) in (1..).zip(&self.entries) {
            write_entry(&mut to, inode, path, entry)?;
        }
        let trailer = Entry {
            mode: 0,
            device: (0, 0),
            data: Vec::new(),
        };
        write_entry(&mut to, 0, "TRAILER!!!", &trailer)
    }
}

fn write_entry(to: &mut impl Write, inode: u32, path: &str, entry: &Entry) -> io::Result<()> {
    let size = |length: usize| {
        u32::try_from(length).map_err(|_| io::Error::other(format!("{path} is too large for cpio")))
    };
    let (owner, group, links, time, check) = (0, 0, 1, 0, 0);
    let fields = [
        inode,
        entry.mode,
        owner,
        group,
        links,
        time,
        size(entry.data.len())?,
        0,
        0,
        entry.device.0,
        entry.device.1,
        size(path.len() + 1)?,
        check,
    ];
    let mut header = String::from("070701");
    for field in fields {
        header.push_str(&format!("{field:08X}"));
    }
    to.write_all(header.as_bytes())?;
    to.write_all(path.as_bytes())?;
    to.write_all(&[0])?;
    pad(to, header.len() + path.len() + 1)?;
    to.write_all(&entry.data)?;
    pad(to, entry.data.len())
}

/// Name and content each end on a multiple of four bytes.
fn pad(to: &mut impl Write, length: usize) -> io::Result<()> {
    to.write_all(&[0; 3][..length.next_multiple_of(4) - length])
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn bytes(archive: &Archive) -> Vec<u8> {
        let mut bytes = Vec::new();
        archive.write(&mut bytes).unwrap();
        bytes
    }

    #[test]
    fn a_file_is_written_with_its_header_name_and_content_padded_to_four() {
        let mut archive = Archive::default();
        archive.file("init", 0o755, "12345");
        let bytes = bytes(&archive);
        assert_eq!(&bytes[..6], b"070701");
        assert_eq!(&bytes[14..22], b"000081ED", "mode");
        assert_eq!(&bytes[54..62], b"00000005", "size");
        assert_eq!(
            &bytes[94..102],
            b"00000005",
            "length of the name with its zero"
        );
        assert_eq!(&bytes[110..116], b"init\0\0", "110 + 5 is padded to 116");
        assert_eq!(&bytes[116..124], b"12345\0\0\0");
        assert_eq!(&bytes[124..130], b"070701", "the trailer follows");
        assert_eq!(bytes.len() % 4, 0);
    }

    #[test]
    fn the_order_of_adding_does_not_matter() {
        let (mut one, mut other) = (Archive::default(), Archive::default());
        one.file("b/x", 0o644, "x");
        one.symlink("a", "b/x");
        other.symlink("a", "b/x");
        other.file("b/x", 0o644, "x");
        assert_eq!(bytes(&one), bytes(&other));
    }

    #[test]
    fn directories_above_a_file_come_before_it() {
        let mut archive = Archive::default();
        archive.file("usr/lib/modules/order", 0o644, "");
        let paths: Vec<_> = archive.entries.keys().map(String::as_str).collect();
        assert_eq!(
            paths,
            ["usr", "usr/lib", "usr/lib/modules", "usr/lib/modules/order"]
        );
    }
}
