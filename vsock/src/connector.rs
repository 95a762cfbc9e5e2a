//! How a guest's stream to the host gets a socket: the device asks, and is answered later.
//!
//! The process of the device opens nothing, so it has somebody else connect. It waits for the answer as long as
//! [`ANSWER_DEADLINE`](crate::ANSWER_DEADLINE) says, and goes on with all other streams meanwhile.

use std::{
    io,
    os::unix::net::UnixStream,
    sync::{Mutex, PoisonError},
};

use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

/// Asks for a connection to a port of the host; gets the question's id and the port. `false` if nobody can be asked now.
/// Must not block: it is called on the device's thread.
pub type Ask = Box<dyn Fn(u64, u32) -> bool + Send + Sync>;

/// Takes the answers to what was asked.
#[derive(Debug)]
pub struct Answers {
    event: EventFd,
    list: Mutex<Vec<Answer>>,
}

#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) id: u64,
    /// None if it was refused.
    pub(crate) stream: Option<UnixStream>,
}

impl Answers {
    /// None has come yet.
    pub fn new() -> io::Result<Self> {
        Ok(Self {
            event: EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC)?,
            list: Mutex::default(),
        })
    }

    /// Answers question `id` with a connection, or a refusal. One that is not waited for any more is closed.
    pub fn answer(&self, id: u64, stream: Option<UnixStream>) {
        let mut list = self.list.lock().unwrap_or_else(PoisonError::into_inner);
        list.push(Answer { id, stream });
        drop(list);
        // A full counter is an event that is pending.
        let _ = self.event.write(1);
    }

    /// Readable when there is an answer to [take](Self::take).
    pub(crate) fn event(&self) -> &EventFd {
        &self.event
    }

    pub(crate) fn take(&self) -> Vec<Answer> {
        let _ = self.event.read();
        std::mem::take(&mut self.list.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
