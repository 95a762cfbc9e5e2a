//! What the tests of devices need: guest memory, a hypervisor that only keeps a list, and a driver.
#![allow(clippy::unwrap_used, clippy::panic)]

mod driver_queue;
mod fake_hypervisor;
mod pci_driver;

use std::{
    io,
    os::fd::AsRawFd,
    sync::Arc,
    time::{Duration, Instant},
};

use vm_memory::GuestAddress;
use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};

pub use driver_queue::DriverQueue;
pub use fake_hypervisor::{Call, FakeHypervisor};
pub use pci_driver::PciDriver;

use crate::GuestMemory;

/// How long a test waits for what must happen.
pub const DEADLINE: Duration = Duration::from_secs(20);

/// Guest memory of `size` bytes at address 0.
pub fn guest_memory(size: usize) -> Arc<GuestMemory> {
    Arc::new(GuestMemory::from_ranges(&[(GuestAddress(0), size)]).unwrap())
}

/// Waits until `fd` is readable; `false` when that took longer than `timeout`.
pub fn readable(fd: &impl AsRawFd, timeout: Duration) -> bool {
    let epoll = Epoll::new().unwrap();
    let event = EpollEvent::new(EventSet::IN, 0);
    epoll
        .ctl(ControlOperation::Add, fd.as_raw_fd(), event)
        .unwrap();
    let deadline = Instant::now() + timeout;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let milliseconds = i32::try_from(left.as_millis()).unwrap();
        match epoll.wait(milliseconds, &mut [EpollEvent::default()]) {
            Ok(ready) => return ready == 1,
            // A child of the test has ended.
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => panic!("cannot wait: {error}"),
        }
    }
}
