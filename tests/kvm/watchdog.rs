//! A test that hangs says where, and ends the run: a lab that says nothing until its own end helps nobody.

use std::{
    fs,
    sync::mpsc::{self, RecvTimeoutError, Sender},
    thread,
    time::Duration,
};

/// Longer than everything that a test waits for with a deadline of its own.
const LIMIT: Duration = Duration::from_secs(400);

/// Watches until it is dropped.
pub struct Watchdog(#[expect(dead_code, reason = "its end is the signal")] Sender<()>);

/// Watches the test `name` on the calling thread.
pub fn start(name: &'static str) -> Watchdog {
    let (sender, ended) = mpsc::channel();
    thread::spawn(move || {
        if ended.recv_timeout(LIMIT) == Err(RecvTimeoutError::Timeout) {
            eprintln!("{name} hangs");
            eprintln!("{}", processes());
            std::process::exit(1);
        }
    });
    Watchdog(sender)
}

/// What every thread of every process that has to do with minivmm is doing.
pub fn processes() -> String {
    let mut text = "every process that has to do with minivmm:\n".to_owned();
    for pid in numbers("/proc") {
        let words = read(&format!("/proc/{pid}/cmdline")).replace('\0', " ");
        if ["minivmm", "virtiofsd"]
            .iter()
            .any(|name| words.contains(name))
        {
            text.push_str(&format!("{pid}: {words}\n"));
            for thread in numbers(&format!("/proc/{pid}/task")) {
                text.push_str(&describe(&format!("/proc/{pid}/task/{thread}")));
            }
        }
    }
    text
}

/// A thread: name, state, ticks in user mode and in the kernel, where in the kernel it is.
fn describe(task: &str) -> String {
    let stat = read(&format!("{task}/stat"));
    let fields: Vec<&str> = stat
        .rsplit(')')
        .next()
        .unwrap_or_default()
        .split_whitespace()
        .collect();
    let field = |n: usize| fields.get(n).copied().unwrap_or("?").to_owned();
    let stack = read(&format!("{task}/stack"));
    let stack: Vec<&str> = stack
        .lines()
        .filter_map(|line| line.split(' ').nth(1))
        .collect();
    format!(
        "  {}: {}, {} and {} ticks, in {}\n",
        read(&format!("{task}/comm")).trim(),
        field(0),
        field(11),
        field(12),
        stack.join(" < "),
    )
}

fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

/// The entries of a directory that are numbers.
fn numbers(path: &str) -> Vec<u32> {
    let entries = fs::read_dir(path).into_iter().flatten().flatten();
    entries
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect()
}
