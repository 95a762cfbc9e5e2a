//! The guest's watchdog: Linux' driver for ACPI's WDAT drives it, and a guest that hangs is ended.

use anyhow::{Context, Result, ensure};

use crate::{
    Test, depth,
    guest::Guest,
    vm::{Vm, value},
};

pub const TESTS: &[Test] = &[
    Test {
        name: "guest_watchdog::a_guest_that_hangs_is_ended_with_15",
        run: ended,
    },
    Test {
        name: "guest_watchdog::it_can_be_reset_and_stopped_and_a_restarted_guest_is_told_that_it_ran_out",
        run: restarted,
    },
];

/// `hang` is a guest that is alive but for its watchdog.
const START: &str = "\
    dog=/sys/class/watchdog/watchdog0\n\
    echo identity=$(cat $dog/identity)\n\
    echo bootstatus=$(cat $dog/bootstatus)\n\
    start() { watchdog -F -T 5 -t 1 /dev/watchdog & pid=$!; }\n\
    hang() {\n\
        sleep 2\n\
        echo minivmm-guest: it hangs with $(cat $dog/timeleft) of $(cat $dog/timeout) s left\n\
        kill -STOP $pid\n\
        while :; do sleep 1; done\n\
    }\n";

fn vm(kernel: &str, script: &str, lifecycle: &str) -> Result<Vm> {
    let vm = Vm::with_script(&format!("{START}{script}"))?
        .guest(Guest::of_kernel(kernel)?)
        .toml(&format!("[lifecycle]\nwatchdog = \"20s\"\n{lifecycle}"));
    Ok(vm)
}

fn ended() -> Result<()> {
    for kernel in depth(&["6.12-cloud"][..], &["6.12-cloud", "6.1-cloud", "6.1"]) {
        let (code, output) = vm(kernel, "start; hang\n", "")?.run()?;
        ensure!(code == 15, "{kernel}: exit code {code}:\n{output}");
        ensure!(value(&output, "identity=")? == "wdat_wdt", "{output}");
        ensure!(value(&output, "bootstatus=")? == "0", "{output}");
        let hangs = value(&output, "minivmm-guest: it hangs with ")?;
        let (left, timeout) = hangs.split_once(" of ").context("no timeout")?;
        ensure!(timeout == "5 s left", "{output}");
        ensure!((1..=5).contains(&left.parse::<u32>()?), "{output}");
        ensure!(
            output.contains("the guest hung: its watchdog has run out"),
            "{kernel}:\n{output}"
        );
    }
    Ok(())
}

fn restarted() -> Result<()> {
    // The times are about the watchdog's own 5 seconds.
    let script = "\
        if [ $(cat $dog/bootstatus) = 32 ]; then echo minivmm-guest: told; exit; fi\n\
        start\n\
        sleep 8\n\
        echo minivmm-guest: reset in time\n\
        kill $pid\n\
        sleep 8\n\
        echo minivmm-guest: stopped\n\
        start; hang\n";
    let vm = vm("6.12-cloud", script, "on_watchdog = \"restart\"\n")?;
    let mut running = vm.start()?;
    for text in [
        "minivmm-guest: reset in time",
        "minivmm-guest: stopped",
        "minivmm-guest: it hangs",
        "the guest hung: its watchdog has run out",
        "starting the VM again: 1 of at most 5",
        "minivmm-guest: told",
    ] {
        running.wait_for(text)?;
    }
    let (code, output) = running.wait()?;
    ensure!(code == 0, "exit code {code}:\n{output}");
    Ok(())
}
