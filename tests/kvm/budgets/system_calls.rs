//! The system calls of supervisor and VMM, of all their threads, until the first KVM_RUN.

use std::{collections::BTreeSet, fs};

use anyhow::{Context, Result, ensure};

use crate::vm;

/// Starts a VM under strace.
pub fn measure() -> Result<u64> {
    let vm = super::guest()?;
    let log = vm.directory().join("strace");
    let vm = vm.by([
        "strace",
        "-f",
        "--pidns-translation",
        "-o",
        &log.to_string_lossy(),
    ]);
    let running = vm.start()?;
    let read = || fs::read(&log).unwrap_or_default();
    super::wait_until("the first KVM_RUN under strace", || {
        count(&String::from_utf8_lossy(&read())).is_some()
    })?;
    let supervisor = vm::descendants(running.pid())?;
    super::end(running, *supervisor.first().context("strace runs nothing")?)?;
    count(&String::from_utf8_lossy(&read())).context("no KVM_RUN")
}

/// Counts in the output of `strace -f --pidns-translation`; `None` if the first KVM_RUN is not in it.
fn count(log: &str) -> Option<u64> {
    let mut calls = 0;
    // virtiofsd and its threads and children.
    let mut others = BTreeSet::new();
    for line in log.lines() {
        let (process, event) = line.split_once(' ')?;
        let event = event.trim_start();
        if let Some(child) = started(event)
            && others.contains(process)
        {
            others.insert(child);
        }
        // The second half of a call, a signal, an end.
        if event.starts_with("<...") || event.starts_with("---") || event.starts_with("+++") {
            continue;
        }
        if event.starts_with("execve(") && event.contains("/virtiofsd\"") {
            others.insert(process);
        }
        if !others.contains(process) {
            if event.contains("KVM_RUN") {
                return Some(calls);
            }
            calls += 1;
        }
    }
    None
}

/// The process that a call has started, as strace numbers it.
fn started(event: &str) -> Option<&str> {
    let call = event.strip_prefix("<... ").unwrap_or(event);
    if !(call.starts_with("clone") || call.starts_with("fork") || call.starts_with("vfork")) {
        return None;
    }
    let (_, result) = call.rsplit_once(" = ")?;
    match result.split_once("/* ") {
        Some((_, translated)) => translated.split(' ').next(),
        None => Some(result.trim()),
    }
}

pub fn counts() -> Result<()> {
    let log = "\
10    execve(\"/usr/bin/minivmm\", [\"minivmm\"]) = 0
10    openat(AT_FDCWD, \"a\") = 3
10    clone(child_stack=NULL, flags=SIGCHLD <unfinished ...>
11    close(3) = 0
11    execve(\"/usr/bin/virtiofsd\", [\"virtiofsd\"] <unfinished ...>
10    <... clone resumed>) = 11
11    <... execve resumed>) = 0
11    clone3({flags=CLONE_NEWPID} <unfinished ...>
11    <... clone3 resumed> => {pidfd=[20]}, 64) = 2 /* 12 in strace's PID NS */
12    read(3, \"\", 1) = 0
10    --- SIGCHLD {si_signo=SIGCHLD} ---
10    ioctl(5, KVM_CREATE_VM, 0) = 6
11    +++ exited with 0 +++
13    ioctl(25, KVM_RUN <unfinished ...>
10    close(7) = 0
";
    let (before, _) = log.split_once("13 ").context("no KVM_RUN")?;
    ensure!(count(before).is_none());
    let calls = count(log);
    ensure!(calls == Some(5), "{calls:?}");
    Ok(())
}
