//! The control socket and the runtime directory of a VM that runs.

use anyhow::{Result, ensure};
use rustix::process::Signal;

use crate::{Test, vm::Vm};

pub const TESTS: &[Test] = &[Test {
    name: "control::a_vm_that_runs_is_found_and_asked_and_runs_once",
    run: found,
}];

fn found() -> Result<()> {
    let vm = Vm::with_script("echo up; sleep 1000\n")?;
    let mut running = vm.start()?;
    running.wait_for("up")?;
    let said = vm.ask(["status", "test", "--json"])?;
    ensure!(said.status.success(), "{said:?}");
    let status: serde_json::Value = serde_json::from_slice(&said.stdout)?;
    ensure!(status["state"] == "running", "{status}");
    ensure!(status["pid"] == running.pid(), "{status}");
    ensure!(
        status["virtiofsd_pids"]
            .as_array()
            .is_some_and(|pids| pids.len() == 1),
        "{status}"
    );

    let second = vm.start()?;
    let (code, output) = second.wait()?;
    ensure!(code == 69, "{code}: {output}");
    let who = format!("`test` runs already: process {} of user 0", running.pid());
    ensure!(output.contains(&who), "{output}");

    let said = vm.ask(["status", "other"])?;
    ensure!(said.status.code() == Some(3), "{said:?}");
    let text = String::from_utf8_lossy(&said.stderr);
    ensure!(
        text.contains("no VM called `other` runs here; these do: test"),
        "{text}"
    );

    // A supervisor that is killed leaves its directory, and the next one takes it.
    running.signal(Signal::KILL)?;
    running.wait()?;
    let said = vm.ask(["status", "test"])?;
    ensure!(said.status.code() == Some(3), "{said:?}");
    let mut running = vm.start()?;
    running.wait_for("up")?;
    running.signal(Signal::TERM)?;
    running.wait_for("asking the guest to shut down")?;
    running.signal(Signal::TERM)?;
    let (code, output) = running.wait()?;
    ensure!(code == 13, "{code}: {output}");
    ensure!(
        !vm.runtime_root().join("test").exists(),
        "the runtime directory is left"
    );
    Ok(())
}
