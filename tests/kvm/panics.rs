//! A guest's kernel that panics: known by pvpanic or by its words, whatever it does next, and its words are complete.

use std::time::Instant;

use anyhow::{Result, ensure};

use crate::{
    Test,
    ends::promptly,
    vm::{Vm, value},
};

pub const TESTS: &[Test] = &[
    Test {
        name: "panics::a_panic_with_pvpanic_ends_with_12",
        run: || crash("", "", "sysrq triggered crash"),
    },
    // Without a reset it is pvpanic alone that ends the VM.
    Test {
        name: "panics::a_guest_that_stands_still_after_its_panic_ends_with_12",
        run: || {
            // The guest's own settings came after its command line.
            let stand_still = "echo 0 >/proc/sys/kernel/panic\n";
            crash("", stand_still, "---[ end Kernel panic - not syncing")
        },
    },
    Test {
        name: "panics::a_panic_that_restarts_by_a_triple_fault_ends_with_12",
        run: || crash("reboot=t", "", "sysrq triggered crash"),
    },
    Test {
        name: "panics::an_early_panic_without_pvpanic_ends_with_12",
        run: early,
    },
];

/// The guest has its modules and crashes itself, after `prepare`.
fn crash(words: &str, prepare: &str, last: &str) -> Result<()> {
    let script = format!(
        "cd /sys/bus\n\
         echo pvpanic=$(ls acpi/drivers/pvpanic-mmio platform/drivers/pvpanic-mmio 2>/dev/null | grep -c QEMU0001)\n\
         {prepare}echo c >/proc/sysrq-trigger\n"
    );
    let vm = Vm::with_script(&script)?.cmdline(words);
    let mut running = vm.start()?;
    running.wait_for(last)?;
    let last_line = Instant::now();
    let (code, output) = running.wait()?;
    ensure!(code == 12, "exit code {code}:\n{output}");
    ensure!(value(&output, "pvpanic=")? == "1", "{output}");
    ensure!(output.contains("the guest's kernel panicked"), "{output}");
    ensure!(
        output.contains("Kernel panic - not syncing: sysrq triggered crash"),
        "{output}"
    );
    promptly(last_line)?;
    vm.nothing_left()
}

/// There is nothing that the kernel could start, and no module is loaded yet.
fn early() -> Result<()> {
    let vm = Vm::new()?.cmdline("rdinit=/nonexistent");
    let mut running = vm.start()?;
    running.wait_for("Kernel panic - not syncing")?;
    let last_line = Instant::now();
    let (code, output) = running.wait()?;
    ensure!(code == 12, "exit code {code}:\n{output}");
    ensure!(output.contains("the guest's kernel panicked"), "{output}");
    promptly(last_line)?;
    vm.nothing_left()
}
