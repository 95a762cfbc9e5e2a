//! What all queues of a disk have in common.

use std::{
    fs::File,
    io,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use crate::{
    SERIAL_MAX,
    counters::{Counters, add},
    device::OnEnospc,
};

/// How long nothing more is said of the host's room, or of its errors.
const QUIET: Duration = Duration::from_secs(60);

/// A disk.
#[derive(Debug)]
pub(crate) struct Disk {
    pub(crate) name: String,
    pub(crate) file: Arc<File>,
    pub(crate) serial: [u8; SERIAL_MAX],
    /// Bytes.
    pub(crate) size: u64,
    pub(crate) read_only: bool,
    /// With O_DIRECT, what everything must be aligned to.
    pub(crate) direct: Option<u32>,
    pub(crate) on_enospc: OnEnospc,
    pub(crate) counters: Arc<Counters>,
    /// The host could not make stable what it had taken. The kernel says this once, and forgets what it could not write, so
    /// a flush that succeeds afterwards would say what is not so.
    unstable: AtomicBool,
    room_said: Said,
    errors_said: Said,
}

impl Disk {
    pub(crate) fn new(
        name: String,
        image: crate::Image,
        serial: [u8; SERIAL_MAX],
        on_enospc: OnEnospc,
    ) -> Self {
        Self {
            name,
            serial,
            size: image.size,
            read_only: image.options.read_only,
            direct: image.options.direct.then_some(image.sectors.logical),
            file: Arc::new(image.file),
            on_enospc,
            counters: Arc::default(),
            unstable: AtomicBool::new(false),
            room_said: Said::default(),
            errors_said: Said::default(),
        }
    }

    /// Whether an error means that the host has no room (errno(3)).
    pub(crate) fn is_full(error: &io::Error) -> bool {
        matches!(error.raw_os_error(), Some(libc::ENOSPC | libc::EDQUOT))
    }

    /// One more request waits for room.
    pub(crate) fn begin_waiting(&self) {
        if change(&self.counters.waiting, 1) == 0 && self.room_said.is_due() {
            tracing::warn!(
                volume = self.name,
                "the host has no room: what the guest writes waits until there is"
            );
        }
    }

    /// So many do no longer; `there_is_room`: because they could be served.
    pub(crate) fn end_waiting(&self, count: u64, there_is_room: bool) {
        if count > 0
            && change(&self.counters.waiting, count.wrapping_neg()) == count
            && there_is_room
        {
            tracing::info!(
                volume = self.name,
                "the host has room again: the guest goes on"
            );
        }
    }

    /// A flush cannot be done any more.
    pub(crate) fn is_unstable(&self) -> bool {
        self.unstable.load(Ordering::Relaxed)
    }

    /// The host could not do something.
    pub(crate) fn failed(&self, what: &str, error: &io::Error) {
        // With O_DIRECT nothing of the guest's is in the page cache.
        let lost = what == FLUSH && self.direct.is_none();
        if lost && !self.unstable.swap(true, Ordering::Relaxed) {
            tracing::error!(
                volume = self.name,
                %error,
                "the host has lost what was written: until the VM starts again every flush is answered with an error"
            );
        } else if self.errors_said.is_due() {
            tracing::error!(volume = self.name, %error, "the host cannot {what}; the guest is told of an I/O error");
        }
    }

    /// A request was answered with an error.
    pub(crate) fn refused(&self) {
        add(&self.counters.errors, 1);
    }
}

/// What [`Disk::failed`] is told of a flush.
pub(crate) const FLUSH: &str = "flush";

/// Adds, and gives what was there before.
fn change(counter: &AtomicU64, by: u64) -> u64 {
    counter.fetch_add(by, Ordering::Relaxed)
}

/// When something was said last, so that it is not said with every request.
#[derive(Debug, Default)]
struct Said(Mutex<Option<Instant>>);

impl Said {
    fn is_due(&self) -> bool {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let due = last.is_none_or(|last| last.elapsed() > QUIET);
        if due {
            *last = Some(Instant::now());
        }
        due
    }
}
