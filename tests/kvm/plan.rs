//! `minivmm config check -v` and `--json` print the machine that the guest then finds.

use std::{collections::BTreeSet, fs, process::Command};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::{
    Test,
    network::Network,
    vm::{self, Vm, value},
};

pub const TESTS: &[Test] = &[Test {
    name: "plan::config_check_prints_the_machine_that_the_guest_finds",
    run: plan,
}];

fn plan() -> Result<()> {
    let network = Network::new("plan")?;
    let vm = Vm::with_script(
        "for d in /sys/bus/pci/devices/*; do echo pci=${d##*/}; done\n\
         echo cmdline=$(cat /proc/cmdline)\n\
         echo kernel=$(uname -r)\n\
         dmesg | sed -n 's/.*BIOS-e820: \\[mem \\(.*\\)\\] /e820=\\1 /p'\n",
    )?
    // The share's, so that the console gives way.
    .toml("slot = 2\n")
    .toml(&format!(
        "{}slot = 29\n[balloon]\nslot = 28\n[vsock]\n",
        Network::toml()
    ))
    .by(["ip", "netns", "exec", &network.host]);
    fs::write(vm.directory().join("test.toml"), vm.config()?)?;
    let check = |option: &str| -> Result<String> {
        let output = Command::new(vm::program())
            .args(["config", "check", "--config", "test.toml", option])
            .current_dir(vm.directory())
            .output()?;
        ensure!(output.status.success() && output.stderr.is_empty());
        Ok(String::from_utf8(output.stdout)?)
    };
    let table = check("-v")?;
    ensure!(!table.contains('\x1b'), "colours without a terminal");
    let plan: Value = serde_json::from_str(&check("--json")?)?;
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();

    let (code, output) = vm.run()?;
    ensure!(code == 0, "exit code {code}:\n{output}");
    let devices = plan["devices"].as_array().context("no devices")?;
    let planned: BTreeSet<String> = devices
        .iter()
        .map(|device| format!("0000:{}", text(&device["address"])))
        .collect();
    let found = output.lines().filter_map(|line| line.strip_prefix("pci="));
    let found: BTreeSet<String> = found.map(|line| line.trim().to_owned()).collect();
    ensure!(found == planned, "{planned:?}, and the guest has {found:?}");
    for (kind, address) in [
        ("fs", "00:02.0"),
        ("vsock", "00:04.0"),
        ("console", "00:05.0"),
        ("balloon", "00:1c.0"),
        ("net", "00:1d.0"),
    ] {
        let there = |device: &Value| device["kind"] == kind && device["address"] == address;
        ensure!(devices.iter().any(there), "{kind}: {devices:?}");
    }

    let cmdline = text(&plan["cmdline"]);
    ensure!(value(&output, "cmdline=")? == cmdline, "{output}");
    ensure!(table.contains(&cmdline), "{table}");
    for device in devices {
        let line = format!("  {}  {}", text(&device["address"]), text(&device["kind"]));
        ensure!(table.contains(&line), "no `{line}` in:\n{table}");
    }

    let version = text(&plan["kernel"]["version"]);
    let release = value(&output, "kernel=")?;
    ensure!(version.split(' ').next() == Some(release), "{version}");

    for range in plan["memory"].as_array().context("no memory")? {
        let address = |key: &str| range[key].as_u64().unwrap_or_default();
        let line = format!(
            "e820={:#018x}-{:#018x} {}",
            address("start"),
            address("end"),
            text(&range["kind"])
        );
        ensure!(output.contains(&line), "no `{line}` in:\n{output}");
    }
    Ok(())
}
