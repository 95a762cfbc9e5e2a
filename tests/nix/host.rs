//! The drop-ins for a host's units.

use std::{fs, process::Command};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::{
    Test,
    nix::{World, text, vm},
};

pub const TESTS: &[Test] = &[
    Test {
        name: "host::vms_that_minivmm_runs_are_hardened_and_no_others",
        run: which,
    },
    Test {
        name: "host::systemd_knows_every_line_of_a_drop_in",
        run: verified,
    },
];

fn host(module: &str) -> String {
    format!(
        "let h = e.host {{ adguard-vm = {}; full = {}; q = {{ networking.hostName = \"q\"; }}; }} ({module}); in ",
        vm("seed"),
        vm("full")
    )
}

/// The settings that only the host module of minivmm makes.
fn hardened(world: &World, module: &str) -> Result<Value> {
    world.nix()?.eval(&format!(
        "{} builtins.filter (n: h.systemd.services.${{n}} ? serviceConfig.TemporaryFileSystem) \
         (builtins.attrNames h.systemd.services)",
        host(module)
    ))
}

fn which(world: &World) -> Result<()> {
    let is = hardened(world, "{ }")?;
    ensure!(is == json!(["microvm@adguard-vm", "microvm@full"]), "{is}");
    let is = hardened(
        world,
        "{ microvm.minivmm.hardenedVms = [ \"made-by-hand\" ]; }",
    )?;
    ensure!(is == json!(["microvm@made-by-hand"]), "{is}");
    let is = hardened(world, "{ microvm.host.enable = false; }")?;
    ensure!(is == json!([]), "{is}");

    let is = world.nix()?.eval(&format!(
        "{} {{ inherit (h.systemd.services.\"microvm@full\".serviceConfig) DeviceAllow ReadWritePaths; }}",
        host("{ }")
    ))?;
    let devices = is["DeviceAllow"].as_array().context("no devices")?;
    ensure!(devices.contains(&json!("/dev/vg0/full-data rw")), "{is}");
    ensure!(
        is["ReadWritePaths"] == json!(["/var/lib/microvms/full"]),
        "{is}"
    );
    Ok(())
}

fn verified(world: &World) -> Result<()> {
    let nix = world.nix()?;
    let service = nix.eval(&format!(
        "{} h.systemd.services.\"microvm@adguard-vm\".serviceConfig",
        host("{ }")
    ))?;
    // As NixOS writes it: a list is the key again and again.
    let mut unit = "[Service]\nExecStart=/bin/true\nUser=root\n".to_owned();
    for (key, value) in service.as_object().context("no settings")? {
        // NixOS' own.
        if key.starts_with("X-") {
            continue;
        }
        let values = match value {
            Value::Array(values) => values.clone(),
            value => vec![value.clone()],
        };
        for value in values {
            let value = match value {
                Value::String(text) => text,
                value => value.to_string(),
            };
            unit.push_str(&format!("{key}={value}\n"));
        }
    }
    let path = nix.path().join("microvm@adguard-vm.service");
    fs::write(&path, &unit)?;
    let output = Command::new("systemd-analyze")
        .args(["verify", "--man=no"])
        .arg(&path)
        .output()
        .context("cannot run systemd-analyze")?;
    let said = text(&output.stderr);
    let about: Vec<_> = said
        .lines()
        .filter(|line| line.contains("adguard-vm"))
        .collect();
    ensure!(about.is_empty(), "{about:#?} of:\n{unit}");
    Ok(())
}
