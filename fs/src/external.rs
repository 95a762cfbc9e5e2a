//! A virtiofsd that somebody else starts, and that may not be there yet.

use std::{
    io,
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    time::Duration,
};

use rustix::{
    io::Errno,
    net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with},
};

use crate::tag::Tag;

/// How long to wait for one that is not there yet.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A socket on which a virtiofsd is to listen.
#[derive(Clone, Debug)]
pub struct External {
    /// The share that it serves.
    pub tag: Tag,
    /// Its socket, at most 107 bytes; a relative path is relative to the working directory.
    pub socket: PathBuf,
}

/// Why there is no connection to it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nobody has come.
    #[error(
        "share `{tag}`: no virtiofsd was there for {} seconds on {socket:?} ({why}): start it \
         (`virtiofsd --socket-path {} --shared-dir DIRECTORY`; it serves one connection and then ends), or \
         say `source` instead of `socket`",
        PATIENCE.as_secs(),
        socket.display()
    )]
    NeverCame {
        /// The share.
        tag: Tag,
        /// The socket.
        socket: PathBuf,
        /// What is in the way.
        why: Absence,
    },
    /// Something that waiting does not change.
    #[error("share `{tag}`: cannot connect to {socket:?}: {source}")]
    Connect {
        /// The share.
        tag: Tag,
        /// The socket.
        socket: PathBuf,
        /// What happened.
        source: io::Error,
    },
}

/// Why somebody is not there yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Absence {
    /// There is no socket.
    #[error("there is no such file")]
    NoSocket,
    /// A socket is there, but nobody listens: it was left behind.
    #[error("nobody listens there")]
    NobodyListens,
    /// Somebody listens, and others wait in line already.
    #[error("it is busy with others")]
    Busy,
}

impl External {
    /// Connects, or says why there is nobody yet. Never waits.
    pub fn try_connect(&self) -> Result<Result<UnixStream, Absence>, Error> {
        match try_connect(&self.socket) {
            Ok(stream) => Ok(Ok(stream)),
            Err(Errno::NOENT) => Ok(Err(Absence::NoSocket)),
            Err(Errno::CONNREFUSED) => Ok(Err(Absence::NobodyListens)),
            Err(Errno::AGAIN) => Ok(Err(Absence::Busy)),
            Err(error) => Err(Error::Connect {
                tag: self.tag.clone(),
                socket: self.socket.clone(),
                source: error.into(),
            }),
        }
    }

    /// The error when [`PATIENCE`] has ended.
    pub fn never_came(&self, why: Absence) -> Error {
        Error::NeverCame {
            tag: self.tag.clone(),
            socket: self.socket.clone(),
            why,
        }
    }
}

fn try_connect(path: &Path) -> rustix::io::Result<UnixStream> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    connect(&socket, &SocketAddrUnix::new(path)?)?;
    rustix::io::ioctl_fionbio(&socket, false)?;
    Ok(socket.into())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::{
        io::{Read, Write},
        os::unix::net::UnixListener,
        time::{Duration, Instant},
    };

    use super::*;

    fn external(socket: PathBuf) -> External {
        External {
            tag: "data".parse().unwrap(),
            socket,
        }
    }

    #[test]
    fn who_is_not_there_yet_is_told_from_what_will_never_work() {
        let directory = tempfile::tempdir().unwrap();
        let external = external(directory.path().join("socket"));
        assert_eq!(
            external.try_connect().unwrap().unwrap_err(),
            Absence::NoSocket
        );
        let listener = UnixListener::bind(&external.socket).unwrap();
        let mut stream = external.try_connect().unwrap().unwrap();
        let mut theirs = listener.accept().unwrap().0;
        stream.write_all(b"x").unwrap();
        // It waits, as the vhost crate wants it.
        theirs.write_all(b"y").unwrap();
        stream.read_exact(&mut [0]).unwrap();
        drop(listener);
        // A process that another test is just starting may have it for a moment longer.
        let deadline = Instant::now() + Duration::from_secs(20);
        let absence = loop {
            match external.try_connect().unwrap() {
                Err(absence) => break absence,
                Ok(_) => assert!(Instant::now() < deadline),
            }
        };
        assert_eq!(absence, Absence::NobodyListens);
        std::fs::remove_file(&external.socket).unwrap();
        std::fs::write(&external.socket, "no socket").unwrap();
        assert_eq!(
            external.try_connect().unwrap().unwrap_err(),
            Absence::NobodyListens
        );
    }

    #[test]
    fn a_path_that_no_socket_can_have_is_an_error_at_once() {
        let error = external("/x".repeat(60).into()).try_connect().unwrap_err();
        assert!(matches!(error, Error::Connect { .. }), "{error}");
        let error = external("/dev/null/socket".into())
            .try_connect()
            .unwrap_err();
        assert!(error.to_string().contains("/dev/null/socket"), "{error}");
    }
}
