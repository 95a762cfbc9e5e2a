//! Things that are made once and kept below `target/lab`, under a name and a hash of all that went into them.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use rustix::fs::{FlockOperation, flock};
use sha2::{Digest, Sha256};

use crate::workspace;

/// What a cached thing is made from: versions of packages, contents of recipes.
#[derive(Clone, Debug, Default)]
pub struct Key(Sha256);

impl Key {
    /// Adds one ingredient. The order counts.
    pub fn with(mut self, ingredient: impl AsRef<[u8]>) -> Self {
        let ingredient = ingredient.as_ref();
        self.0.update(ingredient.len().to_le_bytes());
        self.0.update(ingredient);
        self
    }

    /// Its beginning as hexadecimal digits, which tells it from others.
    pub fn hex(&self) -> String {
        let hash = self.0.clone().finalize();
        hash[..6].iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

/// The directory `NAME-HASH` in `within` (relative to `target/lab`), made by `make` in an empty directory if it is not
/// there yet. Older ones of the same name are removed then. Another process that wants the same waits for this one.
pub fn directory(
    within: &str,
    name: &str,
    key: &Key,
    make: impl FnOnce(&Path) -> Result<()>,
) -> Result<PathBuf> {
    let parent = workspace::cache().join(within);
    fs::create_dir_all(&parent).with_context(|| format!("cannot make {}", parent.display()))?;
    let _lock = lock(&parent.join(format!(".{name}.lock")))?;

    let wanted = parent.join(format!("{name}-{}", key.hex()));
    if wanted.is_dir() {
        return Ok(wanted);
    }
    let unfinished = tempfile::Builder::new()
        .prefix(&format!(".{name}-"))
        .tempdir_in(&parent)?;
    let result = unfinished.path().join("result");
    fs::create_dir(&result)?;
    make(&result)?;
    remove_older(&parent, name)?;
    fs::rename(&result, &wanted).with_context(|| format!("cannot name {}", wanted.display()))?;
    Ok(wanted)
}

/// The newest directory `NAME-HASH` in `within`, whatever it was made from.
pub fn newest(within: &str, name: &str) -> Option<PathBuf> {
    let entries = fs::read_dir(workspace::cache().join(within)).ok()?;
    let kept = entries
        .flatten()
        .filter(|entry| is_of(&entry.file_name(), name));
    let newest = kept.max_by_key(|entry| entry.metadata().and_then(|data| data.modified()).ok())?;
    Some(newest.path())
}

/// Removes everything that is kept.
pub fn clear() -> Result<()> {
    let cache = workspace::cache();
    match fs::remove_dir_all(&cache) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", cache.display()))
        }
        _ => Ok(()),
    }
}

/// An exclusive lock on the file at `path`, held until the file is closed.
fn lock(path: &Path) -> Result<File> {
    let file = File::create(path).with_context(|| format!("cannot write {}", path.display()))?;
    flock(&file, FlockOperation::LockExclusive)
        .with_context(|| format!("cannot lock {}", path.display()))?;
    Ok(file)
}

fn remove_older(parent: &Path, name: &str) -> Result<()> {
    for entry in fs::read_dir(parent)? {
        let entry = entry?;
        if is_of(&entry.file_name(), name) {
            fs::remove_dir_all(entry.path())?;
        }
    }
    Ok(())
}

/// Whether `file` is a thing called `name` with some hash.
fn is_of(file: &OsStr, name: &str) -> bool {
    let hash = file
        .to_str()
        .and_then(|file| file.strip_prefix(name)?.strip_prefix('-'));
    hash.is_some_and(|hash| hash.len() == 12 && hash.bytes().all(|byte| byte.is_ascii_hexdigit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_tells_apart_where_one_ingredient_ends_and_the_next_begins() {
        let one = Key::default().with("ab").with("c");
        let other = Key::default().with("a").with("bc");
        assert_ne!(one.hex(), other.hex());
        assert_eq!(one.hex().len(), 12);
    }
}
