//! Shows work step by step with its time: on a terminal with a bar while it lasts, elsewhere as plain lines.

use std::cell::Cell;
use std::io::{self, IsTerminal};
use std::time::{Duration, Instant};

use anyhow::Result;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// In a log, work that is counted says so often how far it is.
const LINES: u64 = 5;

/// A known number of steps.
#[derive(Debug)]
pub struct Steps {
    bar: ProgressBar,
    started: Instant,
}

impl Steps {
    /// `count` steps are to come.
    pub fn new(count: u64) -> Self {
        let bar = ProgressBar::with_draw_target(Some(count), ProgressDrawTarget::stdout());
        let style = ProgressStyle::with_template("{bar:24} {pos}/{len}  {msg} … {elapsed}")
            .unwrap_or_else(|_| ProgressStyle::default_bar());
        bar.set_style(style);
        Self {
            bar,
            started: Instant::now(),
        }
    }

    /// Does `work`, and says that it is done and how long it took. It is for work that shows nothing itself.
    pub fn step<T>(&self, name: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
        self.bar.set_message(name.to_owned());
        self.bar.reset_elapsed();
        self.bar.enable_steady_tick(Duration::from_millis(100));
        let begin = Instant::now();
        let result = work();
        self.bar.disable_steady_tick();
        self.bar.inc(1);
        self.line(&result, name, begin);
        result
    }

    /// As [`Steps::step`], for work that prints, as cargo does with a bar of its own.
    pub fn loud<T>(&self, name: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
        self.bar.set_draw_target(ProgressDrawTarget::hidden());
        println!("▸ {name}");
        let begin = Instant::now();
        let result = work();
        self.bar.inc(1);
        self.bar.set_draw_target(ProgressDrawTarget::stdout());
        self.line(&result, name, begin);
        result
    }

    /// As [`Steps::step`], for work that is many small things: a bar of its own shows how many are done of about
    /// `expected`.
    pub fn counted<T>(
        &self,
        name: &str,
        expected: u64,
        work: impl FnOnce(&Count) -> Result<T>,
    ) -> Result<T> {
        self.bar.set_draw_target(ProgressDrawTarget::hidden());
        let count = Count::new(name, expected);
        let begin = Instant::now();
        let result = work(&count);
        count.bar.finish_and_clear();
        self.bar.inc(1);
        self.bar.set_draw_target(ProgressDrawTarget::stdout());
        self.line(&result, name, begin);
        result
    }

    /// Takes the bar away and says how long all of it took.
    pub fn finish(self, what: &str) {
        self.bar.finish_and_clear();
        println!("{what}: {}", seconds(self.started.elapsed()));
    }

    fn line<T>(&self, result: &Result<T>, name: &str, begin: Instant) {
        let mark = if result.is_ok() { '✓' } else { '✗' };
        let line = format!("{mark} {name} … {}", seconds(begin.elapsed()));
        self.bar.suspend(|| println!("{line}"));
        if result.is_err() {
            self.bar.finish_and_clear();
        }
    }
}

/// How far a piece of work is that is counted.
#[derive(Debug)]
pub struct Count {
    bar: ProgressBar,
    name: String,
    expected: u64,
    done: Cell<u64>,
}

impl Count {
    fn new(name: &str, expected: u64) -> Self {
        let bar = ProgressBar::with_draw_target(Some(expected), ProgressDrawTarget::stdout());
        let style = ProgressStyle::with_template("{bar:24} {pos}/{len}  {msg} … {elapsed}")
            .unwrap_or_else(|_| ProgressStyle::default_bar());
        bar.set_style(style);
        bar.set_message(name.to_owned());
        bar.enable_steady_tick(Duration::from_millis(500));
        Self {
            bar,
            name: name.to_owned(),
            expected,
            done: Cell::new(0),
        }
    }

    /// One more is done. More than expected are as many as there are.
    pub fn one(&self) {
        let done = self.done.get() + 1;
        self.done.set(done);
        self.bar.set_length(self.expected.max(done));
        self.bar.set_position(done);
        let line = done.is_multiple_of((self.expected / LINES).max(1)) && done <= self.expected;
        if line && !io::stdout().is_terminal() {
            println!("  {} … {done} of about {}", self.name, self.expected);
        }
    }
}

/// A duration as people read it.
pub fn seconds(duration: Duration) -> String {
    format!("{:.1} s", duration.as_secs_f64())
}
