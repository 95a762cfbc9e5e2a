//! The CMOS real-time clock, an MC146818: an index and a data port, 0x70 and 0x71.
//!
//! | register     | what                                                             |
//! |--------------|------------------------------------------------------------------|
//! | 0x00–0x09    | time and alarm; the weekday's 1 is Sunday                        |
//! | 0x0A         | status A: bit 7 says that the time is about to change            |
//! | 0x0B         | status B: bit 2 binary instead of BCD, bit 1 24 hours instead of 12 |
//! | 0x0C         | status C: which interrupts are pending; none ever is             |
//! | 0x0D         | status D: bit 7 says that time and memory are valid              |
//! | 0x32         | century, which the FADT names                                    |
//! | the others   | memory, zero at first                                            |
//!
//! The time is the host's, in UTC. A guest that sets it changes nothing: what it writes is forgotten. There is no
//! interrupt; alarm registers and the interrupt enable bits only keep what is written to them.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use crate::bus::BusDevice;

/// Ports taken.
pub const SIZE: u64 = 2;
/// The register with the century.
pub const CENTURY: u8 = 0x32;

const INDEX: u64 = 0;
const DATA: u64 = 1;
/// The index port's highest bit switches the NMI off; there is none.
const INDEX_MASK: u8 = 0x7f;
const REGISTERS: usize = 128;

const SECONDS: u8 = 0x00;
const MINUTES: u8 = 0x02;
const HOURS: u8 = 0x04;
const WEEKDAY: u8 = 0x06;
const DAY: u8 = 0x07;
const MONTH: u8 = 0x08;
const YEAR: u8 = 0x09;
const STATUS_A: u8 = 0x0a;
const STATUS_B: u8 = 0x0b;
const STATUS_C: u8 = 0x0c;
const STATUS_D: u8 = 0x0d;

/// A time base of 32768 Hz, as in every PC.
const STATUS_A_DEFAULT: u8 = 0x26;
const UPDATE_IN_PROGRESS: u8 = 0x80;
const STATUS_B_BINARY: u8 = 1 << 2;
const STATUS_B_24_HOURS: u8 = 1 << 1;
const VALID_RAM_AND_TIME: u8 = 0x80;
/// Added to the hour in the 12-hour form.
const PM: u8 = 0x80;

/// How long before it changes the time must not be read any more.
const UPDATE: Duration = Duration::from_micros(244);

/// The clock.
pub struct Rtc {
    now: Box<dyn Fn() -> SystemTime + Send + Sync>,
    state: Mutex<State>,
}

struct State {
    index: u8,
    memory: [u8; REGISTERS],
}

impl Rtc {
    /// A clock that shows what `now` says.
    pub fn new(now: impl Fn() -> SystemTime + Send + Sync + 'static) -> Self {
        let mut memory = [0; REGISTERS];
        memory[usize::from(STATUS_A)] = STATUS_A_DEFAULT;
        memory[usize::from(STATUS_B)] = STATUS_B_24_HOURS;
        Self {
            now: Box::new(now),
            state: Mutex::new(State { index: 0, memory }),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn register(&self, state: &State) -> u8 {
        // A host before 1970 has no time to show.
        let now = (self.now)().duration_since(UNIX_EPOCH).unwrap_or_default();
        let time = Time::from_unix(now.as_secs());
        let form = Form(state.memory[usize::from(STATUS_B)]);
        let memory = state.memory[usize::from(state.index)];
        match state.index {
            SECONDS => form.number(time.second),
            MINUTES => form.number(time.minute),
            HOURS => form.hour(time.hour),
            WEEKDAY => form.number(time.weekday),
            DAY => form.number(time.day),
            MONTH => form.number(time.month),
            YEAR => form.number(time.year),
            CENTURY => form.number(time.century),
            STATUS_A if now.subsec_nanos() >= 1_000_000_000 - UPDATE.subsec_nanos() => {
                memory | UPDATE_IN_PROGRESS
            }
            STATUS_C => 0,
            STATUS_D => VALID_RAM_AND_TIME,
            _ => memory,
        }
    }
}

impl BusDevice for Rtc {
    fn read(&self, offset: u64, data: &mut [u8]) {
        match (offset, data) {
            (DATA, [byte]) => *byte = self.register(&self.lock()),
            // The index cannot be read back.
            (_, data) => data.fill(0xff),
        }
    }

    fn write(&self, offset: u64, data: &[u8]) {
        let &[value] = data else { return };
        let mut state = self.lock();
        match offset {
            INDEX => state.index = value & INDEX_MASK,
            DATA => {
                let value = match state.index {
                    STATUS_A => value & !UPDATE_IN_PROGRESS,
                    _ => value,
                };
                // The time's own registers are never read from here.
                let index = usize::from(state.index);
                state.memory[index] = value;
            }
            _ => {}
        }
    }
}

/// Status B, as far as it says how numbers look.
#[derive(Clone, Copy)]
struct Form(u8);

impl Form {
    /// `value` is below 100.
    fn number(self, value: u8) -> u8 {
        match self.0 & STATUS_B_BINARY {
            0 => ((value / 10) << 4) | (value % 10),
            _ => value,
        }
    }

    fn hour(self, hour: u8) -> u8 {
        if self.0 & STATUS_B_24_HOURS != 0 {
            return self.number(hour);
        }
        // 12 comes before 1, both at noon and at midnight.
        let twelve = match hour % 12 {
            0 => 12,
            hour => hour,
        };
        self.number(twelve) | if hour >= 12 { PM } else { 0 }
    }
}

/// A moment in UTC, in the numbers that the registers have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Time {
    second: u8,
    minute: u8,
    hour: u8,
    /// 1 is Sunday.
    weekday: u8,
    day: u8,
    month: u8,
    year: u8,
    century: u8,
}

impl Time {
    /// The Gregorian calendar, by counting from 1 March 2000: the leap day is then the last of its year, and years come
    /// in groups of 400, 100 and 4 whose last one alone is longer or shorter.
    fn from_unix(seconds: u64) -> Self {
        const DAY: u64 = 24 * 60 * 60;
        /// The last second that the registers can show, 9999-12-31 23:59:59.
        const LAST: u64 = 253_402_300_799;
        const MARCH_2000: i64 = 11_017;
        const YEARS_400: i64 = 146_097;
        const YEARS_100: i64 = 36_524;
        const YEARS_4: i64 = 1_461;

        let seconds = seconds.min(LAST);
        let (days, second) = (seconds / DAY, seconds % DAY);
        let march = days as i64 - MARCH_2000;
        let (groups_400, rest) = (march.div_euclid(YEARS_400), march.rem_euclid(YEARS_400));
        // The day that such a group has more than its parts belongs to the last of these.
        let groups_100 = (rest / YEARS_100).min(3);
        let rest = rest - groups_100 * YEARS_100;
        let (groups_4, rest) = (rest / YEARS_4, rest % YEARS_4);
        let years = (rest / 365).min(3);
        let mut day = rest - years * 365;

        let mut month = 3;
        for length in [31, 30, 31, 30, 31, 31, 30, 31, 30, 31, 31] {
            if day < length {
                break;
            }
            day -= length;
            month += 1;
        }
        let mut year = 2000 + 400 * groups_400 + 100 * groups_100 + 4 * groups_4 + years;
        if month > 12 {
            month -= 12;
            year += 1;
        }
        Self {
            second: (second % 60) as u8,
            minute: (second / 60 % 60) as u8,
            hour: (second / 3600) as u8,
            // 1 January 1970 was a Thursday.
            weekday: ((days + 4) % 7 + 1) as u8,
            day: (day + 1) as u8,
            month,
            year: (year % 100) as u8,
            century: (year / 100) as u8,
        }
    }
}

#[cfg(test)]
mod tests;
