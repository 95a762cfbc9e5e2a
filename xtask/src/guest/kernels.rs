//! The test guest: kernels of several makes, each with an initramfs of its own modules that runs a test's script or
//! leads to a root on a share.

use std::fs::{self, File};
use std::path::PathBuf;
use std::thread;

use anyhow::{Context, Result, anyhow, bail};

use super::{files, initramfs, key, link};
use crate::debian::{self, Package};
use crate::kernel::{self, Kernel};
use crate::{cache, workspace};

/// Names of the kernels, and the packages that stand for their newest versions. Three makes: compressed with zstd, lz4
/// and xz; virtio built in and as modules.
const KERNELS: [(&str, &str); 3] = [
    ("6.12-cloud", "linux-image-6.12-cloud-amd64"),
    ("6.1-cloud", "linux-image-cloud-amd64"),
    ("6.1", "linux-image-amd64"),
];

/// Files of `guest`, where they are in the initramfs, and their permissions.
const FILES: [(&str, &str, u32); 5] = [
    ("initramfs/init", "init", 0o755),
    ("button-init", "button-init", 0o755),
    ("memory-init", "memory-init", 0o755),
    ("test-init", "test-init", 0o755),
    ("lib.sh", "lib/guest.sh", 0o644),
];

/// The file that names the modules.
const MODULES: &str = "initramfs/modules";

/// The directory in which each kernel has a directory with its `vmlinuz`, the ELF `vmlinux` inside that, and `initrd`,
/// made if it is not there in the newest version that apt knows.
pub fn kernels() -> Result<PathBuf> {
    // Unpacking is most of the work, and no program for it uses more than one CPU.
    thread::scope(|scope| {
        let makers = KERNELS.map(|(name, meta)| scope.spawn(move || newest(name, meta)));
        makers.into_iter().try_for_each(|maker| {
            maker
                .join()
                .map_err(|_| anyhow!("a thread that made a kernel panicked"))?
        })
    })?;
    Ok(workspace::cache().join("guest/kernels"))
}

fn newest(name: &str, meta: &str) -> Result<()> {
    let [meta, busybox] = debian::newest([&[meta], &["busybox-static"]])?;
    let kernel = kernel::behind(&meta)?;
    let version = name.trim_end_matches("-cloud");
    if !kernel.name.starts_with(&format!("linux-image-{version}.")) {
        bail!(
            "{} stands for {} here, not for a kernel {version}: tests are made for Debian 12",
            meta.name,
            kernel.name
        );
    }
    make(name, [kernel, busybox]).with_context(|| format!("cannot make the kernel {name}"))
}

fn make(name: &str, packages: [Package; 2]) -> Result<()> {
    let files = files(FILES.iter().map(|(name, _, _)| name).chain([&MODULES]))?;
    let key = key(include_str!("kernels.rs"), &packages, &files)
        .with(include_str!("../kernel/vmlinux.rs"));
    let made = cache::directory("guest/kernels", name, &key, |directory| {
        let root = tempfile::tempdir_in(workspace::cache())?;
        debian::unpack(&format!("kernel-{name}"), &packages, root.path())?;
        let kernel = Kernel::unpacked(root.path())?;
        let image = fs::read(kernel.image())?;
        fs::write(directory.join("vmlinux"), kernel::vmlinux(&image)?)?;
        fs::write(directory.join("vmlinuz"), image)?;

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
    link(&made, &workspace::cache().join("guest/kernels").join(name))
}
