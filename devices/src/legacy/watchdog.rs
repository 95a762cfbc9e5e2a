//! The guest's watchdog: a countdown that ends the VM if the guest does not start it again in time. ACPI's WDAT tells the
//! guest how.
//!
//! | offset | register, 32 bits | read | write |
//! |---|---|---|---|
//! | 0 | control | 1 while it runs | 1 starts it, 0 stops it |
//! | 4 | period in milliseconds | as it is | sets it, within its limits |
//! | 8 | what is left of it, in milliseconds | as it is | starts it again |
//! | 12 | status | 1 if it ran out and the VM was started again | clears it |
//!
//! Starting it again costs no more than this: whoever waits for its end looks at it when it would have come.

use std::{
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use crate::bus::BusDevice;

/// Ports taken.
pub const SIZE: u64 = 16;

const CONTROL: u64 = 0;
const PERIOD: u64 = 4;
const REMAINING: u64 = 8;
const STATUS: u64 = 12;

/// The countdown and its registers.
#[derive(Debug)]
pub struct Watchdog {
    state: Mutex<State>,
    /// The end has come nearer, or nobody is to wait for it any more.
    nearer: Condvar,
    max: Duration,
}

#[derive(Debug)]
struct State {
    period: Duration,
    countdown: Countdown,
    paused: bool,
    ran_out_before: bool,
    closed: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Countdown {
    Stopped,
    Until(Instant),
    /// The VM is paused, and so much will be left when it is resumed.
    Left(Duration),
}

impl Watchdog {
    /// A stopped one, whose period is `max` and can be made shorter. `ran_out_before` is what the guest reads of its last
    /// life.
    pub fn new(max: Duration, ran_out_before: bool) -> Self {
        Self {
            state: Mutex::new(State {
                period: max,
                countdown: Countdown::Stopped,
                paused: false,
                ran_out_before,
                closed: false,
            }),
            nearer: Condvar::new(),
            max,
        }
    }

    /// Waits until the countdown has run out (`true`), or until [`close`](Self::close) (`false`).
    pub fn wait(&self) -> bool {
        let mut state = self.lock();
        loop {
            if state.closed {
                return false;
            }
            let now = Instant::now();
            state = match state.countdown {
                Countdown::Until(end) if end <= now => return true,
                Countdown::Until(end) => {
                    let waited = self.nearer.wait_timeout(state, end - now);
                    waited.unwrap_or_else(PoisonError::into_inner).0
                }
                Countdown::Stopped | Countdown::Left(_) => self
                    .nearer
                    .wait(state)
                    .unwrap_or_else(PoisonError::into_inner),
            };
        }
    }

    /// Ends every [`wait`](Self::wait).
    pub fn close(&self) {
        self.lock().closed = true;
        self.nearer.notify_all();
    }

    /// Makes the countdown stand still: no vCPU can start it again.
    pub fn pause(&self) {
        let mut state = self.lock();
        state.paused = true;
        if let Countdown::Until(end) = state.countdown {
            let left = end.saturating_duration_since(Instant::now());
            state.countdown = Countdown::Left(left);
        }
    }

    /// Lets it go on.
    pub fn resume(&self) {
        let mut state = self.lock();
        state.paused = false;
        if let Countdown::Left(left) = state.countdown {
            state.countdown = Countdown::Until(Instant::now() + left);
            self.nearer.notify_all();
        }
    }

    fn start(&self, state: &mut State) {
        let (before, period) = (state.countdown, state.period);
        // A vCPU may do this on its way to the pause.
        state.countdown = match state.paused {
            true => Countdown::Left(period),
            false => Countdown::Until(Instant::now() + period),
        };
        let later = match (before, state.countdown) {
            (Countdown::Until(before), Countdown::Until(end)) => before <= end,
            _ => false,
        };
        if !later {
            self.nearer.notify_all();
        }
    }

    fn register(&self, offset: u64) -> u32 {
        let state = self.lock();
        let milliseconds = |time: Duration| u32::try_from(time.as_millis()).unwrap_or(u32::MAX);
        match offset {
            CONTROL => u32::from(state.countdown != Countdown::Stopped),
            PERIOD => milliseconds(state.period),
            REMAINING => milliseconds(match state.countdown {
                Countdown::Stopped => Duration::ZERO,
                Countdown::Until(end) => end.saturating_duration_since(Instant::now()),
                Countdown::Left(left) => left,
            }),
            STATUS => u32::from(state.ran_out_before),
            _ => u32::MAX,
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl BusDevice for Watchdog {
    fn read(&self, offset: u64, data: &mut [u8]) {
        match data.len() {
            4 => data.copy_from_slice(&self.register(offset).to_le_bytes()),
            _ => data.fill(0xff),
        }
    }

    fn write(&self, offset: u64, data: &[u8]) {
        let Ok(value) = data.try_into().map(u32::from_le_bytes) else {
            return;
        };
        let mut state = self.lock();
        let runs = state.countdown != Countdown::Stopped;
        match offset {
            CONTROL if value & 1 == 0 => state.countdown = Countdown::Stopped,
            CONTROL if !runs => self.start(&mut state),
            PERIOD => {
                let period = Duration::from_millis(value.max(1).into());
                state.period = period.min(self.max);
                if runs {
                    self.start(&mut state);
                }
            }
            REMAINING if runs => self.start(&mut state),
            STATUS => state.ran_out_before = false,
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::{sync::Arc, thread};

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    /// Far more than any test takes.
    const LONG: Duration = Duration::from_secs(3600);

    fn read(watchdog: &Watchdog, offset: u64) -> u32 {
        let mut data = [0; 4];
        watchdog.read(offset, &mut data);
        u32::from_le_bytes(data)
    }

    fn write(watchdog: &Watchdog, offset: u64, value: u32) {
        watchdog.write(offset, &value.to_le_bytes());
    }

    fn waiter(watchdog: &Arc<Watchdog>) -> thread::JoinHandle<bool> {
        let watchdog = watchdog.clone();
        thread::spawn(move || watchdog.wait())
    }

    #[test]
    fn it_runs_when_it_is_started_and_not_before() {
        let watchdog = Arc::new(Watchdog::new(LONG, false));
        let waiter = waiter(&watchdog);
        assert_eq!(read(&watchdog, CONTROL), 0);
        assert_eq!(read(&watchdog, REMAINING), 0);
        // Starting again what does not run is nothing.
        write(&watchdog, REMAINING, 1);
        assert_eq!(read(&watchdog, CONTROL), 0);
        write(&watchdog, PERIOD, 20);
        assert_eq!(read(&watchdog, PERIOD), 20);
        write(&watchdog, CONTROL, 1);
        assert!(waiter.join().unwrap());
        assert_eq!(read(&watchdog, REMAINING), 0);
    }

    #[test]
    fn a_shorter_period_ends_a_long_wait() {
        let watchdog = Arc::new(Watchdog::new(LONG, false));
        write(&watchdog, CONTROL, 1);
        let waiter = waiter(&watchdog);
        write(&watchdog, PERIOD, 20);
        assert!(waiter.join().unwrap());
    }

    #[test]
    fn what_is_started_again_in_time_does_not_run_out() {
        let watchdog = Arc::new(Watchdog::new(LONG, false));
        write(&watchdog, PERIOD, 2000);
        write(&watchdog, CONTROL, 1);
        let waiter = waiter(&watchdog);
        for _ in 0..5 {
            write(&watchdog, REMAINING, 1);
            assert!(read(&watchdog, REMAINING) > 1000);
            thread::sleep(SECOND / 2);
            assert!(!waiter.is_finished());
        }
        // Starting what runs does not give it new time.
        write(&watchdog, CONTROL, 1);
        assert!(read(&watchdog, REMAINING) <= 1500);
        assert!(waiter.join().unwrap());
    }

    #[test]
    fn what_is_stopped_or_closed_does_not_run_out() {
        let watchdog = Arc::new(Watchdog::new(LONG, false));
        write(&watchdog, PERIOD, 50);
        write(&watchdog, CONTROL, 1);
        write(&watchdog, CONTROL, 0);
        let waiter = waiter(&watchdog);
        thread::sleep(SECOND / 10);
        assert!(!waiter.is_finished());
        assert_eq!(
            (read(&watchdog, CONTROL), read(&watchdog, REMAINING)),
            (0, 0)
        );
        watchdog.close();
        assert!(!waiter.join().unwrap());
    }

    #[test]
    fn a_paused_one_stands_still() {
        let watchdog = Arc::new(Watchdog::new(LONG, false));
        write(&watchdog, PERIOD, 100);
        write(&watchdog, CONTROL, 1);
        watchdog.pause();
        let left = read(&watchdog, REMAINING);
        let waiter = waiter(&watchdog);
        thread::sleep(SECOND / 4);
        assert_eq!(read(&watchdog, REMAINING), left);
        assert_eq!(read(&watchdog, CONTROL), 1);
        // The last access before the pause.
        write(&watchdog, REMAINING, 1);
        assert_eq!(read(&watchdog, REMAINING), 100);
        assert!(!waiter.is_finished());
        watchdog.resume();
        assert!(waiter.join().unwrap());
    }

    #[test]
    fn periods_stay_within_their_limits() {
        let watchdog = Watchdog::new(30 * SECOND, false);
        for (period, taken) in [(u32::MAX, 30_000), (30_001, 30_000), (7, 7), (0, 1)] {
            write(&watchdog, PERIOD, period);
            assert_eq!(read(&watchdog, PERIOD), taken);
        }
    }

    #[test]
    fn a_guest_reads_once_that_it_was_ended() {
        let watchdog = Watchdog::new(LONG, true);
        assert_eq!(read(&watchdog, STATUS), 1);
        write(&watchdog, STATUS, 0);
        assert_eq!(read(&watchdog, STATUS), 0);
    }

    #[test]
    fn other_widths_and_offsets_are_harmless() {
        let watchdog = Watchdog::new(LONG, true);
        for width in [1, 2, 3, 8] {
            for offset in 0..SIZE {
                let mut data = vec![0; width];
                watchdog.read(offset, &mut data);
                assert!(data.iter().all(|byte| *byte == 0xff));
                watchdog.write(offset, &data);
            }
        }
        for offset in (0..SIZE).filter(|offset| offset % 4 != 0) {
            assert_eq!(read(&watchdog, offset), u32::MAX);
            write(&watchdog, offset, 1);
        }
        assert_eq!(read(&watchdog, CONTROL), 0);
        assert_eq!(read(&watchdog, STATUS), 1);
    }
}
