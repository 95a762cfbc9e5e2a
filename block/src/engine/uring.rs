//! Operations by io_uring(7): one system call hands any number of them to the kernel.
#![allow(unsafe_code)]

use std::{
    fs::File,
    io, mem,
    os::fd::{AsRawFd, RawFd},
    sync::Arc,
    thread,
};

use io_uring::{IoUring, Probe, opcode, squeue, types};

use super::{Action, Done, Operation, plain};

/// The kernel's own threads for operations of one ring that would block, of each of its two kinds.
const KERNEL_THREADS: u32 = 8;

pub(crate) struct Uring {
    ring: IoUring,
    file: Arc<File>,
    /// What the kernel has, or is to get with the next submit, by its slot.
    running: Vec<Option<Operation>>,
    in_flight: usize,
}

impl Uring {
    /// A ring for up to `slots` operations at a time.
    ///
    /// Fails where the kernel has none (ENOSYS), permits none (EPERM, by `kernel.io_uring_disabled` or a filter of
    /// system calls), or lacks one of the operations (before Linux 5.6).
    pub(super) fn new(file: Arc<File>, slots: u16) -> io::Result<Self> {
        let ring = IoUring::new(u32::from(slots).next_power_of_two())?;
        let mut probe = Probe::new();
        ring.submitter().register_probe(&mut probe)?;
        let needed = [
            opcode::Readv::CODE,
            opcode::Writev::CODE,
            opcode::Fsync::CODE,
            opcode::Fallocate::CODE,
        ];
        if !needed.iter().all(|code| probe.is_supported(*code)) {
            return Err(io::ErrorKind::Unsupported.into());
        }
        // Linux 5.15; before, the kernel takes as many as it likes, up to the ring's size.
        let _ = ring
            .submitter()
            .register_iowq_max_workers(&mut [KERNEL_THREADS; 2]);
        Ok(Self {
            ring,
            file,
            running: (0..slots).map(|_| None).collect(),
            in_flight: 0,
        })
    }

    pub(super) fn fd(&self) -> RawFd {
        self.ring.as_raw_fd()
    }

    pub(super) fn push(&mut self, slot: u16, operation: Operation) {
        let entry = entry(&self.file, &operation).user_data(slot.into());
        let place = &mut self.running[usize::from(slot)];
        assert!(place.is_none(), "slot {slot} is in use");
        *place = Some(operation);
        self.in_flight += 1;
        // SAFETY: the list of pieces, and what they point at, is in `running` until the kernel says that it is done, and
        // the descriptor is open as long as `file` is. `drop` waits for both.
        let pushed = unsafe { self.ring.submission().push(&entry) };
        // One slot is one entry at most, and the ring has as many.
        pushed.expect("the ring has an entry for each slot");
    }

    pub(super) fn submit(&mut self) -> io::Result<bool> {
        while !self.ring.submission().is_empty() {
            match self.ring.submit() {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if is_short(&error) => return Ok(false),
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }

    pub(super) fn reap(&mut self, done: &mut Vec<Done>) {
        for entry in self.ring.completion() {
            // What the kernel gives back is what it got.
            let slot = entry.user_data() as u16;
            if let Some(operation) = self.running[usize::from(slot)].take() {
                self.in_flight -= 1;
                done.push(Done {
                    slot,
                    operation,
                    result: u64::try_from(entry.result())
                        .map_err(|_| io::Error::from_raw_os_error(-entry.result())),
                });
            }
        }
    }

    pub(super) fn drain(&mut self) -> bool {
        let mut done = Vec::new();
        while self.in_flight > 0 {
            match self.ring.submit_and_wait(1) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if is_short(&error) => thread::yield_now(),
                Err(error) => {
                    tracing::error!(%error, "io_uring does not end its work");
                    // The kernel may still write to their memory, so it is nobody's from here on.
                    mem::forget(mem::take(&mut self.running));
                    self.in_flight = 0;
                    return false;
                }
            }
            self.reap(&mut done);
            done.clear();
        }
        true
    }
}

impl Drop for Uring {
    fn drop(&mut self) {
        self.drain();
    }
}

/// Whether the kernel lacks memory, or has more answers than were taken: both pass.
fn is_short(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EAGAIN | libc::EBUSY))
}

fn entry(file: &File, operation: &Operation) -> squeue::Entry {
    let fd = types::Fd(file.as_raw_fd());
    let iovecs = operation.vectors.iovecs();
    let (list, count) = (iovecs.as_ptr(), iovecs.len() as u32);
    let (offset, len) = (operation.offset, operation.len);
    match operation.action {
        Action::Read => opcode::Readv::new(fd, list, count).offset(offset).build(),
        Action::Write { stable } => opcode::Writev::new(fd, list, count)
            .offset(offset)
            .rw_flags(if stable { libc::RWF_DSYNC } else { 0 })
            .build(),
        Action::Flush => opcode::Fsync::new(fd)
            .flags(types::FsyncFlags::DATASYNC)
            .build(),
        Action::Punch => allocate(fd, len, offset, plain::PUNCH),
        Action::Zero => allocate(fd, len, offset, plain::ZERO),
    }
}

fn allocate(fd: types::Fd, len: u64, offset: u64, mode: i32) -> squeue::Entry {
    opcode::Fallocate::new(fd, len)
        .offset(offset)
        .mode(mode)
        .build()
}
