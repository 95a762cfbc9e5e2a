//! What the configuration says of a share, as those need it who serve it.

use minivmm_fs::{
    Share,
    external::External,
    virtiofsd::{Ids, check_source},
};
use minivmm_vmm::{VmConfig, config};

use crate::failure::Failure;

/// Who serves a share.
pub enum Server {
    /// A virtiofsd of our own, like this.
    Own(Share),
    /// One that somebody else starts.
    External(External),
}

/// Who serves `share`.
pub fn server(share: &config::Share) -> Server {
    let tag = share.tag.clone();
    match (&share.source, &share.socket) {
        (None, Some(socket)) => Server::External(External {
            tag,
            socket: socket.clone(),
        }),
        // Validation has seen to it that one of them is there.
        (source, _) => Server::Own(Share {
            tag,
            source: source.clone().unwrap_or_default(),
            options: share.options(),
        }),
    }
}

/// Looks at the directories that are shared; a socket may come later.
pub fn check(config: &VmConfig) -> Result<(), Failure> {
    for share in &config.shares {
        if let Server::Own(served) = server(share) {
            ids(&served)?;
            check_source(&served)
                .map_err(|error| Failure::config(format!("shares.source: {error}")))?;
        }
    }
    Ok(())
}

/// What the ids of a share come to for whoever runs this.
fn ids(share: &Share) -> Result<Ids, Failure> {
    Ids::resolve(share.options.ids, rustix::process::geteuid().is_root())
        .map_err(|error| Failure::config(format!("shares.ids: share `{}`: {error}", share.tag)))
}

/// What a person should know of a share's ids, if that is not what they would expect.
pub fn ids_notice(share: &config::Share) -> Option<String> {
    let Server::Own(served) = server(share) else {
        return None;
    };
    (ids(&served).ok()? == Ids::Squash).then(|| {
        format!(
            "every file that the guest makes belongs to uid {}, whatever the guest says (ids = \"squash\")",
            rustix::process::geteuid().as_raw()
        )
    })
}
