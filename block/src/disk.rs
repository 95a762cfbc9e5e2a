//! What all queues of a disk have in common.

use std::{
    fs::File,
    io,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use crate::{
    SERIAL_MAX,
    counters::{Counters, add},
    device::{OnEnospc, OnFull},
};

/// How long nothing more is said of the host's room, or of its errors.
const QUIET: Duration = Duration::from_secs(60);

/// A disk.
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
    on_full: Option<OnFull>,
    /// Who is told of it is told under the lock, so in the right order.
    waiting: Mutex<Waiting>,
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
        (on_enospc, on_full): (OnEnospc, Option<OnFull>),
    ) -> Self {
        Self {
            name,
            serial,
            size: image.size,
            read_only: image.options.read_only,
            direct: image.options.direct.then_some(image.sectors.logical),
            file: Arc::new(image.file),
            on_enospc,
            on_full,
            waiting: Mutex::default(),
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
        let mut waiting = self.waiting();
        if waiting.count == 0 {
            waiting.said = self.room_said.is_due();
            if waiting.said {
                tracing::warn!(
                    volume = self.name,
                    "the host has no room: what the guest writes waits until there is"
                );
            }
            self.tell(true);
        }
        self.set_waiting(&mut waiting, 1);
    }

    /// So many do no longer; `there_is_room`: because they could be served.
    pub(crate) fn end_waiting(&self, count: u64, there_is_room: bool) {
        if count == 0 {
            return;
        }
        let mut waiting = self.waiting();
        self.set_waiting(&mut waiting, count.wrapping_neg());
        if waiting.count == 0 {
            if there_is_room && waiting.said {
                tracing::info!(volume = self.name, "the host has room again");
            }
            self.tell(false);
        }
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set_waiting(&self, waiting: &mut Waiting, change: u64) {
        waiting.count = waiting.count.wrapping_add(change);
        let counter = &self.counters.waiting;
        counter.store(waiting.count, Ordering::Relaxed);
    }

    fn tell(&self, full: bool) {
        if let Some(told) = &self.on_full {
            told(full);
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

/// Requests of all queues that wait for room.
#[derive(Debug, Default)]
struct Waiting {
    count: u64,
    /// The log was told that there is none.
    said: bool,
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
