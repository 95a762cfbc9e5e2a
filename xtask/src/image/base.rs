//! The hardened Debian 13 that all service VMs have as their root (docs/base.md).

use std::ffi::OsString;
use std::fs;

use anyhow::{Context, Result};

use super::{Parts, Recipe, Tree, files_of};
use crate::cache::Key;
use crate::command::{capture, program};
use crate::{kernel, trixie, workspace};

pub const RECIPE: Recipe = Recipe {
    name: "base",
    key,
    fill,
};

/// Files and directories that not everybody may read or write, or that everybody may write.
const MODES: [(&str, u32); 7] = [
    ("root", 0o700),
    ("tmp", 0o1777),
    ("var/tmp", 0o1777),
    ("etc/shadow", 0o600),
    ("etc/gshadow", 0o600),
    ("etc/credstore", 0o700),
    ("etc/machine-id", 0o444),
];

fn key() -> Result<Key> {
    Ok(files_of(RECIPE.name)?
        .with(include_str!("base.rs"))
        .with(include_str!("../trixie.rs"))
        .with(trixie::release()?)
        .with(trixie::security_release()?))
}

fn fill(tree: &mut Tree, _: Parts) -> Result<()> {
    let recipe = workspace::root().join("guest").join(RECIPE.name);
    let read = |name: &str| {
        let path = recipe.join(name);
        fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))
    };
    let (packages, excluded) = (read("packages")?, read("excluded")?);
    let excluded = kernel::listed(&excluded)
        .into_iter()
        .map(|path| OsString::from(format!("--dpkgopt=path-exclude={path}")));
    let mut finish = OsString::from("--customize-hook=");
    finish.push(recipe.join("finish"));

    let work = tempfile::tempdir_in(workspace::cache())?;
    let archive = work.path().join("root.tar");
    let packages = kernel::listed(&packages);
    trixie::secure_archive("essential", &packages, excluded.chain([finish]), &archive)?;
    let mut unpack = program("tar");
    unpack
        // The guest's kernel makes its devices, and only root can.
        .args(["--extract", "--no-same-owner", "--exclude=./dev/*"])
        .arg("--directory")
        .arg(tree.root())
        .arg("--file")
        .arg(&archive);
    capture(&mut unpack)?;
    capture(program(recipe.join("clean")).arg(tree.root()))?;

    tree.copy(&recipe.join("files"), "")?;
    tree.directory("data")?;
    // Empty and not missing: the guest takes the identity that its machine gives it.
    tree.file("etc/machine-id", "")?;
    for unit in kernel::listed(&read("masked")?) {
        tree.link("/dev/null", &format!("etc/systemd/system/{unit}"))?;
    }
    for (name, mode) in MODES {
        tree.mode(name, mode);
    }
    Ok(())
}
