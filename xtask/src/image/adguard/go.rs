//! The Go programs.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::directory;
use super::source::Source;
use crate::command::{capture, capture_text, program};
use crate::workspace;

/// Go of the recipe's version: the machine's own fetches it from the proxy if it is another, and checks its sum.
pub fn command(source: &Source) -> Command {
    let modules = workspace::cache().join("go-modules");
    let mut go = program("go");
    go.env("GOTOOLCHAIN", &source.toolchain)
        .env("GOMODCACHE", modules)
        .env("GOFLAGS", "-mod=readonly -modcacherw -buildvcs=false");
    go
}

/// Builds both programs into `directory`, with what is in `front_end` as the pages that AdGuard Home serves. Nothing of where
/// and when is in them.
pub fn build(source: &Source, front_end: Option<&Path>, directory: &Path) -> Result<()> {
    // Before 1.21 it cannot become another.
    let version = capture_text(command(source).arg("version"))
        .context("AdGuard Home needs Go 1.21 or newer; Debian 13 has it as golang-go")?;
    ensure!(
        version.contains(&source.toolchain),
        "AdGuard Home needs {} or a Go that fetches it, and this one says: {}",
        source.toolchain,
        version.trim()
    );
    let work = tempfile::tempdir_in(workspace::cache())?;
    let root = source.unpack(work.path())?;
    if let Some(front_end) = front_end {
        let mut copy = program("cp");
        copy.args(["--recursive", "--no-target-directory"])
            .args([front_end, &root.join("build/static")]);
        capture(&mut copy)?;
    }
    // In the module, for the packages that it has checksums of.
    let setup = root.join("internal/setup");
    fs::create_dir(&setup)?;
    for file in setup_files()? {
        fs::copy(&file, setup.join(file.file_name().unwrap_or_default()))?;
    }

    let package = format!("{}/internal/version", source.module);
    let flags = format!(
        "-s -w -X {package}.version={} -X {package}.channel=release",
        source.version
    );
    for (name, path) in [("AdGuardHome", "."), ("setup", "./internal/setup")] {
        let mut build = command(source);
        build
            .current_dir(&root)
            .env("GOCACHE", work.path().join("cache"))
            .env("CGO_ENABLED", "0")
            .envs([("GOOS", "linux"), ("GOARCH", "amd64"), ("GOAMD64", "v1")])
            .args(["build", "-trimpath", "-ldflags", &flags, "-o"])
            .arg(directory.join(name))
            .arg(path);
        capture(&mut build)?;
    }
    Ok(())
}

/// The files of the program that AdGuard Home has beside it.
pub fn setup_files() -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(directory().join("setup"))?;
    let mut files = entries
        .map(|entry| Ok(entry?.path()))
        .collect::<Result<Vec<_>>>()?;
    files.sort_unstable();
    Ok(files)
}
