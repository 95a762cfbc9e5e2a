//! A small Debian 13 (trixie, systemd 257) as the root of a test's guest, made by mmdebstrap as one read-only image.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::{files, key, link};
use crate::cache::{self, Key};
use crate::command::{capture, is_root, program, run};
use crate::{kernel, trixie, workspace};

/// Files of `guest`: packages, paths that are left out of them, and what is done last.
const PACKAGES: &str = "debian/packages";
const EXCLUDED: &str = "debian/excluded";
const FINISH: &str = "debian/finish";

/// Files of `guest` that the last step puts into the root.
const COPIED: [&str; 2] = ["lib.sh", "test-init"];

/// The image's name in its directory.
const IMAGE: &str = "root.squashfs";

/// The image, if it has been made.
pub fn image() -> Option<PathBuf> {
    let image = workspace::cache().join("guest/debian").join(IMAGE);
    image.exists().then_some(image)
}

/// The image: a squashfs with owners and capabilities, made if the release or the recipe is another than before.
/// `target/lab/guest/debian` leads to its directory.
pub fn debian() -> Result<PathBuf> {
    let recipe = files([PACKAGES, EXCLUDED, FINISH].iter().chain(&COPIED))?;
    let release = match trixie::release() {
        Ok(release) => release,
        // What is there is good enough where nothing can be fetched.
        Err(error) => return image().ok_or(error),
    };
    let key = key(include_str!("debian.rs"), &[], &recipe)
        .with(include_str!("../trixie.rs"))
        .with(release);
    let directory = cache::directory("guest", "debian", &key, |directory| {
        make(&recipe, &directory.join(IMAGE))
    })?;
    link(&directory, &workspace::cache().join("guest/debian"))?;
    Ok(directory.join(IMAGE))
}

fn make(recipe: &BTreeMap<&str, String>, image: &Path) -> Result<()> {
    let work = tempfile::tempdir_in(workspace::cache())?;
    let archive = work.path().join("root.tar");
    let excluded = kernel::listed(&recipe[EXCLUDED]);
    let excluded = excluded
        .iter()
        .map(|path| format!("--dpkgopt=path-exclude={path}").into());
    let mut finish = OsString::from("--customize-hook=");
    finish.push(workspace::root().join("guest").join(FINISH));
    let packages = kernel::listed(&recipe[PACKAGES]);
    trixie::archive("minbase", &packages, excluded.chain([finish]), &archive)?;
    // lz4: a guest's machine may be a slow one.
    let mut pack = program("tar2sqfs");
    pack.args(["--quiet", "--compressor", "lz4"]).arg(image);
    pack.stdin(fs::File::open(&archive)?);
    capture(&mut pack).map(drop)
}

/// The directory with the files of the image, for machines that boot guests themselves: mounting takes root.
pub fn unpacked(image: &Path) -> Result<PathBuf> {
    let image =
        fs::canonicalize(image).with_context(|| format!("cannot find {}", image.display()))?;
    let key = Key::default()
        .with(include_str!("debian.rs"))
        .with(image.as_os_str().as_encoded_bytes());
    cache::directory("guest", "debian-files", &key, |directory| {
        let mut unpack = program("rdsquashfs");
        unpack
            .args(["--quiet", "--no-dev", "--chmod", "--unpack-path", "/"])
            .arg("--unpack-root")
            .arg(directory);
        if is_root() {
            unpack.args(["--chown", "--set-xattr"]);
        }
        run(unpack.arg(&image))
    })
}
