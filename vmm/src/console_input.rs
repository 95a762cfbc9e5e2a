//! The thread that takes what is typed to the guest.

use std::{
    io,
    os::fd::OwnedFd,
    sync::Arc,
    thread::{self, JoinHandle},
};

use minivmm_devices::{console::ConsoleInput, legacy::Serial};
use rustix::{
    event::{PollFd, PollFlags, poll},
    io::Errno,
};
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

/// Bytes that are read at once.
const READ: usize = 1024;

/// What is typed and where it goes.
pub struct Typed {
    /// Where it is read.
    pub from: OwnedFd,
    /// Where it waits for the guest.
    pub input: ConsoleInput,
    /// Takes it while virtio-console does not.
    pub serial: Arc<Serial>,
    /// Signalled when the serial port takes something again.
    pub drained: EventFd,
}

/// The thread. Dropped, it ends.
pub struct InputThread {
    stop: EventFd,
    thread: Option<JoinHandle<()>>,
}

impl InputThread {
    /// Begins to read.
    pub fn spawn(typed: Typed) -> io::Result<Self> {
        let stop = EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC)?;
        let stopped = stop.try_clone()?;
        let thread = thread::Builder::new()
            .name("console-input".to_owned())
            .spawn(move || typed.run(&stopped))?;
        Ok(Self {
            stop,
            thread: Some(thread),
        })
    }
}

impl Drop for InputThread {
    fn drop(&mut self) {
        // A full counter is a stop that was asked for already.
        let _ = self.stop.write(1);
        if let Some(thread) = self.thread.take() {
            // It fails for nothing that the VM's end could be kept up by.
            let _ = thread.join();
        }
    }
}

impl Typed {
    fn run(self, stop: &EventFd) {
        let mut bytes = [0; READ];
        let mut ended = false;
        loop {
            let room = match ended {
                false => self.input.room().min(READ),
                true => 0,
            };
            let mut fds = [
                PollFd::from_borrowed_fd(borrow(stop), PollFlags::IN),
                PollFd::from_borrowed_fd(borrow(&self.drained), PollFlags::IN),
                PollFd::from_borrowed_fd(borrow(self.input.drained()), PollFlags::IN),
                PollFd::new(&self.from, PollFlags::IN),
            ];
            // What cannot be taken yet stays with the sender; its end would be told without pause.
            let watched = if room > 0 { 4 } else { 3 };
            // Interrupted or not, what is possible is seen by trying.
            let _ = poll(&mut fds[..watched], None);
            let ready = fds.map(|fd| !fd.revents().is_empty());
            if ready[0] {
                return;
            }
            let _ = self.drained.read();
            let _ = self.input.drained().read();
            if ready[3] && room > 0 {
                match rustix::io::read(&self.from, &mut bytes[..room]) {
                    Ok(0) => ended = true,
                    Ok(n) => self.input.push(&bytes[..n]),
                    Err(Errno::AGAIN | Errno::INTR) => {}
                    Err(error) => {
                        tracing::debug!("the console's input is lost from here on: {error}");
                        ended = true;
                    }
                }
            }
            self.input.pass_to_serial(&self.serial);
        }
    }
}

#[allow(unsafe_code)]
fn borrow(event: &EventFd) -> std::os::fd::BorrowedFd<'_> {
    use std::os::fd::{AsRawFd, BorrowedFd};
    // SAFETY: the descriptor is open for as long as the eventfd is borrowed.
    unsafe { BorrowedFd::borrow_raw(event.as_raw_fd()) }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::{
        io::Write,
        time::{Duration, Instant},
    };

    use minivmm_devices::{bus::BusDevice, console::ConsoleSink};

    use super::*;

    #[test]
    fn more_than_waits_anywhere_arrives_in_order_and_the_thread_ends() {
        let event = || EventFd::new(EFD_NONBLOCK).unwrap();
        let (from, mut to) = io::pipe().unwrap();
        let drained = event();
        let sink = ConsoleSink::new().unwrap();
        let serial = Serial::new(event(), sink).signal_drained(drained.try_clone().unwrap());
        let serial = Arc::new(serial);
        let thread = InputThread::spawn(Typed {
            from: from.into(),
            input: ConsoleInput::new().unwrap(),
            serial: serial.clone(),
            drained,
        });
        let sent: Vec<u8> = (0..20_000u32).map(|n| (n % 251) as u8).collect();
        let sender = {
            let sent = sent.clone();
            thread::spawn(move || to.write_all(&sent))
        };
        let (mut got, deadline) = (Vec::new(), Instant::now() + Duration::from_secs(20));
        while got.len() < sent.len() && Instant::now() < deadline {
            let mut byte = [0];
            serial.read(5, &mut byte);
            if byte[0] & 1 != 0 {
                serial.read(0, &mut byte);
                got.push(byte[0]);
            }
        }
        assert!(got == sent, "{} bytes", got.len());
        sender.join().unwrap().unwrap();
        drop(thread.unwrap());
    }
}
