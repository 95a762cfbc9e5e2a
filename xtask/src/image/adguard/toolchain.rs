//! The Go of the recipe's version, whatever Go this machine has, and if it has none.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::source::Source;
use crate::cache::{self, Key};
use crate::command::{capture, capture_text, program};
use crate::{trixie, workspace};

/// Debian 13's, and what its program is linked to.
const PACKAGES: [&str; 2] = ["golang-go", "libc6"];

/// The toolchain's `go`. From 1.21 on any Go fetches another from the proxy, and checks its sum.
pub fn go(source: &Source) -> Result<Command> {
    let asked = |go: Command| root(go, source);
    let root = asked(program("go")).or_else(|_| asked(of_debian()?))?;
    let mut go = program(root.join("bin/go"));
    go.env("GOROOT", root);
    Ok(settled(go, "local"))
}

/// Where `go` has, or puts, the toolchain.
fn root(go: Command, source: &Source) -> Result<PathBuf> {
    let mut go = settled(go, &source.toolchain);
    let said = capture_text(go.args(["env", "GOVERSION", "GOROOT"]))?;
    let (version, root) = said.trim().split_once('\n').unwrap_or_default();
    // Before 1.21 it does not know that it could be another one.
    ensure!(
        version == source.toolchain,
        "this Go is {version} and not {}",
        source.toolchain
    );
    Ok(root.into())
}

/// With settings that are the same everywhere, but for where the proxy is.
fn settled(mut go: Command, toolchain: &str) -> Command {
    go.env("GOTOOLCHAIN", toolchain)
        .env("GOMODCACHE", workspace::cache().join("go-modules"))
        .env("GOFLAGS", "-mod=readonly -modcacherw -buildvcs=false")
        .current_dir("/");
    go
}

/// Debian 13's `go`, unpacked and not installed.
fn of_debian() -> Result<Command> {
    let key = Key::default()
        .with(include_str!("toolchain.rs"))
        .with(include_str!("../../trixie.rs"));
    let directory = cache::directory("", "go", &key, unpack)
        .context("AdGuard Home needs a Go of 1.21 or newer, and Debian 13's cannot be had")?;
    let libraries = directory.join("usr/lib/x86_64-linux-gnu");
    let root = directory.join("usr/lib/go");
    // This machine's libraries are others.
    let mut go = program(libraries.join("ld-linux-x86-64.so.2"));
    go.arg("--library-path")
        .arg(&libraries)
        .arg(root.join("bin/go"))
        .env("GOROOT", &root);
    Ok(go)
}

fn unpack(directory: &Path) -> Result<()> {
    let work = tempfile::tempdir_in(workspace::cache())?;
    let archive = work.path().join("root.tar");
    trixie::archive("extract", &PACKAGES, [], &archive)?;
    let mut tar = program("tar");
    tar.args([
        "--extract",
        "--no-same-owner",
        "--exclude=./dev",
        "--directory",
    ])
    .arg(directory)
    .arg("--file")
    .arg(&archive);
    capture(&mut tar).map(drop)
}
