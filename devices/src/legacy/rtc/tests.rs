use std::sync::{Arc, Mutex};

use proptest::prelude::*;

use super::*;

/// A clock that stands still at a moment after 1970, until it is moved.
struct Fixture {
    rtc: Rtc,
    now: Arc<Mutex<Duration>>,
}

fn at(seconds: u64) -> Fixture {
    let now = Arc::new(Mutex::new(Duration::from_secs(seconds)));
    let shown = now.clone();
    let rtc = Rtc::new(move || UNIX_EPOCH + *shown.lock().unwrap_or_else(PoisonError::into_inner));
    Fixture { rtc, now }
}

impl Fixture {
    fn read(&self, index: u8) -> u8 {
        self.rtc.write(INDEX, &[index]);
        let mut data = [0xaa];
        self.rtc.read(DATA, &mut data);
        data[0]
    }

    fn write(&self, index: u8, value: u8) {
        self.rtc.write(INDEX, &[index]);
        self.rtc.write(DATA, &[value]);
    }

    /// Century, year, month, day, hour, minute, second, weekday.
    fn time(&self) -> [u8; 8] {
        [CENTURY, YEAR, MONTH, DAY, HOURS, MINUTES, SECONDS, WEEKDAY].map(|index| self.read(index))
    }

    fn move_to(&self, now: Duration) {
        *self.now.lock().unwrap_or_else(PoisonError::into_inner) = now;
    }
}

#[test]
fn the_time_is_shown_in_bcd_and_24_hours_unless_the_guest_asks_otherwise() {
    // 2024-02-29 23:59:58, a Thursday.
    let f = at(1_709_251_198);
    assert_eq!(f.time(), [0x20, 0x24, 0x02, 0x29, 0x23, 0x59, 0x58, 0x05]);
    f.write(STATUS_B, STATUS_B_BINARY | STATUS_B_24_HOURS);
    assert_eq!(f.time(), [20, 24, 2, 29, 23, 59, 58, 5]);
    f.write(STATUS_B, STATUS_B_BINARY);
    assert_eq!(f.read(HOURS), PM | 11);
    f.write(STATUS_B, 0);
    assert_eq!(f.read(HOURS), PM | 0x11);
}

#[test]
fn twelve_hours_begin_with_twelve() {
    let hours = |hour: u64| {
        let f = at(hour * 3600);
        f.write(STATUS_B, STATUS_B_BINARY);
        f.read(HOURS)
    };
    assert_eq!(
        [0, 1, 11, 12, 13, 23].map(hours),
        [12, 1, 11, PM | 12, PM | 1, PM | 11]
    );
}

#[test]
fn dates_are_those_of_the_calendar() {
    // Made with `date -u -d DATE +%s`.
    for (seconds, date) in [
        (0, [19, 70, 1, 1, 5]),
        (951_782_400, [20, 0, 2, 29, 3]),
        (951_868_800, [20, 0, 3, 1, 4]),
        (978_307_199, [20, 0, 12, 31, 1]),
        (4_107_456_000, [21, 0, 2, 28, 1]),
        (4_107_542_400, [21, 0, 3, 1, 2]),
        (13_574_563_200, [24, 0, 2, 29, 3]),
        (253_402_300_799, [99, 99, 12, 31, 6]),
        (u64::MAX, [99, 99, 12, 31, 6]),
    ] {
        let time = Time::from_unix(seconds);
        let seen = [time.century, time.year, time.month, time.day, time.weekday];
        assert_eq!(seen, date, "{seconds}");
    }
}

#[test]
fn the_time_is_marked_as_changing_just_before_it_does() {
    let f = at(0);
    assert_eq!(f.read(STATUS_A), STATUS_A_DEFAULT);
    f.move_to(Duration::from_nanos(999_755_999));
    assert_eq!(f.read(STATUS_A), STATUS_A_DEFAULT);
    f.move_to(Duration::from_nanos(999_756_000));
    assert_eq!(f.read(STATUS_A), STATUS_A_DEFAULT | UPDATE_IN_PROGRESS);
    f.move_to(Duration::from_secs(1));
    assert_eq!(f.read(STATUS_A), STATUS_A_DEFAULT);
}

#[test]
fn a_guest_does_not_set_the_time_nor_make_it_invalid() {
    let f = at(1_709_251_198);
    let before = f.time();
    // As Linux does: halt the clock, write, let it go on.
    f.write(STATUS_B, 0x80 | STATUS_B_24_HOURS);
    f.write(STATUS_A, 0x70);
    for index in [SECONDS, MINUTES, HOURS, WEEKDAY, DAY, MONTH, YEAR, CENTURY] {
        f.write(index, 1);
    }
    f.write(STATUS_A, 0xff);
    f.write(STATUS_B, STATUS_B_24_HOURS);
    f.write(STATUS_C, 0xff);
    f.write(STATUS_D, 0);
    assert_eq!(f.time(), before);
    assert_eq!(f.read(STATUS_A), 0x7f);
    assert_eq!(f.read(STATUS_C), 0);
    assert_eq!(f.read(STATUS_D), VALID_RAM_AND_TIME);
}

#[test]
fn other_registers_keep_what_is_written_whether_or_not_the_nmi_is_off() {
    let f = at(0);
    for index in (0x0e..0x80).filter(|index| *index != CENTURY) {
        assert_eq!(f.read(index), 0);
        f.write(index | 0x80, index);
    }
    for index in (0x0e..0x80).filter(|index| *index != CENTURY) {
        assert_eq!(f.read(index), index);
    }
}

#[test]
fn wide_accesses_are_harmless() {
    let f = at(0);
    f.rtc.write(INDEX, &[0x40, 1]);
    f.rtc.write(DATA, &[]);
    let mut data = [0; 2];
    f.rtc.read(INDEX, &mut data);
    assert_eq!(data, [0xff; 2]);
    f.rtc.read(INDEX, &mut data[..1]);
    assert_eq!(data[0], 0xff);
    assert_eq!(f.read(0x40), 0);
}

/// Days since 1970 of a date, by adding up years and months one by one.
fn days(year: u32, month: u8, day: u8) -> u64 {
    let is_leap = |year: u32| {
        year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400))
    };
    let years: u64 = (1970..year)
        .map(|y| if is_leap(y) { 366 } else { 365 })
        .sum();
    let february = if is_leap(year) { 29 } else { 28 };
    let months = [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let months: u64 = months.iter().take(usize::from(month) - 1).sum();
    years + months + u64::from(day) - 1
}

proptest! {
    #[test]
    fn every_second_has_its_own_reading(seconds in 0_u64..=253_402_300_799) {
        let t = Time::from_unix(seconds);
        let year = u32::from(t.century) * 100 + u32::from(t.year);
        let of_day = u64::from(t.hour) * 3600 + u64::from(t.minute) * 60 + u64::from(t.second);
        prop_assert_eq!(days(year, t.month, t.day) * 86400 + of_day, seconds);
        prop_assert!((1..=12).contains(&t.month) && (1..=31).contains(&t.day));
    }

    #[test]
    fn any_accesses_leave_a_readable_time(
        writes in prop::collection::vec((0_u64..2, any::<u8>()), 0..64),
    ) {
        let f = at(1_709_251_198);
        for (offset, value) in writes {
            f.rtc.write(offset, &[value]);
        }
        f.write(STATUS_B, STATUS_B_24_HOURS);
        prop_assert_eq!(f.time(), [0x20, 0x24, 0x02, 0x29, 0x23, 0x59, 0x58, 0x05]);
    }
}
