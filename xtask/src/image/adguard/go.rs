//! The Go programs.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Result;

use super::source::Source;
use super::{directory, toolchain};
use crate::command::{capture, program};
use crate::workspace;

/// Builds both programs into `directory`, with what is in `front_end` as the pages that AdGuard Home serves. Nothing of where
/// and when is in them.
pub fn build(source: &Source, front_end: Option<&Path>, directory: &Path) -> Result<()> {
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
        let mut build = toolchain::go(source)?;
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
