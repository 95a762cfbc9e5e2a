//! The lab's QEMU: Debian 13's, unpacked and not installed, so that every lab has the same one.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::cache::{self, Key};
use crate::command::{capture, program};
use crate::{trixie, workspace};

const PACKAGES: [&str; 2] = ["qemu-system-x86", "seabios"];

/// The program, to be given arguments.
pub fn qemu() -> Result<Command> {
    let root = root()?;
    let libraries = root.join("usr/lib/x86_64-linux-gnu");
    // This machine's libraries are others: those of QEMU's own distribution, and their loader.
    let mut qemu = program(libraries.join("ld-linux-x86-64.so.2"));
    qemu.arg("--library-path")
        .arg(&libraries)
        .args(["--argv0", "qemu-system-x86_64"])
        .arg(root.join("usr/bin/qemu-system-x86_64"))
        .env("QEMU_MODULE_DIR", libraries.join("qemu"));
    for data in ["qemu", "seabios"] {
        qemu.arg("-L").arg(root.join("usr/share").join(data));
    }
    Ok(qemu)
}

/// The directory in which it is unpacked.
fn root() -> Result<PathBuf> {
    let kept = || cache::newest("", "qemu");
    // What is there is good enough where nothing can be fetched.
    let release = match (trixie::release(), kept()) {
        (Ok(release), _) => release,
        (Err(_), Some(kept)) => return Ok(kept),
        (Err(error), None) => return Err(error.context("the lab has no QEMU yet")),
    };
    let key = Key::default()
        .with(include_str!("qemu.rs"))
        .with(include_str!("../trixie.rs"))
        .with(PACKAGES.join(" "))
        .with(release);
    cache::directory("", "qemu", &key, unpack)
}

fn unpack(directory: &Path) -> Result<()> {
    let work = tempfile::tempdir_in(workspace::cache())?;
    let archive = work.path().join("root.tar");
    trixie::archive("extract", &PACKAGES, [], &archive)?;
    let mut tar = program("tar");
    tar.args(["--extract", "--no-same-owner", "--directory"])
        .arg(directory)
        .arg("--file")
        .arg(&archive)
        // Only root can make devices, and nobody needs documents.
        .args([
            "--exclude=./dev",
            "--exclude=./usr/share/doc",
            "--exclude=./var",
        ]);
    capture(&mut tar).map(drop).context("cannot unpack QEMU")
}
