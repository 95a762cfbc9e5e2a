//! A VM that starts again in place, and one that is given up.

use std::{
    fs,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use rustix::process::Signal;

use crate::{
    Test,
    network::Network,
    tiny::Last,
    vm::{self, Vm, value},
};

pub const TESTS: &[Test] = &[
    Test {
        name: "restart::reboot_panic_and_power_off_start_the_vm_again_on_the_same_tap_and_share",
        run: in_place,
    },
    Test {
        name: "restart::a_boot_loop_slows_down_and_is_ended",
        run: boot_loop,
    },
    Test {
        name: "restart::a_stop_while_the_vm_waits_to_start_again_ends_it_at_once",
        run: stopped_between_runs,
    },
    Test {
        name: "restart::a_start_that_fails_is_tried_again",
        run: failing_start,
    },
    Test {
        name: "restart::a_simple_exit_status_is_0_for_a_reset",
        run: simple,
    },
];

/// Each boot ends in another way; the fourth waits for the power button.
const SCRIPT: &str = r#"
boot=$(($(cat /data/boots 2>/dev/null || echo 0) + 1))
echo $boot >/data/boots
sync
echo minivmm-guest: boot $boot mac $(cat /sys/bus/pci/devices/0000:00:06.0/virtio*/net/*/address)
case $boot in
1) reboot -f ;;
2) echo c >/proc/sysrq-trigger ;;
3) poweroff -f ;;
esac
echo minivmm-guest: waiting
dd if=/dev/input/event0 of=/dev/null bs=24 count=1 2>/dev/null
"#;

fn in_place() -> Result<()> {
    let network = Network::new("restart")?;
    let vm = Vm::with_script(SCRIPT)?
        .by(["ip", "netns", "exec", &network.host])
        .toml(&Network::toml().replace("vm0", "vm1"))
        .toml("create = true\nbridge = \"br0\"\n")
        .toml("[lifecycle]\non_reboot = \"restart\"\non_panic = \"restart\"\non_poweroff = \"restart\"\n");
    let mut running = vm.start()?;
    let mut links = Vec::new();
    for boot in 1..=4 {
        running.wait_for_nth("the VM runs", boot)?;
        links.push(link(&network)?);
        let said = running.wait_for(&format!("minivmm-guest: boot {boot} "))?;
        ensure!(said.ends_with("mac 02:00:00:00:00:01"), "{said}");
    }
    running.wait_for("minivmm-guest: waiting")?;
    for (end, next) in [
        ("the guest asked for a reset", "starting the VM again: 1 of"),
        ("the guest's kernel panicked", "starting the VM again: 2 of"),
        ("the guest powered off", "starting the VM again: 3 of"),
    ] {
        ensure!(running.count(end) == 1 && running.count(next) == 1, "{end}");
    }
    links.dedup();
    ensure!(links.len() == 1, "the tap was another one: {links:?}");
    running.signal(Signal::TERM)?;
    let (code, output) = running.wait()?;
    // The power-off that somebody asked for is the end.
    ensure!(code == 0, "exit code {code}:\n{output}");
    ensure!(!output.contains("again: 4 of"), "{output}");
    ensure!(fs::read_to_string(vm.data().join("boots"))?.trim() == "4");
    network.has_no_link("vm1")?;
    vm.nothing_left()
}

/// Number and address of the tap, and the bridge that it is in.
fn link(network: &Network) -> Result<String> {
    let link = vm::run(["ip", "-o", "-n", &network.host, "link", "show", "vm1"])?;
    let number = link.split(':').next().unwrap_or_default();
    let words: Vec<&str> = link.split_whitespace().collect();
    let behind = |word: &str| {
        let at = words.iter().position(|w| *w == word);
        at.and_then(|at| words.get(at + 1)).copied()
    };
    let address = behind("link/ether").context("no address")?;
    let bridge = behind("master").context("no bridge")?;
    Ok(format!("{number} {address} {bridge}"))
}

fn boot_loop() -> Result<()> {
    let vm = Vm::with_tiny(Last::Reset)?.toml("[lifecycle]\non_reboot = \"restart\"\n");
    let start = Instant::now();
    let (code, output) = vm.run()?;
    ensure!(code == 10, "exit code {code}:\n{output}");
    for (n, wait) in [
        (1, ""),
        (2, ", in 1 s"),
        (3, ", in 2 s"),
        (4, ", in 4 s"),
        (5, ", in 8 s"),
    ] {
        let line =
            format!("starting the VM again: {n} of at most 5 restarts in 10 minutes{wait}\n");
        ensure!(output.contains(&line), "no `{line}`:\n{output}");
    }
    ensure!(output.matches("the VM runs").count() == 6, "{output}");
    ensure!(
        output.contains("the VM is not started again: it was 5 times in 10 minutes"),
        "{output}"
    );
    ensure!(
        start.elapsed() >= Duration::from_secs(15),
        "it did not wait"
    );
    vm.nothing_left()
}

fn stopped_between_runs() -> Result<()> {
    for (last, key, expected) in [
        // It was down in order, and that is what was wanted.
        (Last::Reset, "on_reboot", 0),
        (Last::TripleFault, "on_panic", 11),
    ] {
        let vm = Vm::with_tiny(last)?.toml(&format!("[lifecycle]\n{key} = \"restart\"\n"));
        let mut running = vm.start()?;
        running.wait_for(", in 4 s")?;
        let start = Instant::now();
        running.signal(Signal::TERM)?;
        let (code, output) = running.wait()?;
        ensure!(code == expected, "exit code {code}:\n{output}");
        ensure!(
            output.contains("the VM was stopped while no guest ran"),
            "{output}"
        );
        ensure!(
            start.elapsed() < Duration::from_secs(3),
            "{:?}",
            start.elapsed()
        );
        vm.nothing_left()?;
    }
    Ok(())
}

/// The share's directory is away for a while, so that there is no virtiofsd for the second run.
fn failing_start() -> Result<()> {
    let vm = Vm::with_script(
        "[ -e /data/again ] && exit\ntouch /data/again\nsync\necho minivmm-guest: first\nsleep 3\nreboot -f\n",
    )?
    .toml("[[shares]]\ntag = \"comes-back\"\nsource = \"there\"\n")
    .toml("[lifecycle]\non_reboot = \"restart\"\n");
    let (there, away) = (vm.directory().join("there"), vm.directory().join("away"));
    fs::create_dir(&there)?;
    let mut running = vm.start()?;
    running.wait_for("minivmm-guest: first")?;
    fs::rename(&there, &away)?;
    let said = running.wait_for("the VM could not be started again")?;
    ensure!(said.contains("comes-back"), "{said}");
    running.wait_for("starting the VM again: 3 of")?;
    fs::rename(&away, &there)?;
    let (code, output) = running.wait()?;
    ensure!(code == 0, "exit code {code}:\n{output}");
    ensure!(
        value(&output, "minivmm-guest: test exit")? == "0",
        "{output}"
    );
    vm.nothing_left()
}

fn simple() -> Result<()> {
    let vm = Vm::with_tiny(Last::Reset)?.toml("[lifecycle]\nexit_status = \"simple\"\n");
    let (code, output) = vm.run()?;
    ensure!(code == 0, "exit code {code}:\n{output}");
    Ok(())
}
