//! A directory of the host in the guest.

use std::path::PathBuf;

use minivmm_fs::{
    Tag,
    virtiofsd::{self, Options},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Limits, schema, text};
use crate::slots;

/// The protocol of a share.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ShareProto {
    /// virtio-fs, served by virtiofsd.
    #[default]
    Virtiofs,
    /// Known so that it can be refused with a hint.
    #[serde(rename = "9p")]
    #[schemars(skip)]
    NineP,
}

/// Whose the guest's files are on the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Ids {
    /// The guest's ids are the host's. Only root can do this, and does by default.
    Host,
    /// The guest's 0 to 65535 are the host's from `ids_base` on. Only root can do this.
    Shifted,
    /// Everything belongs to the user who runs minivmm, whatever the guest says. The default of an
    /// ordinary user, who can have nothing else.
    Squash,
}

/// What the guest may keep of a share in its memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Cache {
    /// Contents while a file is open, names and attributes for a second.
    Auto,
    /// All for as long as it likes: only for a directory that nobody else changes.
    Always,
    /// Nothing.
    Never,
    /// Names and attributes, no contents.
    Metadata,
}

/// What follows when a share's virtiofsd is lost: killed, stopped or silent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum OnFailure {
    /// The guest is ended, and boots again with new virtiofsds, at most 5 times in 10 minutes.
    #[default]
    RestartVm,
    /// The guest is asked to shut down, up to `lifecycle.stop_timeout`; then `minivmm run` ends with 14.
    Stop,
    /// The guest goes on without the share; whoever uses it there waits for ever.
    Ignore,
}

/// A directory of the host that the guest sees.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Share {
    /// The virtio-fs tag, by which the guest mounts it.
    #[serde(with = "text")]
    #[schemars(schema_with = "schema::tag")]
    pub tag: Tag,
    /// The directory on the host, served by a virtiofsd that minivmm starts. Either this or `socket`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<PathBuf>,
    /// The socket of a virtiofsd that is started elsewhere, waited for up to 60 seconds. It says itself what
    /// it shares and how: of the other keys only `mount_point`, `proto`, `on_failure` and `slot` go with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::socket_path")]
    pub socket: Option<PathBuf>,
    /// Where the guest mounts it; told to the guest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::mount_point")]
    pub mount_point: Option<PathBuf>,
    /// The protocol.
    #[serde(default)]
    pub proto: ShareProto,
    /// What follows when its virtiofsd is lost.
    #[serde(default)]
    pub on_failure: OnFailure,
    /// The guest can read only: every change is refused (EROFS).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("default" = false))]
    pub read_only: Option<bool>,
    /// Whose the guest's files are on the host. Default: `host` for root, `squash` for a user.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ids: Option<Ids>,
    /// With `ids = "shifted"`: the host's id of the guest's root. The 65536 ids from it on should be nobody
    /// else's, and the source directory one of theirs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = Limits::IDS_BASE_MIN, max = Limits::IDS_BASE_MAX))]
    pub ids_base: Option<u32>,
    /// Extended attributes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("default" = true))]
    pub xattr: Option<bool>,
    /// What the guest may keep in its memory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("default" = "auto"))]
    pub cache: Option<Cache>,
    /// Keep what is written in the guest's memory until a file is closed or synced: faster small writes,
    /// and the host sees them late.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("default" = false))]
    pub writeback: Option<bool>,
    /// Let programs map shared files also with `cache = "never"` or `"metadata"`, where only the guest uses
    /// them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("default" = false))]
    pub mmap: Option<bool>,
    /// Pass O_DIRECT on to the host, instead of its page cache.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("default" = false))]
    pub direct_io: Option<bool>,
    /// Threads that work on requests side by side. Without any, it is one request after the other.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(max = Limits::THREADS), extend("default" = 0))]
    pub threads: Option<u8>,
    /// PCI slot instead of the one that follows from the order.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = slots::LAST))]
    pub slot: Option<u8>,
}

impl Share {
    /// How its virtiofsd serves it, if minivmm starts that.
    pub fn options(&self) -> Options {
        Options {
            read_only: self.read_only.unwrap_or(false),
            ids: self.ids.map(|ids| match ids {
                Ids::Host => virtiofsd::Ids::Host,
                // Validation has seen to it that a base is there.
                Ids::Shifted => virtiofsd::Ids::Shifted {
                    base: self.ids_base.unwrap_or_default(),
                },
                Ids::Squash => virtiofsd::Ids::Squash,
            }),
            xattr: self.xattr.unwrap_or(true),
            cache: match self.cache {
                None | Some(Cache::Auto) => virtiofsd::Cache::Auto,
                Some(Cache::Always) => virtiofsd::Cache::Always,
                Some(Cache::Never) => virtiofsd::Cache::Never,
                Some(Cache::Metadata) => virtiofsd::Cache::Metadata,
            },
            writeback: self.writeback.unwrap_or(false),
            mmap: self.mmap.unwrap_or(false),
            direct_io: self.direct_io.unwrap_or(false),
            threads: self.threads.unwrap_or(0),
        }
    }

    /// The keys that were given and are for a virtiofsd of minivmm's own.
    pub(super) fn options_of_source(&self) -> Vec<&'static str> {
        [
            (self.read_only.is_some(), "read_only"),
            (self.ids.is_some(), "ids"),
            (self.ids_base.is_some(), "ids_base"),
            (self.xattr.is_some(), "xattr"),
            (self.cache.is_some(), "cache"),
            (self.writeback.is_some(), "writeback"),
            (self.mmap.is_some(), "mmap"),
            (self.direct_io.is_some(), "direct_io"),
            (self.threads.is_some(), "threads"),
        ]
        .into_iter()
        .filter_map(|(given, key)| given.then_some(key))
        .collect()
    }
}
