//! When what waits for the host is tried again.

use std::{
    io,
    os::fd::{AsRawFd, OwnedFd, RawFd},
    time::Duration,
};

use rustix::{
    io::Errno,
    time::{
        Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
        timerfd_settime,
    },
};

use crate::failure::Failure;

const AGAIN: Duration = Duration::from_secs(1);

/// Readable once, some time after it was armed.
pub(crate) struct Timer {
    fd: OwnedFd,
    armed: bool,
}

impl Timer {
    pub(crate) fn new() -> io::Result<Self> {
        let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
        let fd = timerfd_create(TimerfdClockId::Monotonic, flags)?;
        Ok(Self { fd, armed: false })
    }

    /// Lets it run, unless it does.
    pub(crate) fn arm(&mut self) -> Result<(), Failure> {
        if self.armed {
            return Ok(());
        }
        let once = Itimerspec {
            it_interval: Timespec::default(),
            it_value: Timespec {
                tv_sec: AGAIN.as_secs() as i64,
                tv_nsec: 0,
            },
        };
        let set = timerfd_settime(&self.fd, TimerfdTimerFlags::empty(), &once);
        set.map_err(|error: Errno| Failure::Timer(error.into()))?;
        self.armed = true;
        Ok(())
    }

    /// Takes its event; it runs no longer.
    pub(crate) fn take(&mut self) {
        // The time is up, and how often is nothing to us.
        let _ = rustix::io::read(&self.fd, &mut [0; 8]);
        self.armed = false;
    }
}

impl AsRawFd for Timer {
    fn as_raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}
