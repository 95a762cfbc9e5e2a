//! The files of an image before it is packed.

use std::collections::BTreeMap;
use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

/// A directory whose files will all be root's. Who may read them is what [`Tree::mode`] said, and else everybody; a file
/// that its owner may execute, everybody may. So nothing depends on a umask, and no program has the set-user-id bit.
#[derive(Debug)]
pub struct Tree {
    root: PathBuf,
    modes: BTreeMap<PathBuf, u32>,
}

impl Tree {
    /// An empty one in the directory `root`, which is made.
    pub fn new(root: PathBuf) -> Result<Self> {
        fs::create_dir(&root).with_context(|| format!("cannot make {}", root.display()))?;
        Ok(Self {
            root,
            modes: BTreeMap::new(),
        })
    }

    /// Its directory.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Where a file or directory of it is, named without a slash at its beginning.
    pub fn path(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    /// Makes a directory, with those above it.
    pub fn directory(&self, name: &str) -> Result<PathBuf> {
        let path = self.path(name);
        fs::create_dir_all(&path).with_context(|| format!("cannot make {}", path.display()))?;
        Ok(path)
    }

    /// Writes a file, with the directories above it.
    pub fn file(&self, name: &str, content: impl AsRef<[u8]>) -> Result<()> {
        let path = self.path(name);
        make_parent(&path)?;
        fs::write(&path, content).with_context(|| format!("cannot write {}", path.display()))
    }

    /// Makes a symbolic link, in the place of what is there.
    pub fn link(&self, target: &str, name: &str) -> Result<()> {
        let path = self.path(name);
        make_parent(&path)?;
        link(Path::new(target), &path)
    }

    /// Puts the files of the directory `from` over those in `to`, which is `""` for the root.
    pub fn copy(&self, from: &Path, to: &str) -> Result<()> {
        copy(from, &self.path(to))
    }

    /// Says who may read, write and execute a file or directory.
    pub fn mode(&mut self, name: &str, mode: u32) {
        self.modes.insert(name.into(), mode);
    }

    /// Gives every file and directory the permissions that it is to have. Fails if there is anything but files,
    /// directories and links, or a mode for what is not there.
    pub fn settle(&self) -> Result<()> {
        for name in self.modes.keys() {
            let path = self.root.join(name);
            fs::symlink_metadata(&path)
                .with_context(|| format!("cannot find {}", path.display()))?;
        }
        self.settle_below(&self.root)
    }

    fn settle_below(&self, path: &Path) -> Result<()> {
        let metadata = fs::symlink_metadata(path)?;
        let kind = metadata.file_type();
        let usual = match (kind.is_dir(), kind.is_file()) {
            (true, _) => 0o755,
            (_, true) if metadata.permissions().mode() & 0o100 != 0 => 0o755,
            (_, true) => 0o644,
            _ if kind.is_symlink() => return Ok(()),
            _ => bail!("{} is no file, no directory and no link", path.display()),
        };
        let name = path.strip_prefix(&self.root).unwrap_or(path);
        let mode = self.modes.get(name).copied().unwrap_or(usual);
        if kind.is_dir() {
            // It may be one that this user cannot look into.
            fs::set_permissions(path, Permissions::from_mode(mode | 0o700))?;
            for entry in fs::read_dir(path)? {
                self.settle_below(&entry?.path())?;
            }
        }
        fs::set_permissions(path, Permissions::from_mode(mode))
            .with_context(|| format!("cannot change the mode of {}", path.display()))
    }
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to).with_context(|| format!("cannot make {}", to.display()))?;
    let entries = fs::read_dir(from).with_context(|| format!("cannot read {}", from.display()))?;
    for entry in entries {
        let entry = entry?;
        let (from, to) = (entry.path(), to.join(entry.file_name()));
        let kind = entry.file_type()?;
        if kind.is_dir() {
            copy(&from, &to)?;
        } else if kind.is_symlink() {
            link(&fs::read_link(&from)?, &to)?;
        } else {
            // Not through a link that is there.
            remove(&to)?;
            fs::copy(&from, &to).with_context(|| format!("cannot copy {}", from.display()))?;
        }
    }
    Ok(())
}

fn link(target: &Path, path: &Path) -> Result<()> {
    remove(path)?;
    symlink(target, path).with_context(|| format!("cannot make the link {}", path.display()))
}

fn remove(path: &Path) -> Result<()> {
    if fs::symlink_metadata(path).is_ok() {
        fs::remove_file(path).with_context(|| format!("cannot remove {}", path.display()))?;
    }
    Ok(())
}

fn make_parent(path: &Path) -> Result<()> {
    match path.parent() {
        Some(parent) => {
            fs::create_dir_all(parent).with_context(|| format!("cannot make {}", parent.display()))
        }
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn mode(tree: &Tree, name: &str) -> u32 {
        let data = fs::symlink_metadata(tree.path(name)).unwrap();
        data.permissions().mode() & 0o7777
    }

    #[test]
    fn modes_are_what_was_said_and_else_what_everybody_may_read() {
        let work = tempfile::tempdir().unwrap();
        let mut tree = Tree::new(work.path().join("root")).unwrap();
        tree.file("bin/su", "").unwrap();
        fs::set_permissions(tree.path("bin/su"), Permissions::from_mode(0o4711)).unwrap();
        tree.file("etc/motd", "").unwrap();
        fs::set_permissions(tree.path("etc/motd"), Permissions::from_mode(0o600)).unwrap();
        tree.file("root/key", "").unwrap();
        tree.mode("root", 0o700);
        tree.mode("root/key", 0o400);
        tree.settle().unwrap();
        for (name, wanted) in [
            ("", 0o755),
            ("bin/su", 0o755),
            ("etc", 0o755),
            ("etc/motd", 0o644),
            ("root", 0o700),
            ("root/key", 0o400),
        ] {
            assert_eq!(mode(&tree, name), wanted, "{name}");
        }
    }

    #[test]
    fn a_mode_for_what_is_not_there_is_an_error() {
        let work = tempfile::tempdir().unwrap();
        let mut tree = Tree::new(work.path().join("root")).unwrap();
        tree.mode("etc/shadow", 0o600);
        let error = tree.settle().unwrap_err().to_string();
        assert!(error.contains("etc/shadow"), "{error}");
    }

    #[test]
    fn a_file_that_is_copied_replaces_a_link_and_not_what_it_leads_to() {
        let work = tempfile::tempdir().unwrap();
        let from = work.path().join("from");
        fs::create_dir_all(from.join("etc")).unwrap();
        fs::write(from.join("etc/resolv.conf"), "new").unwrap();
        let tree = Tree::new(work.path().join("root")).unwrap();
        tree.file("run/resolv.conf", "old").unwrap();
        tree.link("../run/resolv.conf", "etc/resolv.conf").unwrap();
        tree.copy(&from, "").unwrap();
        assert_eq!(fs::read(tree.path("run/resolv.conf")).unwrap(), b"old");
        assert_eq!(fs::read(tree.path("etc/resolv.conf")).unwrap(), b"new");
    }
}
