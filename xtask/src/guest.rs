//! What the tests and the demo boot, made from Debian packages and from the files in `guest`.

mod debian;
mod dns;
mod kernels;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::cache::Key;
use crate::cpio::Archive;
use crate::debian::Package;
use crate::progress::Steps;
use crate::workspace;

pub use debian::{debian, image as debian_image, unpacked as debian_unpacked};
pub use dns::dns;
pub use kernels::kernels;

/// Everything that the tests boot.
#[derive(Debug)]
pub struct Guests {
    /// The directory with the DNS guest's `vmlinuz` and `initrd`.
    pub dns: PathBuf,
    /// The directory with a directory for each kernel.
    pub kernels: PathBuf,
    /// The image of the small Debian.
    pub debian: PathBuf,
}

/// So many steps are taken by [`all`].
pub const STEPS: u64 = 3;

/// Makes what is missing.
pub fn all(steps: &Steps) -> Result<Guests> {
    Ok(Guests {
        dns: steps.step("the DNS guest", dns)?,
        kernels: steps.step("kernels", kernels)?,
        debian: steps.step("a small Debian 13", debian)?,
    })
}

/// Files of `guest` by the names that they have there.
fn files<'a>(names: impl IntoIterator<Item = &'a &'a str>) -> Result<BTreeMap<&'a str, String>> {
    let directory = workspace::root().join("guest");
    names
        .into_iter()
        .map(|name| {
            let path = directory.join(name);
            let content = fs::read_to_string(&path)
                .with_context(|| format!("cannot read {}", path.display()))?;
            Ok((*name, content))
        })
        .collect()
}

/// What a guest is made from: `code` is the source file that makes it.
fn key(code: &str, packages: &[Package], files: &BTreeMap<&str, String>) -> Key {
    let mut key = Key::default().with(include_str!("guest.rs")).with(code);
    for package in packages {
        key = key.with(&package.name).with(&package.version);
    }
    for (name, content) in files {
        key = key.with(name).with(content);
    }
    key
}

/// An initramfs with busybox, from the package unpacked in `packages`.
fn initramfs(packages: &Path) -> Result<Archive> {
    let mut archive = Archive::default();
    for empty in ["data", "dev", "proc", "run", "sys"] {
        archive.directory(empty, 0o755);
    }
    archive.directory("tmp", 0o1777);
    // The kernel opens it for init before devtmpfs is there.
    archive.character_device("dev/console", 0o600, 5, 1);
    crate::busybox::add(packages, &mut archive)?;
    Ok(archive)
}

/// Makes `link` lead to `directory`, its neighbour.
pub fn link(directory: &Path, link: &Path) -> Result<()> {
    let name = directory
        .file_name()
        .expect("a cached directory has a name of its own");
    if fs::read_link(link).is_ok_and(|target| target == name) {
        return Ok(());
    }
    let mut next = link.as_os_str().to_owned();
    next.push(".new");
    symlink(name, &next)
        .and_then(|()| fs::rename(&next, link))
        .with_context(|| format!("cannot make the link {}", link.display()))
}
