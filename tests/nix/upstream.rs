//! The runner as a part of microvm.nix, which then needs no module of ours.

use std::{fs, process::Command};

use anyhow::{Context, Result, ensure};

use crate::{
    Test, golden,
    nix::{World, root, text, vm},
};

pub const TESTS: &[Test] = &[Test {
    name: "upstream::in_microvm_nix_itself_the_runner_makes_the_same_configuration",
    run: patched,
}];

fn patched(world: &World) -> Result<()> {
    let nix = world.nix()?;
    let runner = nix.build(&format!("e.runner {}", vm("full")))?;
    let (_, ours) = golden::config(&nix, &runner)?;

    let checkout = world.microvm_nix().context("no checkout")?;
    let patched = nix.path().join("microvm.nix");
    let copied = Command::new("cp")
        .arg("-r")
        .args([checkout, &patched])
        .status()?;
    ensure!(copied.success(), "cp: {copied}");
    let runners = patched.join("lib/runners");
    fs::copy(root().join("nix/runner.nix"), runners.join("minivmm.nix"))?;
    for name in ["settings.nix", "refusals.nix"] {
        fs::copy(root().join("nix").join(name), runners.join(name))?;
    }
    edit(
        &patched.join("lib/default.nix"),
        "\"qemu\"\n",
        "\"qemu\"\n    \"minivmm\"\n",
    )?;
    // The options would stand in options.nix; what else the module says is other modules' there.
    fs::copy(
        root().join("nix/module.nix"),
        patched.join("nixos-modules/microvm/minivmm.nix"),
    )?;
    let module = patched.join("nixos-modules/microvm/minivmm.nix");
    let text_of = fs::read_to_string(&module)?;
    let (head, tail) = text_of
        .split_once("    # Merged with microvm.nix' own declaration.")
        .context("the module has no declaration")?;
    let (_, tail) = tail.split_once(";\n").context("no end")?;
    let (options, _) = tail.split_once("  config = ").context("no config")?;
    fs::write(&module, format!("{head}{options}}}\n"))?;
    edit(
        &patched.join("nixos-modules/microvm/default.nix"),
        "./options.nix\n",
        "./options.nix\n    ./minivmm.nix\n",
    )?;

    edit(
        &patched.join("nixos-modules/microvm/optimization.nix"),
        "\"qemu\"\n",
        "\"qemu\"\n          \"minivmm\"\n",
    )?;

    let world = world.with_microvm_nix(&patched);
    let theirs = world.nix()?;
    let runner = theirs.build(&format!("e.upstreamRunner {}", vm("full")))?;
    let (_, configuration) = golden::config(&theirs, &runner)?;
    ensure!(
        configuration == ours,
        "in microvm.nix:\n{}\nand here:\n{}",
        toml::to_string(&configuration)?,
        toml::to_string(&ours)?
    );
    let shutdown = fs::read(runner.join("bin/microvm-shutdown"))?;
    ensure!(
        text(&shutdown).contains("stop --socket control.sock"),
        "{}",
        text(&shutdown)
    );
    Ok(())
}

/// Replaces the one place in a file that has `from`.
fn edit(path: &std::path::Path, from: &str, to: &str) -> Result<()> {
    let text = fs::read_to_string(path)?;
    ensure!(text.contains(from), "{} has no {from:?}", path.display());
    fs::write(path, text.replacen(from, to, 1))?;
    Ok(())
}
