//! A unix stream that nobody waits for.

use std::{
    io,
    net::Shutdown,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, RawFd},
        unix::net::UnixStream,
    },
};

use event_manager::EventSet;
use rustix::net::{RecvFlags, SendFlags, recv, send};

/// A stream to a program of the host, with what its descriptor is watched for.
#[derive(Debug)]
pub(crate) struct Stream {
    socket: UnixStream,
    /// As the event loop has it, by its token; None if it has not.
    pub(crate) watched: Option<(u32, EventSet)>,
}

impl Stream {
    pub(crate) fn new(socket: UnixStream) -> Self {
        Self {
            socket,
            watched: None,
        }
    }

    pub(crate) fn fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }

    /// Reads what there is; `buffer` is not empty. 0 is the end.
    pub(crate) fn receive(&self, buffer: &mut [u8]) -> io::Result<usize> {
        self.receive_with(buffer, RecvFlags::DONTWAIT)
    }

    /// The same, and leaves it there.
    pub(crate) fn peek(&self, buffer: &mut [u8]) -> io::Result<usize> {
        self.receive_with(buffer, RecvFlags::DONTWAIT | RecvFlags::PEEK)
    }

    fn receive_with(&self, buffer: &mut [u8], flags: RecvFlags) -> io::Result<usize> {
        loop {
            match recv(&self.socket, &mut *buffer, flags) {
                Err(rustix::io::Errno::INTR) => {}
                done => return Ok(done?.0),
            }
        }
    }

    /// Writes as much as is taken now.
    pub(crate) fn send(&self, bytes: &[u8]) -> io::Result<usize> {
        loop {
            match send(
                &self.socket,
                bytes,
                SendFlags::DONTWAIT | SendFlags::NOSIGNAL,
            ) {
                Err(rustix::io::Errno::INTR) => {}
                done => return Ok(done?),
            }
        }
    }

    pub(crate) fn shut(&self, how: Shutdown) {
        // One whose other end is gone is shut.
        let _ = self.socket.shutdown(how);
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
