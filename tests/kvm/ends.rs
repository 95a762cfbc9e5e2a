//! Every way in which a VM ends, and what is left of it: nothing.

use std::{
    fs,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use rustix::process::{Pid, Signal};

use crate::{
    Test,
    tiny::{self, Last},
    vm::{self, PATIENCE, Running, Vm},
};

pub const TESTS: &[Test] = &[
    Test {
        name: "ends::power_off_ends_the_processes_with_0",
        run: || guest_ends("poweroff -f\n", 0),
    },
    Test {
        name: "ends::reboot_ends_the_processes_with_10",
        run: || guest_ends("reboot -f\n", 10),
    },
    Test {
        name: "ends::every_way_to_restart_that_linux_has_ends_with_10",
        run: || {
            ["bios", "kbd", "triple"]
                .into_iter()
                .try_for_each(reboot_by)
        },
    },
    Test {
        name: "ends::a_triple_fault_ends_with_11",
        run: || tiny_guest_ends(Last::TripleFault, 11, "the guest ended in a triple fault"),
    },
    Test {
        name: "ends::a_guest_that_kvm_cannot_run_ends_with_70",
        run: || tiny_guest_ends(Last::NoMemory, 70, "KVM could not emulate an instruction"),
    },
    Test {
        name: "ends::kill_9_of_the_vmm_ends_with_70_and_leaves_nothing",
        run: vmm_killed,
    },
    Test {
        name: "ends::sigint_asks_the_guest_to_shut_down",
        run: interrupted,
    },
    Test {
        name: "ends::ctrl_c_on_a_terminal_reaches_the_supervisor_alone",
        run: interrupted_on_a_terminal,
    },
    Test {
        name: "ends::a_full_output_that_does_not_block_loses_nothing_until_the_end",
        run: full_output,
    },
    Test {
        name: "ends::a_guest_that_does_not_listen_is_ended_at_the_deadline_with_13",
        run: deadline,
    },
    Test {
        name: "ends::a_second_signal_ends_the_vm_at_once_with_13",
        run: second_signal,
    },
    Test {
        name: "ends::kill_9_of_the_supervisor_leaves_no_vmm_no_virtiofsd_and_no_socket",
        run: supervisor_killed,
    },
];

fn guest_ends(script: &str, expected: i32) -> Result<()> {
    let vm = Vm::with_script(script)?;
    let mut running = vm.start()?;
    running.wait_for("the VM runs")?;
    let processes = vm::descendants(running.pid())?;
    let (code, output) = running.wait()?;
    ensure!(code == expected, "exit code {code}:\n{output}");
    vm::wait_gone(&processes)?;
    vm.nothing_left()
}

fn reboot_by(way: &str) -> Result<()> {
    let vm = Vm::with_script("reboot -f\n")?.cmdline(&format!("reboot={way}"));
    let (code, output) = vm.run()?;
    ensure!(code == 10, "reboot={way}: exit code {code}:\n{output}");
    Ok(())
}

/// A kernel of our own, which does one thing after its last line.
fn tiny_guest_ends(last: Last, expected: i32, said: &str) -> Result<()> {
    let vm = Vm::with_tiny(last)?;
    let mut running = vm.start()?;
    running.wait_for(tiny::LINE)?;
    let last_line = Instant::now();
    let (code, output) = running.wait()?;
    ensure!(code == expected, "exit code {code}:\n{output}");
    ensure!(output.contains(said), "{output}");
    promptly(last_line)?;
    vm.nothing_left()
}

/// The guest's last line is not long ago. The lab is slow, and a loaded machine slower.
pub fn promptly(last_line: Instant) -> Result<()> {
    let took = last_line.elapsed();
    ensure!(
        took < Duration::from_secs(10),
        "the VM ended {took:?} after the guest's last line"
    );
    Ok(())
}

fn vmm_killed() -> Result<()> {
    let (vm, running) = deaf("")?;
    let processes = vm::descendants(running.pid())?;
    let vmm = process(&processes, "minivmm-vmm")?;
    rustix::process::kill_process(vmm, Signal::KILL)?;
    let (code, output) = running.wait()?;
    ensure!(code == 70, "exit code {code}:\n{output}");
    ensure!(
        output.contains("the VMM process ended unexpectedly: signal 9"),
        "{output}"
    );
    vm::wait_gone(&processes)?;
    vm.nothing_left()
}

fn interrupted() -> Result<()> {
    let vm = Vm::new()?;
    let mut running = vm.start()?;
    running.wait_for("minivmm-guest: dns ready")?;
    running.signal(Signal::INT)?;
    let (code, output) = running.wait()?;
    ensure!(code == 0, "exit code {code}:\n{output}");
    ensure!(output.contains("asking the guest to shut down"), "{output}");
    ensure!(output.contains("stopping for poweroff"), "{output}");
    vm.nothing_left()
}

/// Types ^C where minivmm is the foreground process group. Had the VMM got the signal too, it would have died of it.
fn interrupted_on_a_terminal() -> Result<()> {
    let vm = Vm::new()?;
    fs::write(vm.directory().join("test.toml"), vm.config()?)?;
    let script = format!(
        "import os, pty, sys
pid, terminal = pty.fork()
if pid == 0:
    os.execv({program:?}, ['minivmm', 'run', '-c', 'test.toml'])
seen = b''
typed = False
while True:
    try:
        bytes = os.read(terminal, 4096)
    except OSError:
        break
    if not bytes:
        break
    seen += bytes
    if not typed and b'dns ready' in seen:
        typed = True
        os.write(terminal, b'\\x03')
sys.stdout.buffer.write(seen)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
",
        program = vm::program().display().to_string()
    );
    let [said, _] = vm::python(&script, vm.directory())?;
    ensure!(said.contains("asking the guest to shut down"), "{said}");
    ensure!(said.contains("stopping for poweroff"), "{said}");
    vm.nothing_left()
}

/// Standard output is a non-blocking pipe that nobody reads until it is full.
fn full_output() -> Result<()> {
    const LINES: usize = 200;
    let vm = Vm::with_script(&format!(
        "n=0\nwhile [ $n -lt {LINES} ]; do n=$((n + 1)); printf 'line %099d\\n' $n; done\n"
    ))?;
    fs::write(vm.directory().join("test.toml"), vm.config()?)?;
    let script = format!(
        "import fcntl, os, select, subprocess, sys, time
reader, writer = os.pipe()
os.set_blocking(writer, False)
fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 8192)
vm = subprocess.Popen([{program:?}, 'run', '-c', 'test.toml'], stdout=writer)
while select.select([], [writer], [], 0)[1] and vm.poll() is None:
    time.sleep(0.01)
os.close(writer)
sys.stdout.buffer.write(open(reader, 'rb').read())
sys.exit(vm.wait())
",
        program = vm::program().display().to_string()
    );
    let [said, log] = vm::python(&script, vm.directory())?;
    let numbers: Vec<usize> = said
        .lines()
        .filter_map(|line| line.trim().strip_prefix("line ")?.parse().ok())
        .collect();
    ensure!(
        numbers == (1..=LINES).collect::<Vec<_>>(),
        "{} lines of {LINES}; the log:\n{log}",
        numbers.len()
    );
    Ok(())
}

/// The process among `processes` with `name` in its command line.
fn process(processes: &[u32], name: &str) -> Result<Pid> {
    let pid = processes.iter().find(|pid| {
        fs::read_to_string(format!("/proc/{pid}/cmdline")).is_ok_and(|line| line.contains(name))
    });
    let pid = pid.and_then(|pid| Pid::from_raw(*pid as i32));
    pid.with_context(|| format!("no {name} runs"))
}

/// A VM whose guest stands still without any care for its power button.
fn deaf(toml: &str) -> Result<(Vm, Running)> {
    let vm = Vm::with_script("echo minivmm-guest: standing still\nsleep 100000\n")?.toml(toml);
    let mut running = vm.start()?;
    running.wait_for("minivmm-guest: standing still")?;
    Ok((vm, running))
}

fn deadline() -> Result<()> {
    let (vm, mut running) = deaf("[lifecycle]\nstop_timeout = \"4s\"\n")?;
    let processes = vm::descendants(running.pid())?;
    running.signal(Signal::TERM)?;
    running.wait_for("the guest has not shut down within 4s")?;
    let (code, output) = running.wait()?;
    ensure!(code == 13, "exit code {code}:\n{output}");
    vm::wait_gone(&processes)?;
    vm.nothing_left()
}

fn second_signal() -> Result<()> {
    let (vm, mut running) = deaf("")?;
    running.signal(Signal::TERM)?;
    running.wait_for("asking the guest to shut down")?;
    let start = Instant::now();
    running.signal(Signal::TERM)?;
    let (code, output) = running.wait()?;
    ensure!(code == 13, "exit code {code}:\n{output}");
    ensure!(
        start.elapsed() < PATIENCE / 2,
        "it took {:?}",
        start.elapsed()
    );
    vm.nothing_left()
}

fn supervisor_killed() -> Result<()> {
    let (vm, running) = deaf("")?;
    let processes = vm::descendants(running.pid())?;
    let names: Vec<String> = processes
        .iter()
        .filter_map(|pid| fs::read_to_string(format!("/proc/{pid}/cmdline")).ok())
        .collect();
    ensure!(names.iter().any(|n| n.contains("minivmm-vmm")), "{names:?}");
    ensure!(names.iter().any(|n| n.contains("virtiofsd")), "{names:?}");
    running.signal(Signal::KILL)?;
    vm::wait_gone(&processes)?;
    let (code, _) = running.wait()?;
    ensure!(code == 128 + 9, "exit code {code}");
    vm.nothing_left()
}
