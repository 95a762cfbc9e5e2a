//! `minivmm reboot` and `minivmm stop`: what they wait for, say and leave.

use std::{fs, os::unix::net::UnixListener, process::Command};

use anyhow::{Context, Result, ensure};

use crate::{
    Test, depth,
    pause::{say, status},
    tiny::{self, Last},
    vm::{self, Vm},
};

pub const TESTS: &[Test] = &[
    Test {
        name: "reboot::forced_restarts_leak_neither_descriptors_nor_threads_nor_memory",
        run: forced,
    },
    Test {
        name: "reboot::a_guest_that_is_asked_shuts_down_and_starts_again_and_stop_waits_for_all",
        run: graceful,
    },
    Test {
        name: "reboot::a_vm_whose_guest_is_not_started_yet_can_be_stopped_and_nothing_else",
        run: not_started,
    },
    Test {
        name: "reboot::stop_is_0_at_once_where_no_vm_runs",
        run: nothing_to_stop,
    },
];

/// What a process holds.
#[derive(Debug)]
struct Held {
    descriptors: usize,
    threads: usize,
    memory_kib: u64,
}

impl Held {
    fn by(pid: u32) -> Result<Self> {
        let entries =
            |name| -> Result<usize> { Ok(fs::read_dir(format!("/proc/{pid}/{name}"))?.count()) };
        let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
        // Without what the program's file would give back.
        let memory = rollup.lines().find_map(|l| l.strip_prefix("Anonymous:"));
        let memory = memory.and_then(|l| l.split_whitespace().next());
        Ok(Self {
            descriptors: entries("fd")?,
            threads: entries("task")?,
            memory_kib: memory.context("no Anonymous")?.parse()?,
        })
    }
}

fn forced() -> Result<()> {
    let vm = Vm::with_tiny(Last::Idle)?.toml("[lifecycle]\nstop_timeout = \"1s\"\n");
    let mut running = vm.start()?;
    running.wait_for(tiny::LINE)?;
    let supervisor = running.pid();
    let rounds = depth(10, 100);
    let mut first = None;
    for n in 1..=rounds {
        say(&vm, ["reboot", "test", "--force"], "test: runs again")?;
        let status = status(&vm)?;
        ensure!(
            status["restarts"] == n && status["pid"] == supervisor,
            "{status}"
        );
        // The first ones fill what is kept for the next ones.
        if n == rounds / 2 {
            first = Some(Held::by(supervisor)?);
        }
    }
    let (first, last) = (first.context("no round")?, Held::by(supervisor)?);
    ensure!(
        last.descriptors == first.descriptors
            && last.threads == first.threads
            && last.memory_kib <= first.memory_kib + 32,
        "{first:?} has become {last:?}"
    );
    ensure!(vm::descendants(supervisor)?.len() == 1, "one VMM process");
    // It does not listen to its button, and starts again nevertheless.
    say(&vm, ["reboot", "test"], "test: runs again")?;
    running.wait_for("it had not shut down within 1s")?;
    say(
        &vm,
        ["stop", "test", "--force"],
        "test: the VM was ended without the guest's doing: somebody asked for that",
    )?;
    let (code, output) = running.wait()?;
    ensure!(code == 13, "exit code {code}:\n{output}");
    ensure!(!output.contains("of at most"), "they counted:\n{output}");
    vm.nothing_left()
}

fn graceful() -> Result<()> {
    const READY: &str = "minivmm-guest: ready";
    // The share's virtiofsds are among the processes that are waited for.
    let vm = Vm::with_script(
        "echo minivmm-guest: ready\ndd if=/dev/input/event0 of=/dev/null bs=24 count=1 2>/dev/null\n",
    )?;
    let mut running = vm.start()?;
    running.wait_for(READY)?;
    let first = vm::descendants(running.pid())?;
    say(&vm, ["reboot", "test"], "test: runs again")?;
    vm::wait_gone(&first)?;
    running.wait_for_nth(READY, 2)?;
    ensure!(
        running.count("the guest powered off") == 1,
        "an orderly end"
    );
    ensure!(running.count("starting the VM again") == 1, "one restart");
    let processes = vm::descendants(running.pid())?;
    say(&vm, ["stop", "test"], "test: the guest powered off, ")?;
    for pid in processes {
        let left = fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        ensure!(left.is_empty(), "still there when stop was done: {left}");
    }
    let (code, output) = running.wait()?;
    ensure!(code == 0, "exit code {code}:\n{output}");
    vm.nothing_left()
}

fn not_started() -> Result<()> {
    let vm = Vm::with_tiny(Last::Idle)?
        .toml("[[shares]]\ntag = \"elsewhere\"\nsocket = \"never.sock\"\n");
    let mut running = vm.start()?;
    running.wait_for("waiting up to 60 s for a virtiofsd")?;
    for verb in ["pause", "resume", "reboot"] {
        let said = vm.ask([verb, "test"])?;
        let text = String::from_utf8_lossy(&said.stderr);
        ensure!(
            said.status.code() == Some(6) && text.contains("no guest runs"),
            "{verb}: {said:?}"
        );
    }
    say(
        &vm,
        ["stop", "test"],
        "test: the VM was stopped before its guest was started",
    )?;
    let (code, output) = running.wait()?;
    ensure!(code == 13, "exit code {code}:\n{output}");
    vm.nothing_left()
}

/// Nothing, a socket that nobody listens on, a directory that is not there; standard input stays as it is.
fn nothing_to_stop() -> Result<()> {
    let vm = Vm::with_tiny(Last::Idle)?;
    say(&vm, ["stop", "test"], "test: does not run")?;
    let socket = vm.directory().join("abandoned");
    drop(UnixListener::bind(&socket)?);
    for path in [socket.clone(), vm.directory().join("no/such/socket")] {
        let path = path.to_str().context("a path of this test")?;
        let expected = format!("{path}: does not run");
        say(&vm, ["stop", "--socket", path], &expected)?;
    }
    fs::remove_file(&socket)?;
    let script = format!("{} stop nobody >/dev/null && cat", vm::program().display());
    let said = Command::new("sh")
        .args(["-c", &format!("echo unread | {{ {script}; }}")])
        .output()?;
    ensure!(said.stdout == b"unread\n", "{said:?}");
    Ok(())
}
