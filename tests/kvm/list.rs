//! `minivmm list`: all VMs, right and in time, whatever state they are in.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rustix::process::{Signal, kill_process};
use serde_json::Value;

use crate::{
    Test, depth,
    fleet::{self, Fleet, MEMORY},
};

pub const TESTS: &[Test] = &[Test {
    name: "list::all_vms_are_there_and_right_also_after_a_kill_in_a_stop_and_beside_one_that_is_silent",
    run: all,
}];

/// How long all VMs together may take for their answers, as the program has it.
const TIME_OUT: Duration = Duration::from_secs(2);
/// What everything else may take, the process' start among it; the lab is slow, and its CPUs are many VMs'.
const ELSE: Duration = Duration::from_secs(4);

fn all() -> Result<()> {
    let count = depth(4, 20);
    let fleet = Fleet::new()?;
    let names: Vec<String> = (0..count).map(|n| format!("vm{n:02}")).collect();
    for name in &names {
        fleet.config(name, "[lifecycle]\nstop_timeout = \"1000s\"\n")?;
        fleet.start(name)?;
    }

    let (vms, _) = list(&fleet)?;
    ensure!(vms.len() == count, "{vms:#?}");
    for (vm, name) in vms.iter().zip(&names) {
        let status = fleet.status(name)?;
        ensure!(vm["name"] == **name && vm["state"] == "running", "{vm}");
        ensure!(
            vm["pid"] == status["pid"] && vm["vmm_pid"] == status["vmm_pid"],
            "{vm}"
        );
        ensure!(vm["pid"] == fleet.pid(name)?.as_raw_nonzero().get(), "{vm}");
        ensure!(vm["vcpu"] == 1 && vm["restarts"] == 0, "{vm}");
        ensure!(vm["memory_bytes"] == MEMORY << 20, "{vm}");
        let used = vm["memory_used_bytes"].as_u64().unwrap_or(0);
        ensure!((1 << 18..MEMORY << 20).contains(&used), "{vm}");
        ensure!(
            vm["uptime_sec"].is_u64() && vm["cpu_percent"].is_f64(),
            "{vm}"
        );
    }
    // A table in a pipe has a line for each and no colours.
    let [table, _] = fleet.says(0, &["list"])?;
    ensure!(
        table.lines().count() == count + 1 && !table.contains('\x1b'),
        "{table}"
    );
    ensure!(
        table
            .lines()
            .skip(1)
            .zip(&names)
            .all(|(line, name)| line.starts_with(name.as_str())),
        "{table}"
    );
    let [tables, _] = fleet.says(0, &["top", "-n", "2", "--sort", "name"])?;
    ensure!(tables.matches("running").count() == 2 * count, "{tables}");

    // One that hangs in its stop: its guest does not know the button.
    fleet.says(0, &["stop", "vm00", "--no-wait"])?;
    // One that was killed a moment ago.
    let killed = fleet.pid("vm01")?;
    kill_process(killed, Signal::KILL)?;
    let (vms, _) = list(&fleet)?;
    ensure!(vms.len() == count - 1, "{vms:#?}");
    ensure!(state(&vms, "vm00")? == "stopping", "{vms:#?}");
    ensure!(state(&vms, "vm01").is_err(), "{vms:#?}");
    fleet.says(3, &["status", "vm01"])?;
    fleet::wait_gone(killed)?;
    ensure!(
        fleet.runtime_dir("vm01").exists(),
        "nothing was left to be seen as what it is"
    );

    // One whose supervisor stands still.
    let silent = fleet.pid("vm02")?;
    kill_process(silent, Signal::STOP)?;
    let (vms, took) = list(&fleet)?;
    ensure!(took < TIME_OUT + ELSE, "{took:?}");
    println!("list: with one of {count} silent {took:?}");
    ensure!(vms.len() == count - 1, "{vms:#?}");
    ensure!(state(&vms, "vm02")? == "no-answer", "{vms:#?}");
    let pid = silent.as_raw_nonzero().get();
    ensure!(
        vms.iter()
            .any(|vm| vm["name"] == "vm02" && vm["pid"] == pid),
        "{vms:#?}"
    );
    let others = vms.iter().filter(|vm| vm["state"] == "running").count();
    ensure!(others == count - 3, "{vms:#?}");
    let [_, said] = fleet.says(5, &["status", "vm02"])?;
    ensure!(said.contains("does not answer within"), "{said}");
    let [_, said] = fleet.says(69, &["start", "--config", "vm02.toml"])?;
    ensure!(
        said.contains(&format!("`vm02` runs already: process {pid} of user 0")),
        "{said}"
    );
    kill_process(silent, Signal::CONT)?;
    ensure!(fleet.status("vm02")?["state"] == "running");

    // What the killed one left keeps nobody from starting it.
    fleet.start("vm01")?;
    ensure!(list(&fleet)?.0.len() == count);
    for name in &names {
        fleet.says(0, &["stop", name, "--force"])?;
    }
    let (vms, _) = list(&fleet)?;
    ensure!(vms.is_empty(), "{vms:#?}");
    for name in &names {
        ensure!(
            !fleet.runtime_dir(name).exists(),
            "{name} has left its directory"
        );
    }
    Ok(())
}

fn list(fleet: &Fleet) -> Result<(Vec<Value>, Duration)> {
    let start = Instant::now();
    let vms = fleet.json(&["list", "--json"])?;
    let took = start.elapsed();
    Ok((vms.as_array().context("an array")?.clone(), took))
}

fn state<'a>(vms: &'a [Value], name: &str) -> Result<&'a str> {
    let vm = vms.iter().find(|vm| vm["name"] == name);
    let state = vm.and_then(|vm| vm["state"].as_str());
    state.with_context(|| format!("no {name}"))
}
