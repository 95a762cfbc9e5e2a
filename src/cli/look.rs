//! How things look to a person.

use std::{
    fmt::Display,
    io::{self, Write},
    time::Duration,
};

use anstyle::{AnsiColor, Style};
use rustix::termios::tcgetwinsize;

use crate::board::State;

/// Prints a line, in colours on a terminal and without them in a pipe and where NO_COLOR is set.
pub fn say(line: impl Display) {
    // A reader that has gone away is no reason to fail.
    let _ = writeln!(anstream::stdout().lock(), "{line}");
}

/// The colour of a state.
pub fn state(state: State) -> Style {
    match state {
        State::Running => AnsiColor::Green.on_default(),
        State::Starting | State::Restarting => AnsiColor::Yellow.on_default(),
        State::Paused => AnsiColor::Cyan.on_default(),
        State::Stopping => AnsiColor::Magenta.on_default(),
    }
}

/// Seconds in the two largest units that they have: `3d4h`, `2h5m`, `7m0s`, `12s`.
pub fn age(seconds: u64) -> String {
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds}s"),
        (0, 0, _) => format!("{minutes}m{}s", seconds % 60),
        (0, ..) => format!("{hours}h{}m", minutes % 60),
        _ => format!("{days}d{}h", hours % 24),
    }
}

/// Processor time, as `1.250s`, `2m5s`.
pub fn cpu(time: Duration) -> String {
    match time.as_secs() {
        0..60 => format!("{:.3}s", time.as_secs_f64()),
        seconds => age(seconds),
    }
}

/// Bytes, as `12.3M`.
pub fn bytes(bytes: u64) -> String {
    format!("{:.1}M", bytes as f64 / f64::from(1 << 20))
}

/// A text of somebody else's without what a terminal would obey.
pub fn clean(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { '?' } else { c })
        .collect()
}

/// The width of the terminal that standard output is.
pub fn width() -> Option<usize> {
    let size = tcgetwinsize(io::stdout()).ok()?;
    (size.ws_col > 0).then_some(usize::from(size.ws_col))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_age_has_its_two_largest_units() {
        let said = [0, 59, 60, 3599, 3600, 86_399, 90_000].map(age);
        assert_eq!(
            said,
            ["0s", "59s", "1m0s", "59m59s", "1h0m", "23h59m", "1d1h"]
        );
    }

    #[test]
    fn what_a_terminal_would_obey_is_not_passed_on() {
        assert_eq!(clean("a\x1b[31m\u{9b}b\n"), "a?[31m?b?");
    }
}
