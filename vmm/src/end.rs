//! How a VM ends, and the one place where its parts report it.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use minivmm_devices::{console::ConsoleSink, legacy::Panic};
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};

/// A guest whose kernel has panicked is ended when it has printed nothing for this long.
const SILENCE: Duration = Duration::from_secs(1);
/// It is ended after this time whatever it prints.
const LAST_WORDS: Duration = Duration::from_secs(10);

/// How a VM ended.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum End {
    /// The guest powered itself off.
    PowerOff,
    /// The guest asked for a reset.
    Reset,
    /// A triple fault that was not a way to restart.
    TripleFault,
    /// The guest's kernel panicked.
    Panic,
    /// The guest's watchdog has run out.
    Watchdog,
    /// It was ended from outside, without the guest's doing.
    Killed,
    /// The back end of a share was lost, and its owner ended the VM for that.
    BackendLost {
        /// The share's tag.
        tag: String,
    },
    /// The guest did not say that it is ready, and its owner ended the VM for that.
    NotReady {
        /// What was waited for, for a person.
        why: String,
    },
    /// The VM could not go on: KVM refused to run it.
    Fault {
        /// What happened, for a person.
        what: String,
    },
}

impl std::fmt::Display for End {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::PowerOff => f.write_str("the guest powered off"),
            Self::Reset => f.write_str("the guest asked for a reset"),
            Self::TripleFault => f.write_str("the guest ended in a triple fault"),
            Self::Panic => f.write_str("the guest's kernel panicked: its console says why"),
            Self::Watchdog => f.write_str("the guest hung: its watchdog has run out"),
            Self::Killed => f.write_str("the VM was ended without the guest's doing"),
            Self::BackendLost { tag } => write!(f, "virtiofsd of share `{tag}` was lost"),
            Self::NotReady { why } => f.write_str(why),
            Self::Fault { what } => f.write_str(what),
        }
    }
}

/// Takes the first end that any part of the VM reports; later ones are consequences of it.
///
/// A panic is the cause of what follows it, and known in two ways: a guest with a driver for pvpanic says so, any Linux
/// prints it on its console. After either a reset and a triple fault are the panic's. Only after the first is the VM
/// also ended if the guest does neither, once it has had time for its last words.
pub struct EndReport {
    state: Mutex<State>,
    console: ConsoleSink,
    /// A timer that has run out once there is an end.
    timer: OwnedFd,
}

#[derive(Default)]
struct State {
    end: Option<End>,
    panic: Option<LastWords>,
    crash_kernel: bool,
}

/// A guest that has panicked and may still print why.
struct LastWords {
    until: Instant,
    /// When to look whether it still prints, and what it had printed before.
    look: Instant,
    written: u64,
}

impl EndReport {
    /// Nothing reported yet; `console` is what the guest prints.
    pub fn new(console: ConsoleSink) -> io::Result<Self> {
        let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
        Ok(Self {
            state: Mutex::default(),
            console,
            timer: timerfd_create(TimerfdClockId::Monotonic, flags)?,
        })
    }

    /// Reports an end; only the first one counts.
    pub fn report(&self, end: End) {
        let mut state = self.lock();
        let said_so = state.panic.is_some() || state.crash_kernel;
        let end = match end {
            End::Reset | End::TripleFault if said_so || self.console.panicked() => End::Panic,
            end => end,
        };
        self.end(&mut state, end);
    }

    /// The guest says that its kernel has panicked.
    pub fn panicked(&self, panic: Panic) {
        let mut state = self.lock();
        match panic {
            Panic::Final if state.panic.is_none() => {
                let now = Instant::now();
                state.panic = Some(LastWords {
                    until: now + LAST_WORDS,
                    look: now + SILENCE,
                    written: self.console.written(),
                });
                if state.end.is_none() {
                    self.arm(SILENCE);
                }
            }
            Panic::Final => {}
            Panic::CrashKernel => {
                if !std::mem::replace(&mut state.crash_kernel, true) {
                    tracing::warn!("the guest's kernel panicked; its crash kernel takes over");
                }
            }
        }
    }

    /// How the VM ended, if it has.
    pub fn get(&self) -> Option<End> {
        self.at(Instant::now())
    }

    fn at(&self, now: Instant) -> Option<End> {
        let mut state = self.lock();
        if state.end.is_none()
            && let Some(panic) = &mut state.panic
            && now >= panic.look
        {
            let written = self.console.written();
            if written == panic.written || now >= panic.until {
                self.end(&mut state, End::Panic);
            } else {
                panic.written = written;
                panic.look = (now + SILENCE).min(panic.until);
                self.arm(panic.look - now);
            }
        }
        state.end.clone()
    }

    fn end(&self, state: &mut State, end: End) {
        if state.end.is_none() {
            state.end = Some(end);
            self.arm(Duration::ZERO);
        }
    }

    /// Makes the timer run out after `time`, or at once.
    fn arm(&self, time: Duration) {
        let zero = Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        // A time of zero would stop the timer. Ours are a few seconds.
        let time = time.max(Duration::from_nanos(1));
        let timer = Itimerspec {
            it_interval: zero,
            it_value: Timespec {
                tv_sec: time.as_secs() as i64,
                tv_nsec: time.subsec_nanos().into(),
            },
        };
        if let Err(error) = timerfd_settime(&self.timer, TimerfdTimerFlags::empty(), &timer) {
            tracing::error!("cannot set the timer of the VM's end: {error}");
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Becomes readable when [`EndReport::get`] may have an end to tell, and stays so when it has.
impl AsFd for EndReport {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.timer.as_fd()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use minivmm_devices::console::Origin::Serial;
    use rustix::event::{PollFd, PollFlags, poll};

    use super::*;

    fn report() -> (EndReport, ConsoleSink) {
        let console = ConsoleSink::new().unwrap();
        (EndReport::new(console.clone()).unwrap(), console)
    }

    /// Whether the descriptor is readable within `time`.
    fn tells(report: &EndReport, time: Duration) -> bool {
        let time = Timespec::try_from(time).unwrap();
        poll(&mut [PollFd::new(report, PollFlags::IN)], Some(&time)).unwrap() == 1
    }

    #[test]
    fn the_first_end_counts() {
        let (report, _) = report();
        assert_eq!(report.get(), None);
        assert!(!tells(&report, Duration::ZERO));
        report.report(End::Reset);
        report.report(End::Killed);
        assert!(tells(&report, SILENCE));
        assert_eq!(report.get(), Some(End::Reset));
        assert!(tells(&report, Duration::ZERO), "and stays so");
    }

    #[test]
    fn a_reset_and_a_triple_fault_after_a_panic_are_the_panics() {
        for end in [End::Reset, End::TripleFault] {
            let (printed, console) = report();
            console.push(Serial, b"Kernel panic - not syncing: Oops\n");
            assert_eq!(printed.get(), None);
            printed.report(end.clone());
            assert_eq!(printed.get(), Some(End::Panic));

            for panic in [Panic::Final, Panic::CrashKernel] {
                let (said, _) = report();
                said.panicked(panic);
                said.report(end.clone());
                assert_eq!(said.get(), Some(End::Panic));
            }
        }
    }

    #[test]
    fn other_ends_after_a_panics_words_are_what_they_are() {
        for end in [End::PowerOff, End::Killed] {
            let (report, console) = report();
            console.push(Serial, b"the last boot said: Kernel panic - not syncing\n");
            report.report(end.clone());
            assert_eq!(report.get(), Some(end));
        }
    }

    #[test]
    fn a_guest_that_panicked_is_ended_when_it_is_silent() {
        let (report, console) = report();
        let start = Instant::now();
        report.panicked(Panic::Final);
        assert_eq!(report.get(), None);
        console.push(Serial, b"Kernel Offset: 0x1000000\n");
        assert!(tells(&report, 20 * SILENCE));
        // It has printed since, and so it is waited for again.
        assert_eq!(report.get(), None);
        assert!(tells(&report, 20 * SILENCE));
        assert_eq!(report.get(), Some(End::Panic));
        assert!(start.elapsed() >= 2 * SILENCE);
        assert!(tells(&report, Duration::ZERO));
    }

    #[test]
    fn a_guest_that_panicked_does_not_live_on_by_printing() {
        let (report, console) = report();
        report.panicked(Panic::Final);
        let start = Instant::now();
        let mut seconds = 0..;
        let ended = seconds.find(|seconds| {
            console.push(Serial, b"still here\n");
            report.at(start + Duration::from_secs(*seconds)).is_some()
        });
        assert_eq!(ended, Some(LAST_WORDS.as_secs()));
    }

    #[test]
    fn a_crash_kernel_is_left_to_its_work() {
        let (report, _) = report();
        report.panicked(Panic::CrashKernel);
        assert_eq!(report.at(Instant::now() + 2 * LAST_WORDS), None);
    }
}
