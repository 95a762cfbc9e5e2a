//! What can be said of the code without running it.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Result;

use crate::command::{cargo, program, run};
use crate::{docs, tools, workspace};

/// Scripts, and the shell that reads them.
const SCRIPTS: &[(&str, &str)] = &[
    ("sh", "guest/lib.sh"),
    ("sh", "guest/test-init"),
    ("sh", "guest/memory-init"),
    ("sh", "guest/dns/init"),
    ("sh", "guest/dns/power-button"),
    ("sh", "guest/initramfs/init"),
    ("sh", "guest/debian/finish"),
    ("sh", "guest/base/clean"),
    ("sh", "guest/actual/build"),
    ("bash", "guest/actual/files/usr/lib/actual/answers"),
    ("sh", "guest/base/finish"),
    ("sh", "guest/base/files/usr/lib/minivmm/init"),
    ("sh", "guest/base/files/usr/lib/minivmm/own-data"),
    ("sh", "guest/base/files/usr/lib/minivmm/power-button"),
    ("sh", "guest/base/files/usr/lib/minivmm/resolv-conf"),
    ("sh", "guest/base/files/usr/lib/minivmm/ssh-keys"),
    ("sh", "xtask/lab/init"),
    ("sh", "xtask/lab/session"),
    ("bash", ".ci/run"),
];

/// Checks the format, clippy's warnings (of the fuzz targets as well, which are a workspace of their own), that every
/// script can be read, the format of Nix files and that they name nothing in vain, that docs/config.md is what the schema
/// says, and what deny.toml asks of the crates in use.
pub fn run_all() -> Result<()> {
    run(cargo().args(["fmt", "--all", "--check"]))?;
    run(cargo()
        .args(["clippy", "--workspace", "--all-targets", "--locked"])
        .args(["--", "-D", "warnings"]))?;
    let fuzz = workspace::root().join("fuzz/Cargo.toml");
    run(cargo()
        .args(["fmt", "--check", "--manifest-path"])
        .arg(&fuzz))?;
    run(cargo()
        .args(["clippy", "--all-targets", "--locked", "--manifest-path"])
        .arg(&fuzz)
        .arg("--target-dir")
        .arg(workspace::target().join("fuzz"))
        .args(["--", "-D", "warnings"]))?;
    for &(shell, script) in SCRIPTS {
        let script: &Path = &workspace::root().join(script);
        run(program(shell).arg("-n").arg(script))?;
    }
    let nix = nix_files()?;
    run(program(tools::nixfmt()?).arg("--check").args(&nix))?;
    run(program(tools::deadnix()?).arg("--fail").args(&nix))?;
    docs::check()?;
    let cargo_deny = tools::cargo_deny()?;
    for manifest in ["Cargo.toml", "fuzz/Cargo.toml"] {
        run(program(&cargo_deny)
            .args(["--locked", "--manifest-path"])
            .arg(workspace::root().join(manifest))
            .arg("--config")
            .arg(workspace::root().join("deny.toml"))
            .args(["check", "bans", "licenses", "sources"]))?;
    }
    Ok(())
}

/// Every Nix file of the project.
fn nix_files() -> Result<Vec<PathBuf>> {
    let mut files = vec![workspace::root().join("flake.nix")];
    let mut directories = vec![workspace::root().join("nix")];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(&directory)? {
            let path = entry?.path();
            if path.is_dir() {
                directories.push(path);
            } else if path.extension().is_some_and(|extension| extension == "nix") {
                files.push(path);
            }
        }
    }
    files.sort_unstable();
    Ok(files)
}
