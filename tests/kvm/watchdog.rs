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
            eprintln!("{name} hangs; every process that has to do with minivmm:");
            processes();
            std::process::exit(1);
        }
    });
    Watchdog(sender)
}

fn processes() {
    let read = |path: String| fs::read_to_string(path).unwrap_or_default();
    let list = |path: &str| {
        let entries = fs::read_dir(path).into_iter().flatten().flatten();
        entries
            .filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok())
            .collect::<Vec<_>>()
    };
    for pid in list("/proc") {
        let words = read(format!("/proc/{pid}/cmdline")).replace('\0', " ");
        if !["minivmm", "virtiofsd"]
            .iter()
            .any(|name| words.contains(name))
        {
            continue;
        }
        eprintln!("{pid}: {words}");
        for thread in list(&format!("/proc/{pid}/task")) {
            let task = format!("/proc/{pid}/task/{thread}");
            eprintln!(
                "  {}: state and time {:?}, system call {}",
                read(format!("{task}/comm")).trim(),
                read(format!("{task}/stat")).rsplit(')').next().map(|s| s
                    .split(' ')
                    .enumerate()
                    .filter(|(n, _)| [1, 12, 13].contains(n))
                    .map(|(_, w)| w)
                    .collect::<Vec<_>>()
                    .join(" ")),
                read(format!("{task}/syscall")).trim(),
            );
            eprintln!("{}", read(format!("{task}/stack")));
        }
    }
}
