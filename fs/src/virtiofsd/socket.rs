//! A listening socket that has its one connection already.

use std::{
    fs::{self, DirBuilder, File},
    io,
    os::{
        fd::AsRawFd,
        unix::{
            fs::DirBuilderExt,
            net::{UnixListener, UnixStream},
        },
    },
    path::{Path, PathBuf},
};

/// Directory names to try before giving up: one is taken only if a process of our id was killed
/// between two calls of [`listening_pair`].
const NAMES: u32 = 100;

/// A listener and the stream that is connected to it.
///
/// The connection waits in the listener's queue, so whoever inherits the listener finds it there however
/// late it starts. No name of the socket remains: nobody else can connect and nothing is left behind.
/// While there is one, it is in a directory below `runtime_dir` that only its owner can enter.
pub(super) fn listening_pair(runtime_dir: &Path) -> io::Result<(UnixListener, UnixStream)> {
    let directory = private_directory(runtime_dir)?;
    let pair = File::open(&directory).and_then(|open| {
        // Through the descriptor the address is short, whatever the directory is called: it has room
        // for 107 bytes.
        let short = PathBuf::from(format!("/proc/self/fd/{}/socket", open.as_raw_fd()));
        let listener = UnixListener::bind(&short)?;
        let stream = UnixStream::connect(&short);
        fs::remove_file(directory.join("socket"))?;
        Ok((listener, stream?))
    });
    fs::remove_dir(&directory)?;
    pair
}

fn private_directory(parent: &Path) -> io::Result<PathBuf> {
    let mut taken = 0;
    loop {
        let directory = parent.join(format!("virtiofsd-{}-{taken}", std::process::id()));
        match DirBuilder::new().mode(0o700).create(&directory) {
            Ok(()) => return Ok(directory),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && taken < NAMES => {
                taken += 1;
            }
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::io::{Read, Write};

    use super::*;

    #[test]
    fn the_connection_waits_and_the_directory_is_empty() {
        let runtime = tempfile::tempdir().unwrap();
        let (listener, mut ours) = listening_pair(runtime.path()).unwrap();
        assert_eq!(fs::read_dir(runtime.path()).unwrap().count(), 0);
        ours.write_all(b"x").unwrap();
        drop(ours);
        let mut read = String::new();
        listener
            .accept()
            .unwrap()
            .0
            .read_to_string(&mut read)
            .unwrap();
        assert_eq!(read, "x");
    }

    #[test]
    fn a_long_directory_and_a_taken_name_are_no_obstacles() {
        let root = tempfile::tempdir().unwrap();
        let runtime = root.path().join("d".repeat(200));
        fs::create_dir(&runtime).unwrap();
        let taken = runtime.join(format!("virtiofsd-{}-0", std::process::id()));
        fs::create_dir(&taken).unwrap();
        listening_pair(&runtime).unwrap();
        assert_eq!(fs::read_dir(&runtime).unwrap().count(), 1);
    }

    #[test]
    fn a_missing_directory_is_an_error() {
        assert_eq!(
            listening_pair(Path::new("/nonexistent"))
                .unwrap_err()
                .kind(),
            io::ErrorKind::NotFound
        );
    }
}
