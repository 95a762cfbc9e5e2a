//! Whether an initrd is all there, as far as that can be told without unpacking it.
//!
//! An initrd is one or more archives behind each other (Documentation/driver-api/early-userspace/buffer-format.rst):
//! cpio as it is or compressed, with zeros between them. Where a cpio archive, xz, zstd and lz4 data end can be seen
//! from outside; of gzip, bzip2, lzma and lzo data it cannot, and those, with all that is behind them, are left to the
//! kernel. So is whatever is damaged but not cut off: nothing is refused that a kernel would take.

use std::io::{self, BufReader, ErrorKind, Read, Seek, SeekFrom};

use super::Error;

/// The last entry's name in a cpio archive.
const TRAILER: &[u8] = b"TRAILER!!!";
/// Bytes of the end of the file that are looked at first: in most cases that is all.
const TAIL: u64 = 4096;
/// Most bytes of a block of lz4 data: 8 MiB that could not be made smaller (`LZ4_compressBound`).
const LZ4_BLOCK: u32 = (8 << 20) + (8 << 20) / 255 + 16;
/// So many pieces of archives are looked at; an initrd with more is taken as it is.
const MAX_PIECES: u32 = 1 << 20;

/// Fails if `file`, of `size` bytes, ends in the middle of something.
pub(super) fn check<F: Read + Seek>(file: &mut F, size: u64) -> Result<(), Error> {
    let mut initrd = Initrd {
        file,
        size,
        at: 0,
        pieces: 0,
    };
    if initrd.ends_with(TRAILER).map_err(Error::Read)? {
        return Ok(());
    }
    match initrd.walk() {
        Ok(()) => Ok(()),
        Err(Cut::In(what)) => Err(Error::Truncated { what, size }),
        Err(Cut::Unreadable(error)) => Err(Error::Read(error)),
    }
}

/// Why an initrd is not whole.
enum Cut {
    In(&'static str),
    Unreadable(io::Error),
}

struct Initrd<'a, F> {
    file: &'a mut F,
    size: u64,
    at: u64,
    pieces: u32,
}

impl<F: Read + Seek> Initrd<'_, F> {
    /// Whether `end` is the last of the file but for zeros.
    fn ends_with(&mut self, end: &[u8]) -> io::Result<bool> {
        let mut tail = Vec::new();
        let start = self.size.saturating_sub(TAIL);
        self.file.seek(SeekFrom::Start(start))?;
        self.file.take(TAIL).read_to_end(&mut tail)?;
        let zeros = tail.iter().rev().take_while(|byte| **byte == 0).count();
        Ok(tail[..tail.len() - zeros].ends_with(end))
    }

    /// Goes from archive to archive.
    fn walk(&mut self) -> Result<(), Cut> {
        while self.at < self.size && self.pieces < MAX_PIECES {
            self.pieces += 1;
            let Ok(magic) = self.peek::<6>("") else {
                // Too few bytes for any archive: the zeros at the end.
                return Ok(());
            };
            match magic {
                [0, 0, 0, 0, ..] => self.at += 4,
                [b'0', b'7', b'0', b'7', b'0', b'1' | b'2'] => self.cpio_entry()?,
                [0x28, 0xb5, 0x2f, 0xfd, ..] => self.zstd_frame()?,
                [0x02, 0x21, 0x4c, 0x18, ..] => self.lz4_blocks()?,
                [0xfd, b'7', b'z', b'X', b'Z', 0] => self.xz_stream()?,
                _ => return Ok(()),
            }
        }
        Ok(())
    }

    /// A header of 110 bytes in hexadecimal digits, the name and the content, each padded to four bytes. The trailer is
    /// an entry too, and an archive may do without it (buffer-format.rst).
    fn cpio_entry(&mut self) -> Result<(), Cut> {
        const WHAT: &str = "a cpio archive";
        let header = self.peek::<110>(WHAT)?;
        let field = |at: usize| {
            let digits = std::str::from_utf8(&header[at..at + 8]).ok();
            let value = digits.and_then(|digits| u64::from_str_radix(digits, 16).ok());
            value.unwrap_or(0)
        };
        let (content, name) = (field(54), field(94));
        let end = (self.at + 110 + name).next_multiple_of(4) + content;
        // Of an entry without content the NUL and the padding may be missing.
        let least = match content {
            0 => self.at + 109 + name,
            _ => end,
        };
        self.reach(least, WHAT)?;
        self.at = end.next_multiple_of(4);
        Ok(())
    }

    /// RFC 8878, 3.1.1.
    fn zstd_frame(&mut self) -> Result<(), Cut> {
        const WHAT: &str = "zstd data";
        let [_, _, _, _, descriptor] = self.peek::<5>(WHAT)?;
        let single = descriptor >> 5 & 1;
        let window = 1 - single;
        let dictionary = [0, 1, 2, 4][usize::from(descriptor & 3)];
        let content = [single, 2, 4, 8][usize::from(descriptor >> 6)];
        self.at += 5 + u64::from(window + dictionary + content);
        loop {
            let [low, middle, high] = self.peek::<3>(WHAT)?;
            let header = u32::from_le_bytes([low, middle, high, 0]);
            let size = match header >> 1 & 3 {
                // One byte that is repeated.
                1 => 1,
                _ => u64::from(header >> 3),
            };
            self.at += 3 + size;
            self.reach(self.at, WHAT)?;
            self.pieces += 1;
            if header & 1 == 1 || self.pieces >= MAX_PIECES {
                break;
            }
        }
        self.at += 4 * u64::from(descriptor >> 2 & 1);
        self.reach(self.at, WHAT)
    }

    /// Blocks, each behind its size, up to zeros or the end of the file (lz4's "legacy frame", which is what the kernel
    /// reads). Another frame may follow without a gap.
    fn lz4_blocks(&mut self) -> Result<(), Cut> {
        const WHAT: &str = "lz4 data";
        const MAGIC: u32 = 0x184c_2102;
        while self.at < self.size && self.pieces < MAX_PIECES {
            self.pieces += 1;
            let mut bytes = [0; 4];
            let left = (self.size - self.at).min(4) as usize;
            self.read(self.at, &mut bytes[..left], WHAT)?;
            match u32::from_le_bytes(bytes) {
                0 => return Ok(()),
                MAGIC => self.at += 4,
                _ if left < 4 => return Err(Cut::In(WHAT)),
                size @ ..=LZ4_BLOCK => {
                    self.at += 4 + u64::from(size);
                    self.reach(self.at, WHAT)?;
                }
                // Not the size of a block.
                _ => self.at = self.size,
            }
        }
        Ok(())
    }

    /// A stream ends with the flags of its header and `YZ`, at a multiple of four bytes from its start (the .xz file
    /// format, 2.1). That it is the end of the file is seen at once; to find out where it is before another archive, all
    /// is read.
    fn xz_stream(&mut self) -> Result<(), Cut> {
        const WHAT: &str = "xz data";
        if self.ends_with(b"YZ").map_err(Cut::Unreadable)? {
            self.at = self.size;
            return Ok(());
        }
        let [.., first, second] = self.peek::<8>(WHAT)?;
        let footer = [first, second, b'Y', b'Z'];
        let start = self.file.seek(SeekFrom::Start(self.at));
        start.map_err(Cut::Unreadable)?;
        let mut stream = BufReader::new(&mut *self.file);
        let mut group = [0; 4];
        while group != footer {
            match stream.read_exact(&mut group) {
                Ok(()) => self.at += 4,
                Err(error) if error.kind() == ErrorKind::UnexpectedEof => {
                    return Err(Cut::In(WHAT));
                }
                Err(error) => return Err(Cut::Unreadable(error)),
            }
        }
        Ok(())
    }

    /// Fails if the file ends before `end`.
    fn reach(&self, end: u64, what: &'static str) -> Result<(), Cut> {
        match end <= self.size {
            true => Ok(()),
            false => Err(Cut::In(what)),
        }
    }

    fn peek<const N: usize>(&mut self, what: &'static str) -> Result<[u8; N], Cut> {
        let mut bytes = [0; N];
        self.read(self.at, &mut bytes, what)?;
        Ok(bytes)
    }

    fn read(&mut self, at: u64, to: &mut [u8], what: &'static str) -> Result<(), Cut> {
        self.reach(at.saturating_add(to.len() as u64), what)?;
        let read = self.file.seek(SeekFrom::Start(at));
        read.and_then(|_| self.file.read_exact(to))
            .map_err(Cut::Unreadable)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::io::Cursor;

    use proptest::prelude::*;

    use super::*;

    fn is_whole(bytes: &[u8]) -> bool {
        check(&mut Cursor::new(bytes), bytes.len() as u64).is_ok()
    }

    fn cpio() -> Vec<u8> {
        let mut archive = Vec::new();
        for (name, content) in [("init", &b"#!/bin/sh\n"[..]), ("TRAILER!!!", b"")] {
            let mut header = "070701".to_owned();
            for field in [
                0,
                0o100_755,
                0,
                0,
                1,
                0,
                content.len(),
                0,
                0,
                0,
                0,
                name.len() + 1,
                0,
            ] {
                header.push_str(&format!("{field:08X}"));
            }
            for part in [
                &[header.as_bytes(), name.as_bytes(), b"\0"].concat(),
                content,
            ] {
                archive.extend_from_slice(part);
                archive.resize(archive.len().next_multiple_of(4), 0);
            }
        }
        archive
    }

    /// Two blocks, the second of one repeated byte, and a checksum.
    fn zstd() -> Vec<u8> {
        let mut frame = vec![0x28, 0xb5, 0x2f, 0xfd, 0x24, 9];
        frame.extend([5 << 3, 0, 0, 1, 2, 3, 4, 5]);
        frame.extend([4 << 3 | 1 << 1 | 1, 0, 0, 7]);
        frame.extend([1, 2, 3, 4]);
        frame
    }

    fn lz4() -> Vec<u8> {
        [&[2, 0x21, 0x4c, 0x18, 3, 0, 0, 0, 1, 2, 3, 1, 0, 0, 0, 9][..]].concat()
    }

    fn xz() -> Vec<u8> {
        [b"\xfd7zXZ\0", &[1; 20][..], b"YZ"].concat()
    }

    #[test]
    fn every_format_is_whole_alone_and_behind_microcode() {
        for archive in [cpio(), zstd(), lz4(), xz()] {
            assert!(is_whole(&archive), "{archive:x?}");
            let behind = [cpio(), vec![0; 508], archive].concat();
            assert!(is_whole(&behind));
        }
        assert!(is_whole(&[cpio(), vec![0; 512]].concat()));
        assert!(is_whole(&[xz(), vec![0; 8]].concat()));
        assert!(is_whole(&[zstd(), zstd(), vec![0; 4]].concat()));
    }

    #[test]
    fn what_is_cut_off_is_not_whole() {
        for (archive, least) in [(zstd(), 6), (xz(), 6)] {
            for length in least..archive.len() {
                assert!(!is_whole(&archive[..length]), "{length} of {archive:x?}");
            }
        }
        // The trailer's padding and the end of its name are no loss, and an archive may go without one.
        let archive = cpio();
        let entries = archive.len() - 124;
        for length in (6..archive.len() - 4).filter(|n| !(entries - 2..entries + 6).contains(n)) {
            assert!(!is_whole(&archive[..length]), "{length}");
        }
        // Between two blocks nothing shows.
        let archive = lz4();
        for length in (6..archive.len()).filter(|length| *length != 8 + 3) {
            assert!(!is_whole(&archive[..length]), "{length}");
        }
        for archive in [cpio(), xz(), [lz4(), vec![0; 4]].concat()] {
            let behind = [archive, zstd()].concat();
            assert!(!is_whole(&behind[..behind.len() - 1]));
        }
    }

    #[test]
    fn an_archive_may_be_padded_to_any_length_and_another_may_follow() {
        let gzip = b"\x1f\x8b\x08 an archive that somebody appended".to_vec();
        for archive in [cpio(), zstd(), lz4(), xz()] {
            for zeros in 0..9 {
                let padded = [&archive[..], &vec![0; zeros]].concat();
                assert!(is_whole(&padded), "{zeros} zeros behind {archive:x?}");
            }
            for next in [cpio(), zstd(), lz4(), xz(), gzip.clone()] {
                let two = [&archive[..], &[0; 8], &next].concat();
                assert!(is_whole(&two), "{next:x?} behind {archive:x?}");
            }
            let same = [&archive[..], &archive].concat();
            assert!(is_whole(&same), "twice {archive:x?}");
        }
        assert!(is_whole(&[xz(), gzip].concat()));
    }

    #[test]
    fn a_cpio_archive_needs_no_trailer() {
        let archive = cpio();
        let entries = &archive[..archive.len() - 124];
        assert!(is_whole(entries));
        assert!(is_whole(&[entries, &[0; 12]].concat()));
        assert!(!is_whole(&entries[..entries.len() - 3]));
    }

    #[test]
    fn what_cannot_be_told_is_left_to_the_kernel() {
        for bytes in [
            &b"\x1f\x8b\x08 gzip"[..],
            b"BZh91",
            b"anything",
            b"x",
            &[0; 64],
        ] {
            assert!(is_whole(bytes), "{bytes:x?}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_judged_without_a_panic(magic in 0usize..5, bytes: Vec<u8>) {
            let archives = [cpio(), zstd(), lz4(), xz(), Vec::new()];
            let start = &archives[magic];
            let start = &start[..start.len().min(6)];
            is_whole(&[start, &bytes].concat());
        }
    }
}
