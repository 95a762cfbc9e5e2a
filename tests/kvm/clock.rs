//! The guest's clocks show the host's time.

use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Result, ensure};

use crate::{
    Test,
    vm::{self, Vm, value},
};

pub const TESTS: &[Test] = &[Test {
    name: "clock::the_rtc_and_the_wall_clock_show_the_hosts_time",
    run: clocks,
}];

/// Seconds between the guest's reading and the host's, of which some are the slow lab's.
const TOLERANCE: u64 = 10;

fn clocks() -> Result<()> {
    let vm = Vm::with_script(
        "rtc=/sys/class/rtc/rtc0\n\
         hwclock -r -u >/dev/null && echo hwclock=yes\n\
         echo name=$(cat $rtc/name)\n\
         echo rtc-date=$(cat $rtc/date)T$(cat $rtc/time)Z\n\
         echo rtc=$(cat $rtc/since_epoch)\n\
         echo wall=$(date +%s)\n\
         hwclock -w -u\n\
         date -u -s 2001-02-03 >/dev/null && hwclock -w -u\n\
         echo rtc-again=$(cat $rtc/since_epoch)\n",
    )?;
    let mut running = vm.start()?;
    let wall = running.wait_for("wall=")?;
    let host = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
    let wall: u64 = wall.trim_start_matches("wall=").parse()?;
    let (code, output) = running.wait()?;
    ensure!(code == 0, "exit code {code}:\n{output}");

    let rtc: u64 = value(&output, "rtc=")?.parse()?;
    let again: u64 = value(&output, "rtc-again=")?.parse()?;
    for (name, guest) in [("wall clock", wall), ("real-time clock", rtc)] {
        ensure!(
            guest.abs_diff(host) <= TOLERANCE,
            "the {name} says {guest}, the host {host}:\n{output}"
        );
    }
    ensure!(
        again.abs_diff(rtc) <= 60,
        "a guest that sets its clock does not change ours:\n{output}"
    );
    ensure!(value(&output, "name=")?.starts_with("rtc_cmos"), "{output}");
    ensure!(value(&output, "hwclock=")? == "yes", "{output}");
    // The same moment in the registers' own form.
    let shown = value(&output, "rtc-date=")?;
    let shown: u64 = vm::run(["date", "-u", "-d", shown, "+%s"])?
        .trim()
        .parse()?;
    ensure!(shown.abs_diff(rtc) <= TOLERANCE, "{output}");
    Ok(())
}
