//! A disk of the guest.

use std::path::{Path, PathBuf};

use minivmm_block::{EngineKind, ImageOptions, NewImage};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    Error, Limits, VmConfig, schema,
    validate::{count, is_mount_point, range, unique},
};
use crate::slots;

/// The file system of a volume that does not say which.
const FS_TYPE: &str = "ext4";
/// What `fs_type` says of a volume without file system.
const NONE: &str = "none";

/// What becomes of a write for which the host has no room.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum OnEnospc {
    /// It waits until there is room; the guest goes on meanwhile, and whoever waits for the write waits.
    #[default]
    Pause,
    /// The guest is told of an I/O error.
    Error,
}

impl From<OnEnospc> for minivmm_block::OnEnospc {
    fn from(on_enospc: OnEnospc) -> Self {
        match on_enospc {
            OnEnospc::Pause => Self::Pause,
            OnEnospc::Error => Self::Error,
        }
    }
}

/// What carries out what the guest asks of a disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Engine {
    /// io_uring where the kernel permits it, else threads.
    #[default]
    Auto,
    /// io_uring, or the VM does not start.
    IoUring,
    /// Threads.
    Threads,
}

impl From<Engine> for EngineKind {
    fn from(engine: Engine) -> Self {
        match engine {
            Engine::Auto => Self::Auto,
            Engine::IoUring => Self::IoUring,
            Engine::Threads => Self::Threads,
        }
    }
}

/// A raw image or a block device of the host, as a disk of the guest.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Volume {
    /// The image, a file with the disk's bytes and no format of its own, or a block device.
    pub image: PathBuf,
    /// Where the guest mounts it; told to the guest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::mount_point")]
    pub mount_point: Option<PathBuf>,
    /// How large an image is that is made; one that is there is at least as large.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = Limits::VOLUME_SIZE), extend("x-unit" = "MiB"))]
    pub size: Option<u32>,
    /// Makes the image if it is missing, sparse and with a file system; that takes `size`.
    #[serde(default)]
    pub auto_create: bool,
    /// The file system, as `mkfs.` and `mount -t` call it: what is made by `auto_create`, and what the guest mounts. `none`:
    /// none is made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::fs_type", extend("default" = FS_TYPE))]
    pub fs_type: Option<String>,
    /// The label of a file system that is made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::label")]
    pub label: Option<String>,
    /// The guest can read only. Several VMs may have such a volume at once; any other one has its image alone.
    #[serde(default)]
    pub read_only: bool,
    /// A serial number, in the guest the name in /dev/disk/by-id/virtio-….
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::serial")]
    pub serial: Option<String>,
    /// Passes the host's page cache by (O_DIRECT).
    #[serde(default)]
    pub direct: bool,
    /// Queues, at most one for each vCPU, each served by a thread.
    #[serde(default = "one")]
    #[schemars(range(min = 1, max = minivmm_block::QUEUES_MAX))]
    pub queues: u8,
    /// What becomes of a write for which the host has no room.
    #[serde(default)]
    pub on_enospc: OnEnospc,
    /// What carries out what the guest asks of it.
    #[serde(default)]
    pub engine: Engine,
    /// PCI slot instead of the one that follows from the order. Guests name their disks in the order of the slots.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = slots::LAST))]
    pub slot: Option<u8>,
}

fn one() -> u8 {
    1
}

impl Volume {
    /// The file system that it has or gets; None if it has none that minivmm knows of.
    pub fn file_system(&self) -> Option<&str> {
        let name = self.fs_type.as_deref().unwrap_or(FS_TYPE);
        (name != NONE).then_some(name)
    }

    /// How its image is opened.
    pub fn options(&self) -> ImageOptions {
        ImageOptions {
            read_only: self.read_only,
            direct: self.direct,
            size: self.bytes(),
        }
    }

    /// The image that is made if it is missing, if one is.
    pub fn new_image(&self) -> Option<NewImage> {
        let size = self.bytes().filter(|_| self.auto_create)?;
        Some(NewImage {
            size,
            fs_type: self.file_system().map(str::to_owned),
            label: self.label.clone(),
        })
    }

    fn bytes(&self) -> Option<u64> {
        self.size.map(|mib| u64::from(mib) << 20)
    }

    fn validate(&self, vcpu: u8) -> Result<(), Error> {
        let wrong = |key, why| {
            Err(Error::Volume {
                image: self.image.display().to_string(),
                key,
                why,
            })
        };
        if self.image.as_os_str().is_empty() {
            return wrong("image", "is empty: name a file or a block device");
        }
        if let Some(size) = self.size {
            range("volumes.size", size.into(), 1, Limits::VOLUME_SIZE.into())?;
        }
        let max = minivmm_block::QUEUES_MAX;
        range("volumes.queues", self.queues.into(), 1, max.into())?;
        if self.queues > vcpu {
            return wrong("queues", "says more than there are vCPUs");
        }
        match (self.auto_create, self.size) {
            (true, None) => {
                return wrong("size", "is missing: say how large it is to be made, in MiB");
            }
            (true, _) if self.read_only => {
                return wrong(
                    "auto_create",
                    "makes an empty image, which nobody could ever write with read_only",
                );
            }
            _ => {}
        }
        if let Some(name) = &self.fs_type {
            let named = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "-_.".contains(c);
            if name.is_empty() || name.len() > Limits::FS_TYPE || !name.chars().all(named) {
                return wrong(
                    "fs_type",
                    "is not 1 to 32 of a-z, 0-9, `-`, `_` and `.`, as ext4",
                );
            }
            if !self.auto_create && self.mount_point.is_none() {
                return wrong(
                    "fs_type",
                    "has no effect without auto_create and mount_point",
                );
            }
            if name == NONE && self.mount_point.is_some() {
                return wrong("mount_point", "is not possible with fs_type = \"none\"");
            }
        }
        if let Some(label) = &self.label {
            if !self.auto_create || self.file_system().is_none() {
                return wrong(
                    "label",
                    "has no effect without auto_create and a file system",
                );
            }
            if !is_word(label, Limits::LABEL) {
                return wrong(
                    "label",
                    "is not 1 to 16 printable ASCII characters without spaces and quotes",
                );
            }
        }
        if let Some(serial) = &self.serial
            && !is_word(serial, Limits::SERIAL)
        {
            return wrong(
                "serial",
                "is not 1 to 20 printable ASCII characters without spaces and quotes",
            );
        }
        match &self.mount_point {
            Some(point) if point == Path::new("/") => wrong(
                "mount_point",
                "cannot be the guest's root: say root=/dev/vda (or another) in kernel.cmdline",
            ),
            Some(point) if !is_mount_point(point) => wrong(
                "mount_point",
                "is not an absolute path without spaces, quotes, backslashes, `,` or `:`",
            ),
            _ => Ok(()),
        }
    }
}

/// Whether something is a word of at most `max` bytes that is the same in a udev rule, a shell and a command line.
fn is_word(text: &str, max: usize) -> bool {
    let odd = |c: char| !c.is_ascii_graphic() || "\"'\\/`$".contains(c);
    (1..=max).contains(&text.len()) && !text.contains(odd)
}

impl VmConfig {
    pub(super) fn validate_volumes(&self) -> Result<(), Error> {
        let volumes = &self.volumes;
        count("volumes", volumes.len(), Limits::VOLUMES)?;
        for volume in volumes {
            volume.validate(self.vcpu)?;
        }
        let text = |path: &Path| path.display().to_string();
        unique("volumes.image", volumes.iter().map(|v| text(&v.image)))?;
        unique(
            "volumes.serial",
            volumes.iter().filter_map(|v| v.serial.clone()),
        )?;
        let points = volumes.iter().map(|v| v.mount_point.as_deref());
        let shares = self.shares.iter().map(|s| s.mount_point.as_deref());
        unique(
            "volumes.mount_point",
            points.chain(shares).flatten().map(text),
        )
    }

    /// What the guest calls each volume, in file order: `vda`, `vdb` and so on, in the order of the slots.
    pub fn disks(&self) -> Vec<String> {
        let slot = |(n, volume): (usize, &Volume)| {
            let by_order = slots::VOLUMES.saturating_add(n as u8);
            volume.slot.unwrap_or(by_order)
        };
        let slots: Vec<u8> = self.volumes.iter().enumerate().map(slot).collect();
        let names = slots.iter().map(|slot| {
            let before = slots.iter().filter(|other| *other < slot).count();
            // At most ten.
            format!("vd{}", char::from(b'a' + before as u8))
        });
        names.collect()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn outcome(volumes: &str) -> Result<VmConfig, String> {
        let text = format!(
            "name = \"a\"\nvcpu = 4\n[kernel]\npath = \"k\"\n\
             [[shares]]\ntag = \"s\"\nsource = \"/srv\"\nmount_point = \"/data\"\n{volumes}"
        );
        let config = VmConfig::from_toml(&text).map_err(|e| e.to_string())?;
        config.validate().map_err(|e| e.to_string())?;
        Ok(config)
    }

    fn one(keys: &str) -> Result<Volume, String> {
        let config = outcome(&format!("[[volumes]]\nimage = \"a.img\"\n{keys}"))?;
        Ok(config.volumes[0].clone())
    }

    #[test]
    fn a_volume_is_an_image_and_little_else() {
        let volume = one("").unwrap();
        assert!(!volume.read_only && !volume.direct && volume.new_image().is_none());
        assert_eq!((volume.queues, volume.on_enospc), (1, OnEnospc::Pause));
        let made = one("auto_create = true\nsize = 3\nlabel = \"state\"").unwrap();
        let image = made.new_image().unwrap();
        assert_eq!(
            (image.size, image.fs_type.as_deref()),
            (3 << 20, Some("ext4"))
        );
        assert_eq!(
            (image.label.as_deref(), made.options().size),
            (Some("state"), Some(3 << 20))
        );
        let raw = one("auto_create = true\nsize = 3\nfs_type = \"none\"").unwrap();
        assert_eq!(raw.new_image().unwrap().fs_type, None);
    }

    #[test]
    fn what_does_not_go_together_is_an_error_that_names_the_key() {
        for (keys, said) in [
            ("auto_create = true", "size: `a.img`: it is missing"),
            (
                "auto_create = true\nsize = 1\nread_only = true",
                "auto_create: `a.img`: it makes",
            ),
            ("size = 0", "size: 0 is not from 1 to 16777216"),
            ("queues = 0", "queues: 0 is not from 1 to 8"),
            (
                "queues = 5",
                "queues: `a.img`: it says more than there are vCPUs",
            ),
            (
                "fs_type = \"ext4\"",
                "fs_type: `a.img`: it has no effect without",
            ),
            (
                "mount_point = \"/x\"\nfs_type = \"../x\"",
                "fs_type: `a.img`: it is not 1 to 32",
            ),
            (
                "mount_point = \"/x\"\nfs_type = \"none\"",
                "mount_point: `a.img`: it is not possible",
            ),
            ("label = \"x\"", "label: `a.img`: it has no effect without"),
            (
                "auto_create = true\nsize = 1\nlabel = \"a b\"",
                "label: `a.img`: it is not 1 to 16",
            ),
            (
                "serial = \"123456789012345678901\"",
                "serial: `a.img`: it is not 1 to 20",
            ),
            ("serial = \"\"", "serial: `a.img`: it is not 1 to 20"),
            (
                "mount_point = \"/\"",
                "mount_point: `a.img`: it cannot be the guest's root: say root=/dev/vda",
            ),
            (
                "mount_point = \"x\"",
                "mount_point: `a.img`: it is not an absolute path",
            ),
            (
                "mount_point = \"/data\"",
                "mount_point: `/data` is used twice",
            ),
            (
                "[[volumes]]\nimage = \"a.img\"",
                "image: `a.img` is used twice",
            ),
        ] {
            let error = one(keys).unwrap_err();
            assert!(
                error.starts_with(&format!("volumes.{said}")),
                "{keys}: {error}"
            );
        }
        let empty = outcome("[[volumes]]\nimage = \"\"\n").unwrap_err();
        assert!(
            empty.starts_with("volumes.image: ``: it is empty"),
            "{empty}"
        );
        let many: String = (0..11)
            .map(|n| format!("[[volumes]]\nimage = \"{n}\"\n"))
            .collect();
        assert_eq!(
            outcome(&many).unwrap_err(),
            "volumes: 11 are given, at most 10 are possible"
        );
    }

    #[test]
    fn disks_are_named_in_the_order_of_their_slots() {
        let volumes = |slots: [&str; 3]| {
            let volumes: String = slots
                .iter()
                .enumerate()
                .map(|(n, slot)| format!("[[volumes]]\nimage = \"{n}\"\n{slot}\n"))
                .collect();
            outcome(&volumes).unwrap().disks()
        };
        assert_eq!(volumes(["", "", ""]), ["vda", "vdb", "vdc"]);
        assert_eq!(
            volumes(["slot = 31", "", "slot = 5"]),
            ["vdc", "vdb", "vda"]
        );
    }
}
