//! The host's side of the streams between host and guest: the socket where programs of the host connect, and the
//! connections that the guest wants, which the VMM cannot make.

use std::{
    os::{
        fd::{AsFd, BorrowedFd},
        unix::net::{UnixListener, UnixStream},
    },
    path::{Path, PathBuf},
};

use minivmm_vmm::{VmConfig, config::Vsock};
use minivmm_vsock::Ports;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};

use crate::{board, failure::Failure, runtime_dir};

/// The name of the socket in a VM's runtime directory.
const NAME: &str = "vsock";

/// The host's side of a VM's socket device. It outlives every run: who connects while the VM starts again waits for it.
#[derive(Debug)]
pub struct Streams {
    /// The path of the socket, and the beginning of those of the guest's streams.
    path: PathBuf,
    listener: Option<Listener>,
    to_host: Ports,
}

#[derive(Debug)]
struct Listener {
    socket: UnixListener,
    inode: (u64, u64),
}

impl Streams {
    /// Listens, if the configuration has anybody connect to the guest; None without a socket device.
    pub fn open(config: &VmConfig, runtime_dir: Option<&Path>) -> Result<Option<Self>, Failure> {
        let Some(vsock) = config.vsock() else {
            return Ok(None);
        };
        let path = path(&vsock, runtime_dir)?;
        let listener = match vsock.to_guest().is_empty() {
            true => None,
            false => {
                let (socket, inode) =
                    runtime_dir::listen(&path, 0o600).map_err(|error| error.of("vsock"))?;
                socket.set_nonblocking(true).map_err(Failure::vmm)?;
                Some(Listener { socket, inode })
            }
        };
        Ok(Some(Self {
            path,
            listener,
            to_host: vsock.to_host(),
        }))
    }

    /// Where programs of the host connect, if any may.
    pub fn listener(&self) -> Option<BorrowedFd<'_>> {
        self.listener
            .as_ref()
            .map(|listener| listener.socket.as_fd())
    }

    /// What clients of the control socket are told of it.
    pub fn status(&self, vsock: &Vsock) -> board::Vsock {
        board::Vsock {
            cid: vsock.cid,
            socket: (self.listener.as_ref()).map(|_| self.path.to_string_lossy().into_owned()),
            allow: vsock.allow.iter().map(ToString::to_string).collect(),
        }
    }

    /// Connects to where the host's `port` is served, without waiting; None if the guest may not, or nobody does. The VMM
    /// says which port, and is not to be trusted.
    pub fn connect(&self, port: u32) -> Option<UnixStream> {
        if !self.to_host.contains(port) {
            tracing::warn!(
                port,
                "the VMM wants a connection that vsock.allow does not have"
            );
            return None;
        }
        let mut path = self.path.clone().into_os_string();
        path.push(format!("_{port}"));
        let connected = (|| {
            let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
            let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
            // A unix socket is connected at once or not at all; with a full backlog it is not.
            connect(&socket, &SocketAddrUnix::new(path.as_os_str())?)?;
            Ok::<_, rustix::io::Errno>(socket)
        })();
        connected
            .inspect_err(|error| {
                let path = path.to_string_lossy();
                tracing::debug!(port, "nobody serves the guest on {path}: {error}");
            })
            .ok()
            .map(UnixStream::from)
    }
}

impl Drop for Streams {
    fn drop(&mut self) {
        if let Some(listener) = &self.listener {
            runtime_dir::remove_socket(&self.path, listener.inode);
        }
    }
}

fn path(vsock: &Vsock, runtime_dir: Option<&Path>) -> Result<PathBuf, Failure> {
    match (&vsock.socket, runtime_dir) {
        (Some(path), _) => std::path::absolute(path)
            .map_err(|error| Failure::host(format!("vsock.socket {}: {error}", path.display()))),
        (None, Some(directory)) => Ok(directory.join(NAME)),
        (None, None) => Err(Failure::host(
            "there is no place for the VM's vsock socket: set XDG_RUNTIME_DIR to a directory of yours, or say `socket` \
             in [vsock]",
        )),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::{
        fs,
        os::unix::fs::{FileTypeExt, PermissionsExt},
    };

    use super::*;

    fn config(directory: &Path, allow: &str) -> VmConfig {
        let socket = directory.join("streams");
        let text = format!(
            "name = \"a\"\n[kernel]\npath = \"k\"\n[vsock]\nsocket = {socket:?}\nallow = [{allow}]\n"
        );
        VmConfig::from_toml(&text).unwrap()
    }

    #[test]
    fn the_socket_is_there_while_somebody_may_connect_and_only_for_its_owner() {
        let directory = tempfile::tempdir().unwrap();
        let directory = directory.path();
        let path = directory.join("streams");
        let closed = Streams::open(&config(directory, "\"host:9000\""), None);
        let closed = closed.unwrap().unwrap();
        assert!(closed.listener().is_none() && !path.exists());

        let open = config(directory, "\"ssh\"");
        let streams = Streams::open(&open, None).unwrap().unwrap();
        let found = fs::symlink_metadata(&path).unwrap();
        assert!(found.file_type().is_socket());
        assert_eq!(found.permissions().mode() & 0o777, 0o600);
        let status = streams.status(&open.vsock().unwrap());
        assert_eq!(status.socket.as_deref(), path.to_str());
        assert_eq!(status.allow, ["ssh"]);
        let said = Streams::open(&open, None).unwrap_err().to_string();
        assert!(said.contains("another process listens there"), "{said}");
        drop(streams);
        assert!(!path.exists());

        // One that somebody has left is replaced, a file is not.
        drop(UnixListener::bind(&path).unwrap());
        drop(Streams::open(&open, None).unwrap().unwrap());
        fs::write(&path, "").unwrap();
        let said = Streams::open(&open, None).unwrap_err().to_string();
        assert!(said.starts_with("vsock socket "), "{said}");
        assert!(said.contains("no socket"), "{said}");
    }

    #[test]
    fn without_a_path_it_is_in_the_runtime_directory() {
        let directory = tempfile::tempdir().unwrap();
        let text = "name = \"a\"\n[kernel]\npath = \"k\"\n[vsock]\nallow = [\"ssh\"]\n";
        let config = VmConfig::from_toml(text).unwrap();
        let streams = Streams::open(&config, Some(directory.path())).unwrap();
        assert!(directory.path().join("vsock").exists());
        drop(streams);
        let said = Streams::open(&config, None).unwrap_err().to_string();
        assert!(said.contains("say `socket` in [vsock]"), "{said}");
    }

    #[test]
    fn a_guest_is_connected_to_what_is_allowed_and_served_and_nobody_waits() {
        let directory = tempfile::tempdir().unwrap();
        let directory = directory.path();
        let config = config(directory, "\"host:9000\"");
        let streams = Streams::open(&config, None).unwrap().unwrap();
        assert!(streams.connect(9000).is_none());
        let servers = ["streams_9000", "streams_9001"]
            .map(|name| UnixListener::bind(directory.join(name)).unwrap());
        assert!(streams.connect(9001).is_none());
        let stream = streams.connect(9000).unwrap();
        servers[0].accept().unwrap();
        // Nobody takes more: the backlog fills, and then there is a refusal.
        let all = (0..10_000).map_while(|_| streams.connect(9000));
        assert!(all.collect::<Vec<_>>().len() < 10_000);
        drop(stream);
    }
}
