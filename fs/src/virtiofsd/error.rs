//! Why there is no virtiofsd for a share.

use std::{io, path::PathBuf};

use super::share::IdsNeedRoot;
use crate::tag::Tag;

/// Why a virtiofsd could not be started.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The directory is not there, or not to be read.
    #[error("share `{tag}`: cannot read the source directory {path:?}: {source}")]
    Source {
        /// The share.
        tag: Tag,
        /// Its source.
        path: PathBuf,
        /// What happened.
        source: io::Error,
    },
    /// The source is a file.
    #[error("share `{tag}`: the source {path:?} is not a directory")]
    NotADirectory {
        /// The share.
        tag: Tag,
        /// Its source.
        path: PathBuf,
    },
    /// virtiofsd's options are UTF-8.
    #[error("share `{tag}`: the source {path:?} is not UTF-8: rename it")]
    NotUtf8 {
        /// The share.
        tag: Tag,
        /// Its source.
        path: PathBuf,
    },
    /// We are not root.
    #[error("share `{tag}`: {source}")]
    Ids {
        /// The share.
        tag: Tag,
        /// Why.
        source: IdsNeedRoot,
    },
    /// The guest's root could not write to its own share.
    #[error(
        "share `{tag}`: the source belongs to uid {owner}, which is none of the guest's with \
         ids_base = {base}: `chown {base}:{base} {}`, or share it with read_only = true",
        path.display()
    )]
    Stranger {
        /// The share.
        tag: Tag,
        /// Its source.
        path: PathBuf,
        /// Whose it is.
        owner: u32,
        /// Whose it could be.
        base: u32,
    },
    /// The way to the source is closed to the guest's ids.
    #[error(
        "share `{tag}`: uid {base}, which the guest's root is on the host, cannot pass {path:?}: \
         `chmod o+x` it, or share a directory elsewhere"
    )]
    Impassable {
        /// The share.
        tag: Tag,
        /// The directory.
        path: PathBuf,
        /// Who wants to pass.
        base: u32,
    },
    /// Ids cannot be translated.
    #[error(
        "{program:?} has version {}.{}: to run it as a user, 1.13 or newer is needed",
        version.0, version.1
    )]
    TooOld {
        /// The program.
        program: PathBuf,
        /// Its version.
        version: (u32, u32),
    },
    /// The socket needs a directory.
    #[error("cannot make a socket for virtiofsd in {directory:?}: {source}")]
    Socket {
        /// The VM's runtime directory.
        directory: PathBuf,
        /// What happened.
        source: io::Error,
    },
    /// The host has switched user namespaces off, or used them up.
    #[error(
        "cannot make a user namespace for virtiofsd: {0}; is user.max_user_namespaces 0? \
         (`sysctl user.max_user_namespaces`)"
    )]
    UserNamespace(io::Error),
    /// The supervisor lacks capabilities.
    #[error(
        "cannot map the ids of virtiofsd's user namespace: {0}; \
         root needs CAP_SETUID, CAP_SETGID and CAP_SETFCAP, and the ids must be there"
    )]
    IdMap(io::Error),
    /// The program does not run.
    #[error("cannot run {program:?}: {source}")]
    Exec {
        /// The program.
        program: PathBuf,
        /// What happened.
        source: io::Error,
    },
    /// Descriptors or threads are used up.
    #[error("cannot start virtiofsd: {0}")]
    Start(io::Error),
}

impl Error {
    /// Whether the host is at fault and not the configuration.
    pub fn is_host_unable(&self) -> bool {
        !matches!(
            self,
            Self::Source { .. }
                | Self::NotADirectory { .. }
                | Self::NotUtf8 { .. }
                | Self::Ids { .. }
                | Self::Stranger { .. }
                | Self::Impassable { .. }
        )
    }
}
