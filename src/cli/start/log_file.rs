//! The file that takes what a VM in the background says: its log and its guest's console.

use std::{
    fs::{self, DirBuilder, File},
    io::{self, ErrorKind, Read, Seek, SeekFrom},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use super::super::look;
use crate::failure::Failure;

/// A file of more bytes becomes `NAME.log.1`, whose last one goes, when the VM is started.
const SIZE: u64 = 4 << 20;
/// Bytes of its end that are looked at for why a VM has failed.
const TAIL: u64 = 64 << 10;
/// What a line begins with that says why minivmm has ended.
const FAILURE: &str = "minivmm: ";
/// Lines that are shown of a VM that has ended by itself.
const LINES: usize = 10;

/// The file, open for appending, and where in it this start begins.
#[derive(Debug)]
pub struct LogFile {
    pub path: PathBuf,
    pub file: File,
    begin: u64,
}

/// A log, or why the VM has to do without.
pub enum Opened {
    Log(LogFile),
    NoRoom(String),
}

impl LogFile {
    /// The log of the VM called `name` in `directory`, which is made if it is missing. A disk that is full keeps no VM
    /// from running, anything else is a mistake that somebody should hear of.
    pub fn open(directory: &Path, name: &str) -> Result<Opened, Failure> {
        let path = directory.join(format!("{name}.log"));
        match Self::try_open(directory, &path) {
            Ok(log) => Ok(Opened::Log(log)),
            Err(error) if is_full(&error) => Ok(Opened::NoRoom(format!(
                "the log {}: {error}",
                path.display()
            ))),
            Err(error) => Err(Failure::host(format!(
                "the log {}: {error}",
                path.display()
            ))),
        }
    }

    fn try_open(directory: &Path, path: &Path) -> io::Result<Self> {
        // It has what guests print, which is nobody else's.
        let mut builder = DirBuilder::new();
        builder.recursive(true).mode(0o750).create(directory)?;
        if fs::symlink_metadata(path).is_ok_and(|found| found.is_file() && found.len() > SIZE) {
            fs::rename(path, path.with_extension("log.1"))?;
        }
        let file = File::options()
            .read(true)
            .append(true)
            .create(true)
            .mode(0o640)
            .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_NOCTTY)
            .open(path)?;
        if !file.metadata()?.is_file() {
            return Err(io::Error::other("not a regular file"));
        }
        let begin = file.metadata()?.len();
        let path = path.to_owned();
        Ok(Self { path, file, begin })
    }

    /// Why the VM that wrote it has failed, as `minivmm run` has said it last.
    pub fn failure(&self) -> Option<String> {
        let text = self.tail()?;
        let said = text.lines().rev().find_map(|l| l.strip_prefix(FAILURE));
        said.map(str::to_owned)
    }

    /// The last lines that were written.
    pub fn last_lines(&self) -> Vec<String> {
        let text = self.tail().unwrap_or_default();
        let lines: Vec<_> = text.lines().map(look::clean).collect();
        lines[lines.len().saturating_sub(LINES)..].to_vec()
    }

    /// The end of what was written since this start.
    fn tail(&self) -> Option<String> {
        let mut file = &self.file;
        let len = file.metadata().ok()?.len();
        let begin = self.begin.max(len.saturating_sub(TAIL));
        file.seek(SeekFrom::Start(begin)).ok()?;
        let mut bytes = Vec::new();
        file.take(TAIL).read_to_end(&mut bytes).ok()?;
        Some(String::from_utf8_lossy(&bytes).into_owned())
    }
}

fn is_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded
    )
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use super::*;
    use std::io::Write;

    fn open(directory: &Path) -> LogFile {
        match LogFile::open(directory, "a").unwrap() {
            Opened::Log(log) => log,
            Opened::NoRoom(why) => panic!("{why}"),
        }
    }

    #[test]
    fn only_what_was_written_since_this_start_counts() {
        let directory = tempfile::tempdir().unwrap();
        let directory = directory.path().join("made");
        let mut log = open(&directory);
        log.file.write_all(b"minivmm: old\n").unwrap();
        let mut log = open(&directory);
        assert_eq!(log.failure(), None);
        log.file
            .write_all(b"hello\x1b[2J\nminivmm: a\nminivmm: new\nbye\n")
            .unwrap();
        assert_eq!(log.failure().unwrap(), "new");
        assert_eq!(
            log.last_lines(),
            ["hello?[2J", "minivmm: a", "minivmm: new", "bye"]
        );
    }

    #[test]
    fn a_log_that_has_become_large_is_put_aside_once() {
        let directory = tempfile::tempdir().unwrap();
        let log = open(directory.path());
        log.file.set_len(SIZE).unwrap();
        open(directory.path());
        let aside = directory.path().join("a.log.1");
        assert!(!aside.exists());
        log.file.set_len(SIZE + 1).unwrap();
        let log = open(directory.path());
        assert_eq!(log.file.metadata().unwrap().len(), 0);
        assert_eq!(fs::metadata(aside).unwrap().len(), SIZE + 1);
    }

    #[test]
    fn what_is_no_file_is_no_log() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.log");
        std::os::unix::fs::symlink("/dev/null", &path).unwrap();
        assert!(LogFile::open(directory.path(), "a").is_err());
        fs::remove_file(&path).unwrap();
        rustix::fs::mkfifoat(rustix::fs::CWD, &path, 0o600.into()).unwrap();
        assert!(LogFile::open(directory.path(), "a").is_err());
    }
}
