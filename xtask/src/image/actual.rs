//! Actual Budget's sync server (docs/actual.md): Debian's Node, and the packages of a lock file with their native parts
//! built against it.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::{Parts, Recipe, Tree, base, files_of, unpack};
use crate::cache::{self, Key};
use crate::command::{capture, program};
use crate::{tools, trixie, workspace};

pub const RECIPE: Recipe = Recipe {
    name: "actual",
    key,
    fill,
};

/// What decides which libraries the base has.
const OF_BASE: [&str; 4] = ["packages", "removed", "excluded", "clean"];

/// What the parts are built from.
const INGREDIENTS: [&str; 3] = ["package.json", "package-lock.json", "build"];

/// The parts in the directory where they are kept.
const ARCHIVE: &str = "layer.tar";

/// What the Debian has in which the native parts are built.
const PACKAGES: [&str; 6] = [
    "nodejs",
    "libnode-dev",
    "node-gyp",
    "g++",
    "make",
    "python3",
];

/// What runs there. The directory is always the same: compilers write it into what they make.
const BUILD: &str = "chroot \"$1\" env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/build LC_ALL=C.UTF-8 JOBS=max \
    sh -c 'cd /build && ./build'";

fn key() -> Result<Key> {
    let mut key = key_of_parts()?.with(include_str!("actual.rs"));
    for name in OF_BASE {
        let path = recipe(base::RECIPE.name).join(name);
        let content = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
        key = key.with(content);
    }
    Ok(files_of(RECIPE.name)?.with(key.hex()))
}

fn fill(tree: &mut Tree, parts: Parts) -> Result<()> {
    let work = tempfile::tempdir_in(workspace::cache())?;
    let archive = match parts {
        Parts::Kept => kept()?.join(ARCHIVE),
        Parts::New => {
            build(work.path())?;
            work.path().join(ARCHIVE)
        }
    };
    let mut unpack_parts = program("tar");
    unpack_parts
        .args(["--extract", "--no-same-owner", "--strip-components=1"])
        .arg("--directory")
        .arg(tree.root())
        .arg("--file")
        .arg(&archive);
    capture(&mut unpack_parts)?;

    let below = work.path().join("base");
    unpack(&base::RECIPE.image()?, &below)?;
    remove_common(tree.root(), &below)?;
    tree.copy(&recipe(RECIPE.name).join("files"), "")
}

/// The directory with the archive of the parts, built if anything that goes into them is another than before.
fn kept() -> Result<PathBuf> {
    cache::directory("guest", "actual-parts", &key_of_parts()?, build)
}

/// What goes into the parts.
fn key_of_parts() -> Result<Key> {
    let mut key = Key::default()
        .with(BUILD)
        .with(PACKAGES.join(" "))
        .with(include_str!("../trixie.rs"))
        .with(trixie::release()?)
        .with(trixie::security_release()?);
    for name in INGREDIENTS {
        let path = recipe(RECIPE.name).join(name);
        let content = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
        key = key.with(content);
    }
    Ok(key)
}

/// Builds the parts, all that the service runs whatever of it the base has, and archives them in `directory`.
fn build(directory: &Path) -> Result<()> {
    let work = tempfile::tempdir_in(workspace::cache())?;
    let build = work.path().join("build");
    install(&build)?;
    let archive = directory.join(ARCHIVE);
    let hooks = [
        hook(&format!("copy-in '{}' /", build.display())),
        hook(BUILD),
        hook(&format!("tar-out /build/layer '{}'", archive.display())),
    ];
    // Of the Debian itself nothing is kept.
    trixie::secure_archive("essential", &PACKAGES, hooks, Path::new("/dev/null"))
}

/// The directory of an image's recipe.
fn recipe(name: &str) -> PathBuf {
    workspace::root().join("guest").join(name)
}

fn hook(command: &str) -> OsString {
    format!("--customize-hook={command}").into()
}

/// Downloads the packages of the lock file, each by the checksum that it has there, to `build`. Nothing of them is run.
fn install(build: &Path) -> Result<()> {
    tools::npm()?;
    fs::create_dir(build)?;
    for name in INGREDIENTS {
        let from = recipe(RECIPE.name).join(name);
        fs::copy(&from, build.join(name))
            .with_context(|| format!("cannot copy {}", from.display()))?;
    }
    let mut npm = program("npm");
    npm.current_dir(build)
        .args(["ci", "--ignore-scripts", "--omit=dev", "--no-bin-links"])
        .args(["--no-audit", "--no-fund", "--loglevel=error"])
        .env("npm_config_cache", workspace::cache().join("npm"))
        .env("npm_config_update_notifier", "false");
    capture(&mut npm).map(drop)
}

/// Removes from `tree` the files that `below` has too, and the directories that are empty then.
fn remove_common(tree: &Path, below: &Path) -> Result<()> {
    let entries = fs::read_dir(tree).with_context(|| format!("cannot read {}", tree.display()))?;
    for entry in entries {
        let entry = entry?;
        let path = entry.path();
        let other = below.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            remove_common(&path, &other)?;
            if fs::read_dir(&path)?.next().is_none() {
                fs::remove_dir(&path)?;
            }
        } else if fs::symlink_metadata(&other).is_ok() {
            fs::remove_file(&path)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn what_the_base_has_is_left_out_and_the_rest_stays() {
        let work = tempfile::tempdir().unwrap();
        let [layer, base] = ["layer", "base"].map(|name| work.path().join(name));
        for name in [
            "layer/lib/both",
            "layer/lib/own",
            "layer/etc/both",
            "base/lib/both",
            "base/etc/both",
        ] {
            let path = work.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "").unwrap();
        }
        remove_common(&layer, &base).unwrap();
        assert!(layer.join("lib/own").exists() && !layer.join("lib/both").exists());
        assert!(!layer.join("etc").exists() && base.join("etc/both").exists());
    }

    #[test]
    fn every_package_of_the_lock_file_has_a_checksum_and_no_address() {
        let lock = fs::read_to_string(recipe(RECIPE.name).join("package-lock.json")).unwrap();
        let lock: serde_json::Value = serde_json::from_str(&lock).unwrap();
        let packages = lock["packages"].as_object().unwrap();
        for (name, package) in packages.iter().filter(|(name, _)| !name.is_empty()) {
            let sum = package["integrity"].as_str().unwrap_or_default();
            assert!(sum.starts_with("sha512-"), "{name}: {sum}");
            assert!(package.get("resolved").is_none(), "{name} has an address");
        }
    }
}
