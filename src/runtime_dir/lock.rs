//! The lock that keeps a VM from running twice, and says by whom it is run.

use std::{
    fs::{self, File},
    io::{self, ErrorKind, Read, Seek, Write},
    os::{
        fd::AsFd,
        unix::fs::{MetadataExt, OpenOptionsExt},
    },
    path::Path,
    thread,
    time::Duration,
};

use rustix::{
    fs::{FlockOperation, flock},
    io::Errno,
};

/// How often a lock is tried that is taken, and how long to wait between: [`holder`] has it for a moment.
const TRIES: u32 = 10;
const BETWEEN: Duration = Duration::from_millis(10);

/// Who has a lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holder {
    /// Nobody, or there is none.
    Nobody,
    /// A process; 0 if it has not said which.
    Process(u32),
    /// That is not for us to see.
    Unknown,
}

/// Locks `path`; the inner error is the process that has it.
pub fn take(path: &Path) -> io::Result<Result<File, u32>> {
    let mut tries = 1;
    loop {
        let mut file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .custom_flags(libc::O_NOFOLLOW)
            .open(path)?;
        match flock(file.as_fd(), FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) if tries < TRIES => {
                tries += 1;
                thread::sleep(BETWEEN);
                continue;
            }
            Err(Errno::WOULDBLOCK) => return Ok(Err(pid_in(file))),
            Err(error) => return Err(error.into()),
        }
        // Its last owner may have removed it between the two calls.
        let ours = file.metadata()?;
        let is_ours = |found: fs::Metadata| (found.dev(), found.ino()) == (ours.dev(), ours.ino());
        if fs::symlink_metadata(path).is_ok_and(is_ours) {
            file.set_len(0)?;
            file.rewind()?;
            file.write_all(format!("{}\n", std::process::id()).as_bytes())?;
            return Ok(Ok(file));
        }
    }
}

/// Who has the lock at `path`.
pub fn holder(path: &Path) -> Holder {
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
    match File::options().read(true).custom_flags(flags).open(path) {
        Ok(file) => match flock(file.as_fd(), FlockOperation::NonBlockingLockShared) {
            Ok(()) => Holder::Nobody,
            Err(_) => Holder::Process(pid_in(file)),
        },
        Err(error) if error.kind() == ErrorKind::NotFound => Holder::Nobody,
        Err(_) => Holder::Unknown,
    }
}

/// The process id in a lock; 0 if it has not been written yet.
fn pid_in(file: File) -> u32 {
    let mut text = String::new();
    let _ = file.take(32).read_to_string(&mut text);
    text.trim().parse().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_lock_is_somebodys_once_and_says_whose() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("lock");
        assert_eq!(holder(&path), Holder::Nobody);
        let locked = take(&path).unwrap().unwrap();
        let us = std::process::id();
        assert_eq!(take(&path).unwrap().unwrap_err(), us);
        assert_eq!(holder(&path), Holder::Process(us));
        drop(locked);
        assert_eq!(holder(&path), Holder::Nobody);
        take(&path).unwrap().unwrap();
    }

    #[test]
    fn who_looks_at_a_lock_keeps_nobody_from_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("lock");
        fs::write(&path, "").unwrap();
        thread::scope(|scope| {
            let looked = scope.spawn(|| {
                for _ in 0..20_000 {
                    holder(&path);
                }
            });
            while !looked.is_finished() {
                take(&path).unwrap().unwrap();
            }
        });
    }

    #[test]
    fn a_link_in_the_place_of_a_lock_is_not_followed() {
        let directory = tempfile::tempdir().unwrap();
        let (path, aim) = (directory.path().join("lock"), directory.path().join("aim"));
        std::os::unix::fs::symlink(&aim, &path).unwrap();
        assert!(take(&path).is_err());
        assert_eq!(holder(&path), Holder::Unknown);
        assert!(!aim.exists());
    }
}
