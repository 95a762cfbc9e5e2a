//! The thread that waits for the end of the guest's watchdog.

use std::{
    io,
    sync::Arc,
    thread::{self, JoinHandle},
};

use minivmm_devices::legacy::Watchdog;

use crate::end::{End, EndReport};

/// The thread, and what it waits for. It sleeps while the countdown is stopped, and else wakes as often as that lasts.
pub struct Countdown {
    device: Arc<Watchdog>,
    thread: Option<JoinHandle<()>>,
}

impl Countdown {
    /// Ends the VM when `device` has run out.
    pub fn spawn(device: Arc<Watchdog>, end: Arc<EndReport>) -> io::Result<Self> {
        let waited_for = device.clone();
        let thread = thread::Builder::new()
            .name("watchdog".to_owned())
            .spawn(move || {
                if waited_for.wait() {
                    end.report(End::Watchdog);
                }
            })?;
        Ok(Self {
            device,
            thread: Some(thread),
        })
    }

    /// Makes it stand still.
    pub fn pause(&self) {
        self.device.pause();
    }

    /// Lets it go on.
    pub fn resume(&self) {
        self.device.resume();
    }
}

impl Drop for Countdown {
    fn drop(&mut self) {
        self.device.close();
        if self
            .thread
            .take()
            .is_some_and(|thread| thread.join().is_err())
        {
            tracing::error!("the watchdog's thread failed");
        }
    }
}
