//! What two images differ in.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::Result;

use crate::workspace;

/// The files that only one of them has, or that are not the same in both: kind, permissions and content.
pub fn differences(one: &Path, other: &Path) -> Result<Vec<String>> {
    let [one, other] = [contents(one)?, contents(other)?];
    let mut names: Vec<_> = one
        .keys()
        .chain(other.keys())
        .filter(|name| one.get(*name) != other.get(*name))
        .map(|name| name.display().to_string())
        .collect();
    names.sort_unstable();
    names.dedup();
    Ok(names)
}

/// What is to be said of each file of an image.
fn contents(image: &Path) -> Result<BTreeMap<PathBuf, String>> {
    let work = tempfile::tempdir_in(workspace::cache())?;
    let root = work.path().join("root");
    super::unpack(image, &root)?;
    let mut found = BTreeMap::new();
    look(&root, &root, &mut found)?;
    Ok(found)
}

fn look(root: &Path, directory: &Path, found: &mut BTreeMap<PathBuf, String>) -> Result<()> {
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        let data = fs::symlink_metadata(&path)?;
        let content = if data.is_dir() {
            look(root, &path, found)?;
            String::new()
        } else if data.is_symlink() {
            fs::read_link(&path)?.display().to_string()
        } else {
            super::checksum(&path)?
        };
        let name = path.strip_prefix(root)?.to_owned();
        found.insert(name, format!("{:o} {content}", data.mode()));
    }
    Ok(())
}
