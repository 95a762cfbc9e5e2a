//! The flake, with flakes in the place of nixpkgs and microvm.nix.

use std::{fs, process::Command};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::{
    Test,
    nix::{World, root, text},
};

pub const TESTS: &[Test] = &[Test {
    name: "flake::it_has_the_modules_the_package_the_overlay_and_both_vms",
    run: outputs,
}];

fn outputs(world: &World) -> Result<()> {
    let nix = world.nix()?;
    // A flake is copied into the store as a whole: without what has been built.
    let flake = nix.path().join("flake");
    fs::create_dir(&flake)?;
    let copied = Command::new("cp")
        .arg("-r")
        .args(["flake.nix", "nix", "Cargo.toml", "Cargo.lock", "src"].map(|name| root().join(name)))
        .arg(&flake)
        .status()?;
    ensure!(copied.success(), "cp: {copied}");
    let stubs = format!("path:{}/nix/tests", flake.display());
    let outputs = [
        (
            "nixosModules",
            "builtins.attrNames",
            json!(["default", "host", "minivmm"]),
        ),
        (
            "packages.x86_64-linux",
            "builtins.attrNames",
            json!(["default", "minivmm"]),
        ),
        (
            "overlays.default",
            "f: f { callPackage = _: _: 1; } { }",
            json!({ "minivmm": 1 }),
        ),
        (
            "nixosConfigurations",
            "builtins.mapAttrs (_: vm: vm.config.microvm.declaredRunner.settings.name)",
            json!({ "adguard-vm": "adguard-vm", "actual-vm": "actual-vm" }),
        ),
    ];
    for (name, function, expected) in outputs {
        let output = nix
            .command("nix")
            .args(["eval", "--json", "--no-write-lock-file"])
            .args(["--override-input", "nixpkgs", &stubs])
            .args(["--override-input", "microvm", &stubs])
            .args(["--apply", function])
            .arg(format!("path:{}#{name}", flake.display()))
            .output()
            .context("cannot run nix")?;
        ensure!(output.status.success(), "{name}: {}", text(&output.stderr));
        let is: Value = serde_json::from_slice(&output.stdout)?;
        ensure!(is == expected, "{name}: {is:#}");
    }
    Ok(())
}
