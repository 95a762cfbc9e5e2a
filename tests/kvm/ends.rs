//! Every way in which a VM ends, and what is left of it: nothing.

use std::{fs, time::Instant};

use anyhow::{Context, Result, ensure};
use rustix::process::{Pid, Signal};

use crate::{
    Test,
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
    Test {
        name: "ends::a_lost_virtiofsd_ends_the_vm_with_14",
        run: virtiofsd_killed,
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

fn virtiofsd_killed() -> Result<()> {
    let (vm, running) = deaf("")?;
    let processes = vm::descendants(running.pid())?;
    let virtiofsd = processes
        .iter()
        .find(|pid| {
            fs::read_to_string(format!("/proc/{pid}/cmdline"))
                .is_ok_and(|line| line.contains("virtiofsd"))
        })
        .context("no virtiofsd runs")?;
    let pid = Pid::from_raw(*virtiofsd as i32).context("no process id")?;
    rustix::process::kill_process(pid, Signal::KILL)?;
    let (code, output) = running.wait()?;
    ensure!(code == 14, "exit code {code}:\n{output}");
    ensure!(
        output.contains("virtiofsd of share `test-data` was lost"),
        "{output}"
    );
    vm::wait_gone(&processes)?;
    vm.nothing_left()
}
