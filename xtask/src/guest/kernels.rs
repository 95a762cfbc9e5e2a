//! The test guest: kernels of several makes, each with an initramfs of its own modules that runs a test's script or
//! leads to a root on a share.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::Result;

use super::{files, initramfs, key, link};
use crate::debian::{self, Package};
use crate::kernel::{self, Kernel};
use crate::{cache, workspace};

/// Names of the kernels, and the packages that stand for their newest versions.
const KERNELS: [(&str, &[&str]); 1] = [(
    "6.12-cloud",
    &["linux-image-6.12-cloud-amd64", "linux-image-cloud-amd64"],
)];

/// Files of `guest`, where they are in the initramfs, and their permissions.
const FILES: [(&str, &str, u32); 3] = [
    ("initramfs/init", "init", 0o755),
    ("test-init", "test-init", 0o755),
    ("lib.sh", "lib/guest.sh", 0o644),
];

/// The file that names the modules.
const MODULES: &str = "initramfs/modules";

/// The directory in which each kernel has a directory with its `vmlinuz` and `initrd`, made if it is not there in the
/// newest version that apt knows.
pub fn kernels() -> Result<PathBuf> {
    for (name, alternatives) in KERNELS {
        let [meta, busybox] = debian::newest([alternatives, &["busybox-static"]])?;
        make(name, [kernel::behind(&meta)?, busybox])?;
    }
    Ok(workspace::cache().join("guest/kernels"))
}

fn make(name: &str, packages: [Package; 2]) -> Result<()> {
    let files = files(FILES.iter().map(|(name, _, _)| name).chain([&MODULES]))?;
    let key = key(include_str!("kernels.rs"), &packages, &files);
    let made = cache::directory("guest/kernels", name, &key, |directory| {
        let root = tempfile::tempdir_in(workspace::cache())?;
        debian::unpack(&format!("kernel-{name}"), &packages, root.path())?;
        let kernel = Kernel::unpacked(root.path())?;
        fs::copy(kernel.image(), directory.join("vmlinuz"))?;

        let mut archive = initramfs(root.path())?;
        for mount_point in ["root", "written"] {
            archive.directory(mount_point, 0o755);
        }
        for (name, path, permissions) in FILES {
            archive.file(path, permissions, files[name].as_str());
        }
        kernel.add_modules(&kernel::listed(&files[MODULES]), &mut archive)?;
        // Not compressed: the kernel unpacks it as fast as it can copy.
        archive.write(File::create(directory.join("initrd"))?)?;
        Ok(())
    })?;
    link(
        &made,
        &workspace::cache()
            .join(Path::new("guest/kernels"))
            .join(name),
    )
}
