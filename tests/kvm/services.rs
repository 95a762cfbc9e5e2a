//! Service VMs: the hardened kernel and base (docs/base.md), and the services that run on them.
//!
//! `MINIVMM_SERVICES` is the directory with `service-kernel` and the images, as `cargo xtask kernel` and `cargo xtask image` make
//! them (`target/lab/guest`). Without it none of these tests is part of the run.

mod base;
mod vm;

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, ensure};

use crate::Test;

/// All of them, if there is something to boot.
pub fn tests() -> Vec<Test> {
    match std::env::var_os("MINIVMM_SERVICES") {
        Some(_) => [base::TESTS].concat(),
        None => Vec::new(),
    }
}

/// A file that was made for these tests: `image-base/root.erofs`.
fn made(name: impl AsRef<Path>) -> Result<PathBuf> {
    let name = name.as_ref();
    let directory = std::env::var_os("MINIVMM_SERVICES").context("MINIVMM_SERVICES is not set")?;
    let path = Path::new(&directory).join(name);
    ensure!(
        path.exists(),
        "there is no {}: `cargo xtask kernel` and `cargo xtask image` make it",
        path.display()
    );
    Ok(path.canonicalize()?)
}

/// The image of this name, where it is read fast: in the lab this machine's files are far away.
fn image(name: &str) -> Result<PathBuf> {
    let image = made(Path::new(&format!("image-{name}")).join("root.erofs"))?;
    let Some(scratch) = std::env::var_os("MINIVMM_SCRATCH") else {
        return Ok(image);
    };
    let near = Path::new(&scratch).join(format!("{name}.erofs"));
    if !near.exists() {
        let new = near.with_extension("new");
        fs::copy(&image, &new).with_context(|| format!("cannot copy {}", image.display()))?;
        fs::rename(&new, &near)?;
    }
    Ok(near)
}
