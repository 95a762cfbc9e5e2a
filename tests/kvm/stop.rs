//! Stops of a guest that listens for its power button, at every moment.

use std::{thread, time::Duration};

use anyhow::{Context, Result, ensure};
use rustix::process::Signal;

use crate::{Test, vm::Vm};

pub const TESTS: &[Test] = &[Test {
    name: "stop::ten_of_ten_sigterms_to_a_small_init_end_in_an_orderly_power_off",
    run: || stops(0, 10),
}];

/// The others of two hundred, in parts that a test's time is enough for.
pub const LONG: &[Test] = &[
    Test {
        name: "stop::sigterm_10_to_60_of_200",
        run: || stops(10, 60),
    },
    Test {
        name: "stop::sigterm_60_to_110_of_200",
        run: || stops(60, 110),
    },
    Test {
        name: "stop::sigterm_110_to_160_of_200",
        run: || stops(110, 160),
    },
    Test {
        name: "stop::sigterm_160_to_200_of_200",
        run: || stops(160, 200),
    },
];

/// About as long as the guest boots in the lab.
const BOOT: Duration = Duration::from_millis(2500);
/// For so long it is left to live when it listens.
const LIFE: Duration = Duration::from_millis(300);

/// The stops with these numbers: one while the guest boots, one while it listens, and so on.
fn stops(from: u32, to: u32) -> Result<()> {
    for n in from..to {
        stop(n).with_context(|| format!("stop {n}"))?;
    }
    Ok(())
}

fn stop(n: u32) -> Result<()> {
    // Longer than the test waits: it tells what a guest does that does not listen.
    let vm = Vm::with_button()?.toml("[lifecycle]\nstop_timeout = \"10m\"\n");
    let mut running = vm.start()?;
    running.wait_for("the VM runs")?;
    // Spread over the time, other ones next to each other, the same in every run.
    let part = f64::from(n.wrapping_mul(2_654_435_769) >> 8) / f64::from(1 << 24);
    match n % 2 {
        0 => thread::sleep(BOOT.mul_f64(part)),
        _ => {
            running.wait_for("minivmm-guest: waiting for the power button")?;
            thread::sleep(LIFE.mul_f64(part));
        }
    }
    running.signal(Signal::TERM)?;
    let (code, output) = running.wait()?;
    ensure!(code == 0, "exit code {code}:\n{output}");
    let mut rest = output.as_str();
    for line in [
        "asking the guest to shut down",
        "minivmm-guest: the power button is pressed",
        "minivmm-guest: powering off",
        "reboot: Power down",
        "the guest powered off, ",
    ] {
        let (_, behind) = rest
            .split_once(line)
            .with_context(|| format!("no `{line}` where it belongs:\n{output}"))?;
        // The log and the console go different ways: only the guest's lines are in order among each other.
        if line.starts_with("minivmm-guest") {
            rest = behind;
        }
    }
    vm.nothing_left()
}
