//! What is shared and how, before anybody serves it.

use std::{
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use super::Error;
use crate::tag::Tag;

/// What is shared, and under which name.
#[derive(Clone, Debug)]
pub struct Share {
    /// The name that the guest mounts.
    pub tag: Tag,
    /// A directory of the host; a relative path is relative to the working directory.
    pub source: PathBuf,
    /// How.
    pub options: Options,
}

/// How a directory is shared.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// The guest can change nothing; it gets EROFS.
    pub read_only: bool,
    /// Whose the guest's files are. By default [`Ids::Host`] for root, and [`Ids::Squash`] for a user.
    pub ids: Option<Ids>,
    /// The guest has extended attributes.
    pub xattr: bool,
    /// What the guest may keep in its memory.
    pub cache: Cache,
    /// The guest may keep what it writes, until it closes the file or asks for it to be written.
    pub writeback: bool,
    /// The guest may map files that it shares even where [`cache`](Self::cache) keeps nothing.
    pub mmap: bool,
    /// O_DIRECT of the guest is O_DIRECT on the host.
    pub direct_io: bool,
    /// Threads that serve requests beside the one that takes them.
    pub threads: u8,
}

/// What a guest's user and group ids are on the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ids {
    /// The same ids.
    Host,
    /// The guest's 0 to 65535 are the host's from `base` on; the guest has no others.
    Shifted {
        /// The host's id of the guest's root.
        base: u32,
    },
    /// All of them are the one that minivmm runs as.
    Squash,
}

impl Ids {
    /// Ids of a guest that [`Shifted`](Self::Shifted) maps.
    pub const SHIFTED: u32 = 65536;

    /// The ids that `wish` comes to for root or for an ordinary user.
    pub fn resolve(wish: Option<Self>, root: bool) -> Result<Self, IdsNeedRoot> {
        match wish {
            None if root => Ok(Self::Host),
            None => Ok(Self::Squash),
            Some(Self::Squash) => Ok(Self::Squash),
            Some(ids) if root => Ok(ids),
            Some(_) => Err(IdsNeedRoot),
        }
    }
}

/// An ordinary user cannot make files of others.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "only root can have `ids = \"host\"` or \"shifted\": a user's files are all that user's, `ids = \"squash\"`"
)]
pub struct IdsNeedRoot;

/// What a guest may keep of a share (virtiofsd's `--cache`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Cache {
    /// Names and attributes for a second, contents while a file is open: what the host changes is seen
    /// when a file is opened.
    #[default]
    Auto,
    /// Everything for as long as it likes: only for a directory that nobody else changes.
    Always,
    /// Nothing.
    Never,
    /// Names and attributes, no contents.
    Metadata,
}

impl Cache {
    /// As virtiofsd calls it.
    pub(super) fn option(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Always => "always",
            Self::Never => "never",
            Self::Metadata => "metadata",
        }
    }
}

/// The absolute path of a source that is a directory which we can read, and which the guest's root can
/// use with [`Ids::Shifted`]; [`Virtiofsd::spawn`](super::Virtiofsd::spawn) asks for it too.
pub fn check_source(share: &Share) -> Result<String, Error> {
    let (tag, path) = (share.tag.clone(), share.source.clone());
    let unreadable = |source| Error::Source {
        tag: tag.clone(),
        path: path.clone(),
        source,
    };
    let absolute = fs::canonicalize(&path).map_err(unreadable)?;
    if !absolute.is_dir() {
        return Err(Error::NotADirectory { tag, path });
    }
    fs::read_dir(&absolute).map_err(unreadable)?;
    if let Some(Ids::Shifted { base }) = share.options.ids {
        check_shifted(share, &absolute, base)?;
    }
    absolute
        .into_os_string()
        .into_string()
        .map_err(|_| Error::NotUtf8 { tag, path })
}

/// A shifted virtiofsd is a stranger on the host: only what others may pass, or what is its own, is there
/// for it.
fn check_shifted(share: &Share, source: &Path, base: u32) -> Result<(), Error> {
    let own = base..=base.saturating_add(Ids::SHIFTED - 1);
    let look = |path: &Path| {
        fs::metadata(path).map_err(|error| Error::Source {
            tag: share.tag.clone(),
            path: path.to_owned(),
            source: error,
        })
    };
    let owner = look(source)?.uid();
    if !own.contains(&owner) && !share.options.read_only {
        return Err(Error::Stranger {
            tag: share.tag.clone(),
            path: source.to_owned(),
            owner,
            base,
        });
    }
    for parent in source.ancestors() {
        let metadata = look(parent)?;
        if metadata.mode() & 0o001 == 0 && !own.contains(&metadata.uid()) {
            return Err(Error::Impassable {
                tag: share.tag.clone(),
                path: parent.to_owned(),
                base,
            });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_user_can_only_squash_and_root_does_what_it_likes() {
        let shifted = Some(Ids::Shifted { base: 1 << 20 });
        assert_eq!(Ids::resolve(None, true), Ok(Ids::Host));
        assert_eq!(Ids::resolve(None, false), Ok(Ids::Squash));
        for ids in [Some(Ids::Host), shifted, Some(Ids::Squash)] {
            assert_eq!(Ids::resolve(ids, true).ok(), ids);
        }
        assert_eq!(Ids::resolve(Some(Ids::Squash), false), Ok(Ids::Squash));
        assert_eq!(Ids::resolve(Some(Ids::Host), false), Err(IdsNeedRoot));
        assert_eq!(Ids::resolve(shifted, false), Err(IdsNeedRoot));
    }

    #[test]
    fn a_source_of_a_stranger_is_named_with_the_command_that_gives_it_away() {
        let root = tempfile::tempdir().unwrap();
        let source = root.path().join("data");
        fs::create_dir(&source).unwrap();
        let share = |base, read_only| Share {
            tag: "data".parse().unwrap(),
            source: source.clone(),
            options: Options {
                ids: Some(Ids::Shifted { base }),
                read_only,
                ..Options::default()
            },
        };
        let us = fs::metadata(&source).unwrap().uid();
        let error = check_source(&share(us + 1, false)).unwrap_err().to_string();
        let (place, owner) = (source.display(), us + 1);
        assert!(
            error.contains(&format!("chown {owner}:{owner} {place}")),
            "{error}"
        );
        // The temporary directory is ours alone: nobody else can pass it.
        fs::set_permissions(root.path(), fs::Permissions::from_mode(0o700)).unwrap();
        let error = check_source(&share(us + 1, true)).unwrap_err().to_string();
        assert!(error.contains("chmod o+x"), "{error}");
        assert!(error.contains(root.path().to_str().unwrap()), "{error}");
        fs::set_permissions(root.path(), fs::Permissions::from_mode(0o711)).unwrap();
        assert!(check_source(&share(us + 1, true)).is_ok());
        assert!(check_source(&share(us, false)).is_ok());
    }
}
