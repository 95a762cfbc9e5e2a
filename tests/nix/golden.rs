//! The TOML that VMs become, against files that were written from the contract and not by the module.

use std::fs;

use anyhow::{Context, Result, ensure};
use toml::Table;

use crate::{
    Test,
    nix::{Nix, World, root, vm},
};

pub const TESTS: &[Test] = &[
    Test {
        name: "golden::the_vm_of_the_readme_becomes_what_was_written_by_hand",
        run: |world| becomes(world, "seed"),
    },
    Test {
        name: "golden::a_vm_that_asks_for_nothing_becomes_what_was_written_by_hand",
        run: |world| becomes(world, "bare"),
    },
    Test {
        name: "golden::a_vm_with_every_option_becomes_what_was_written_by_hand",
        run: |world| becomes(world, "full"),
    },
    Test {
        name: "golden::what_minivmm_does_not_know_ends_the_build_with_its_line",
        run: unknown,
    },
];

/// The configuration that a runner names.
pub fn config(nix: &Nix, runner: &std::path::Path) -> Result<(String, Table)> {
    let script = fs::read_to_string(runner.join("bin/microvm-run"))?;
    let (_, words) = script
        .split_once(" run --config ")
        .context("microvm-run runs nothing")?;
    let path = words.split_whitespace().next().context("no path")?;
    let text = fs::read_to_string(path).with_context(|| path.to_owned())?;
    let table = nix.plain(&text).parse()?;
    Ok((path.to_owned(), table))
}

fn becomes(world: &World, name: &str) -> Result<()> {
    let nix = world.nix()?;
    let runner = nix.build(&format!("e.runner {}", vm(name)))?;
    let (_, made) = config(&nix, &runner)?;
    let golden = root().join(format!("nix/tests/golden/{name}.toml"));
    let written: Table = fs::read_to_string(&golden)?.parse()?;
    ensure!(
        made == written,
        "made:\n{}\nand written by hand:\n{}",
        toml::to_string(&made)?,
        toml::to_string(&written)?
    );
    Ok(())
}

fn unknown(world: &World) -> Result<()> {
    let nix = world.nix()?;
    let module = format!(
        "{{ imports = [ {} ]; microvm.minivmm.settings.lifecycle.stop_timout = \"1m\"; }}",
        vm("seed")
    );
    let output = nix.try_build(&format!("e.runner {module}"))?;
    let said = crate::nix::text(&output.stderr);
    ensure!(
        !output.status.success() && said.contains("stop_timout") && said.contains("stop_timeout"),
        "{said}"
    );
    Ok(())
}
