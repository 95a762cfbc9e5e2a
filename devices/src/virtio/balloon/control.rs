//! What the rest of the VMM asks of a balloon, and is told.

use std::{
    io,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Instant,
};

use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use super::{PAGE, fields::Fields, statistics::Statistics};

/// Those who wait for statistics at most; who comes then is told what is known.
const WAITING: usize = 32;

/// A balloon at one moment. All but the target is the guest's word or follows from it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BalloonState {
    /// Bytes that are wanted in it.
    pub target: u64,
    /// Bytes that are in it.
    pub size: u64,
    /// Bytes that were given back because the guest had put them into the balloon, since the VM's start; those that it
    /// has put there twice, twice.
    pub inflated: u64,
    /// Bytes that were given back because the guest had reported them as free, counted in the same way.
    pub reported: u64,
    /// The last statistics, and when they came. None if this guest has given none.
    pub statistics: Option<(Instant, Statistics)>,
}

/// Called once with what is known.
pub type Told = Box<dyn FnOnce(BalloonState) + Send>;

/// A balloon, for all but its driver.
#[derive(Clone)]
pub struct BalloonControl(Arc<Shared>);

struct Shared {
    /// Pages of the guest's memory.
    most: u32,
    fields: Arc<Fields>,
    /// A target was set and the driver has not been told. The same one again counts: a guest that ran short has taken pages
    /// out, and nothing else has it put them in again.
    wanted: AtomicBool,
    inflated: AtomicU64,
    reported: AtomicU64,
    questions: Mutex<Questions>,
    /// Tells the worker that there is another target or a question.
    wake: EventFd,
}

#[derive(Default)]
struct Questions {
    /// A driver is there that gives statistics.
    answered: bool,
    last: Option<(Instant, Statistics)>,
    waiting: Vec<Told>,
}

impl BalloonControl {
    /// Of a guest with `memory` bytes, `target` of which are wanted.
    pub(super) fn new(memory: u64, target: u64) -> io::Result<Self> {
        let fields = Arc::new(Fields::default());
        let most = u32::try_from(memory / PAGE).unwrap_or(u32::MAX);
        fields.set_num_pages(pages(target).min(most));
        Ok(Self(Arc::new(Shared {
            most,
            fields,
            wanted: AtomicBool::new(false),
            inflated: AtomicU64::new(0),
            reported: AtomicU64::new(0),
            questions: Mutex::default(),
            wake: EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC)?,
        })))
    }

    /// Wants `target` bytes in the balloon, as much as there is memory at most. The guest gets there in its time, or never.
    pub fn set_target(&self, target: u64) {
        let pages = pages(target).min(self.0.most);
        self.0.fields.set_num_pages(pages);
        self.0.wanted.store(true, Ordering::Release);
        self.wake();
    }

    /// What is known now. Nobody is asked.
    pub fn state(&self) -> BalloonState {
        let fields = &self.0.fields;
        BalloonState {
            target: u64::from(fields.num_pages()) * PAGE,
            size: u64::from(fields.actual().min(self.0.most)) * PAGE,
            inflated: self.0.inflated.load(Ordering::Relaxed),
            reported: self.0.reported.load(Ordering::Relaxed),
            statistics: self.questions().last,
        }
    }

    /// Asks the guest for statistics, and calls `told` when they have come: on the device's thread, within a second, with
    /// older ones if the guest has not answered until then. Where no guest answers, at once and here.
    pub fn ask(&self, told: Told) {
        let mut questions = self.questions();
        if questions.answered && questions.waiting.len() < WAITING {
            questions.waiting.push(told);
            drop(questions);
            self.wake();
        } else {
            drop(questions);
            told(self.state());
        }
    }

    pub(super) fn fields(&self) -> Arc<Fields> {
        self.0.fields.clone()
    }

    /// Whether the driver is to be told of a target, which it then is.
    pub(super) fn take_wanted(&self) -> bool {
        self.0.wanted.swap(false, Ordering::AcqRel)
    }

    /// Readable for the worker when there is another target or a question.
    pub(super) fn woken(&self) -> &EventFd {
        &self.0.wake
    }

    pub(super) fn count_inflated(&self, bytes: u64) {
        self.0.inflated.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(super) fn count_reported(&self, bytes: u64) {
        self.0.reported.fetch_add(bytes, Ordering::Relaxed);
    }

    /// A driver is there that gives statistics when it is asked.
    pub(super) fn begin_answers(&self) {
        self.questions().answered = true;
    }

    /// Whether somebody waits for statistics.
    pub(super) fn is_asked(&self) -> bool {
        !self.questions().waiting.is_empty()
    }

    /// The guest has given statistics.
    pub(super) fn came(&self, statistics: Statistics) {
        self.questions().last = Some((Instant::now(), statistics));
        self.tell();
    }

    /// Tells those who wait what is known.
    pub(super) fn tell(&self) {
        let waiting = std::mem::take(&mut self.questions().waiting);
        for told in waiting {
            told(self.state());
        }
    }

    /// The driver gives no more statistics; those who wait are told.
    pub(super) fn end_answers(&self) {
        self.questions().answered = false;
        self.tell();
    }

    /// The driver is gone, and with it what it has said.
    pub(super) fn reset(&self) {
        self.0.fields.reset();
        self.questions().last = None;
        self.end_answers();
    }

    fn wake(&self) {
        // A full counter is readable already.
        let _ = self.0.wake.write(1);
    }

    fn questions(&self) -> MutexGuard<'_, Questions> {
        let questions = self.0.questions.lock();
        questions.unwrap_or_else(PoisonError::into_inner)
    }
}

fn pages(bytes: u64) -> u32 {
    u32::try_from(bytes / PAGE).unwrap_or(u32::MAX)
}
