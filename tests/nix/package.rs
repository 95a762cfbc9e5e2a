//! The package, as far as it can be told without nixpkgs' Rust: its source is enough for cargo, and no more than that.

use std::{fs, process::Command};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::{
    Test,
    nix::{World, root, text},
};

pub const TESTS: &[Test] = &[Test {
    name: "package::the_source_is_a_whole_workspace_and_the_version_is_cargos",
    run: source,
}];

fn source(world: &World) -> Result<()> {
    let nix = world.nix()?;
    let package = format!(
        "import {}/nix/package.nix {{ inherit (e) lib; installShellFiles = null; \
         rustPlatform.buildRustPackage = builtins.getAttr \"FIELD\"; }}",
        root().display()
    );
    let field = |name: &str| nix.eval(&package.replace("FIELD", name));
    ensure!(field("version")? == env!("CARGO_PKG_VERSION"));

    let source = field("src")?;
    let source = source.as_str().context("no source")?;
    let metadata = Command::new(env!("CARGO"))
        .args(["metadata", "--no-deps", "--offline", "--locked"])
        .args(["--format-version", "1", "--manifest-path"])
        .arg(format!("{source}/Cargo.toml"))
        .output()
        .context("cannot run cargo")?;
    ensure!(metadata.status.success(), "{}", text(&metadata.stderr));
    let metadata: Value = serde_json::from_slice(&metadata.stdout)?;
    let targets = metadata["packages"]
        .as_array()
        .context("no packages")?
        .iter()
        .filter_map(|package| package["targets"].as_array())
        .flatten();
    let sources: Vec<_> = targets
        .filter_map(|target| target["src_path"].as_str())
        .collect();
    ensure!(
        sources.iter().any(|path| path.ends_with("/src/main.rs")),
        "{sources:?}"
    );
    for path in sources {
        ensure!(fs::exists(path)?, "{path} is missing");
    }
    // The program includes files that cargo does not know of.
    ensure!(fs::exists(format!("{source}/units/minivmm@.service"))?);
    for name in ["target", ".git", "docs", "nix", "guest", "fuzz"] {
        ensure!(!fs::exists(format!("{source}/{name}"))?, "{name} is there");
    }
    Ok(())
}
