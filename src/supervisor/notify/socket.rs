//! The socket of the service manager that started minivmm (sd_notify(3)).

use std::{
    ffi::OsStr,
    io,
    os::{fd::OwnedFd, unix::ffi::OsStrExt},
    time::Duration,
};

use rustix::net::{
    AddressFamily, SendFlags, SocketAddrUnix, SocketFlags, SocketType, sendto, socket_with,
    sockopt::{Timeout, set_socket_timeout},
};

/// How long a service manager that takes nothing may hold up what it must not miss.
const PATIENCE: Duration = Duration::from_secs(1);

/// The way to the service manager.
#[derive(Debug)]
pub struct Socket {
    socket: OwnedFd,
    address: SocketAddrUnix,
}

impl Socket {
    /// The one that `NOTIFY_SOCKET` names, if there is one. Children of this process get environments of their own
    /// making, so none of them learns of it.
    pub fn from_environment() -> Option<Self> {
        let address = std::env::var_os("NOTIFY_SOCKET").filter(|address| !address.is_empty())?;
        match Self::new(&address) {
            Ok(socket) => Some(socket),
            Err(error) => {
                tracing::warn!("nothing is told to NOTIFY_SOCKET={address:?}: {error}");
                None
            }
        }
    }

    /// The one at `address`: an absolute path, or the name of an abstract socket behind an `@`.
    pub fn new(address: &OsStr) -> io::Result<Self> {
        let address = match address.as_bytes() {
            [b'/', ..] => SocketAddrUnix::new(address)?,
            [b'@', name @ ..] => SocketAddrUnix::new_abstract_name(name)?,
            _ => return Err(io::Error::other("neither a path nor an abstract socket")),
        };
        let socket = socket_with(
            AddressFamily::UNIX,
            SocketType::DGRAM,
            SocketFlags::CLOEXEC,
            None,
        )?;
        set_socket_timeout(&socket, Timeout::Send, Some(PATIENCE))?;
        Ok(Self { socket, address })
    }

    /// Sends what must arrive, waiting a moment if it has to; says whether it did.
    pub fn send(&self, text: &str) -> bool {
        self.send_with(text, SendFlags::NOSIGNAL)
    }

    /// Sends what the next message makes up for.
    pub fn try_send(&self, text: &str) -> bool {
        self.send_with(text, SendFlags::NOSIGNAL | SendFlags::DONTWAIT)
    }

    fn send_with(&self, text: &str, flags: SendFlags) -> bool {
        match sendto(&self.socket, text.as_bytes(), flags, &self.address) {
            Ok(_) => true,
            Err(error) => {
                tracing::debug!(%error, "the service manager takes no notification");
                false
            }
        }
    }
}
