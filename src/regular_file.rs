//! Files that somebody names and that must be regular ones.

use std::{fs::File, io, os::unix::fs::OpenOptionsExt, path::Path};

/// Opens a regular file for reading, without waiting for the other end of what is a pipe.
pub fn open(path: &Path) -> io::Result<File> {
    let file = File::options()
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(path)?;
    match file.metadata()?.is_file() {
        true => Ok(file),
        false => Err(io::Error::other("not a regular file")),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn what_is_no_regular_file_is_an_error_at_once() {
        let directory = tempfile::tempdir().unwrap();
        let pipe = directory.path().join("pipe");
        rustix::fs::mkfifoat(rustix::fs::CWD, &pipe, 0o600.into()).unwrap();
        for path in [directory.path(), &pipe, Path::new("/dev/null")] {
            let said = open(path).unwrap_err().to_string();
            assert_eq!(said, "not a regular file", "{path:?}");
        }
        open(Path::new("/proc/self/status")).unwrap();
    }
}
