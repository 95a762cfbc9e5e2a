//! The DNS guest: Debian's 6.12 cloud kernel, and an initramfs with busybox, dnsmasq and the few modules it needs.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{Result, anyhow};

use crate::cache;
use crate::command::{capture_text, program};
use crate::cpio::Archive;
use crate::debian;
use crate::kernel::{self, Kernel};
use crate::workspace;

use super::{files, initramfs, key, link};

/// Files of `guest`, where they are in this guest, and their permissions.
const FILES: [(&str, &str, u32); 8] = [
    ("dns/init", "init", 0o755),
    ("test-init", "test-init", 0o755),
    ("lib.sh", "lib/guest.sh", 0o644),
    ("dns/sysctl.conf", "etc/sysctl.conf", 0o644),
    ("dns/dnsmasq.conf", "etc/dnsmasq.conf", 0o644),
    ("dns/rules.conf", "etc/defaults/dnsmasq.d/rules.conf", 0o644),
    (
        "dns/example.hosts",
        "etc/defaults/lists.d/example.hosts",
        0o644,
    ),
    ("dns/power-button", "etc/acpi/PWRF/00000080", 0o755),
];

/// The file that names the modules.
const MODULES: &str = "dns/modules";

/// Accounts of the guest: dnsmasq is not to run as root. Its files on a share have this id on the host as well, where
/// Debian and systemd give it to nobody.
const PASSWD: &str = "root:x:0:0:root:/:/bin/sh\ndnsmasq:x:61053:61053:dnsmasq:/:/bin/false\n";
const GROUP: &str = "root:x:0:\ndnsmasq:x:61053:\n";

/// The directory with the guest's `vmlinuz` and `initrd`, made if it is not there in the newest version that apt knows.
/// `target/lab/guest/dns` leads to it.
pub fn dns() -> Result<PathBuf> {
    let [meta, busybox, dnsmasq] = debian::newest([
        &["linux-image-6.12-cloud-amd64", "linux-image-cloud-amd64"],
        &["busybox-static"],
        &["dnsmasq-base"],
    ])?;
    let kernel = kernel::behind(&meta)?;
    let libraries = debian::libraries(&dnsmasq)?;
    let mut packages = vec![kernel, busybox, dnsmasq];
    packages.extend(libraries);
    let recipe = files(FILES.iter().map(|(name, _, _)| name).chain([&MODULES]))?;

    let key = key(include_str!("dns.rs"), &packages, &recipe);
    let directory = cache::directory("guest", "dns", &key, |directory| {
        let root = tempfile::tempdir_in(workspace::cache())?;
        debian::unpack("dns", &packages, root.path())?;
        make(root.path(), &recipe, directory)
    })?;
    link(&directory, &workspace::cache().join("guest/dns"))?;
    Ok(directory)
}

fn make(root: &Path, recipe: &BTreeMap<&str, String>, directory: &Path) -> Result<()> {
    let kernel = Kernel::unpacked(root)?;
    fs::copy(kernel.image(), directory.join("vmlinuz"))?;

    let mut archive = initramfs(root)?;
    for (name, path, permissions) in FILES {
        archive.file(path, permissions, recipe[name].as_str());
    }
    archive.file("etc/passwd", 0o644, PASSWD);
    archive.file("etc/group", 0o644, GROUP);
    add_program(root, "usr/sbin/dnsmasq", &mut archive)?;
    kernel.add_modules(&kernel::listed(&recipe[MODULES]), &mut archive)?;
    // Not compressed: the kernel unpacks it as fast as it can copy.
    archive.write(File::create(directory.join("initrd"))?)?;
    Ok(())
}

/// Adds the program at `path` and exactly the shared libraries that it needs.
fn add_program(root: &Path, path: &str, archive: &mut Archive) -> Result<()> {
    const LOADER: &str = "lib64/ld-linux-x86-64.so.2";
    const LIBRARIES: &str = "lib/x86_64-linux-gnu";
    let libraries = [root.join(LIBRARIES), root.join("usr").join(LIBRARIES)];
    let loader = libraries
        .iter()
        .map(|directory| directory.join("ld-linux-x86-64.so.2"))
        .find(|loader| loader.exists())
        .ok_or_else(|| anyhow!("the package libc6 has no dynamic loader"))?;
    let list = capture_text(
        program(&loader)
            .args(["--inhibit-cache", "--library-path"])
            .arg(libraries.map(|path| path.display().to_string()).join(":"))
            .arg("--list")
            .arg(root.join(path)),
    )?;
    for (name, file) in needed(&list) {
        if !Path::new(file).starts_with(root) {
            return Err(anyhow!("{path} needs {name}, which no package brought"));
        }
        archive.file(&format!("{LIBRARIES}/{name}"), 0o755, fs::read(file)?);
    }
    archive.file(LOADER, 0o755, fs::read(loader)?);
    archive.file(path, 0o755, fs::read(root.join(path))?);
    Ok(())
}

/// Names and files of the libraries in what the dynamic loader lists; the loader itself and the vDSO are none.
fn needed(list: &str) -> impl Iterator<Item = (&str, &str)> {
    list.lines().filter_map(|line| {
        let (name, file) = line.trim().split_once(" => ")?;
        let file = file.rsplit_once(" (").map_or(file, |(file, _)| file);
        (!name.contains('/')).then_some((name, file))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_are_those_with_a_name_and_a_file() {
        let list = "\tlinux-vdso.so.1 (0x00007ffd)
\tlibnettle.so.8 => /r/usr/lib/libnettle.so.8 (0x00007f01)
\tlibgone.so.1 => not found
\t/lib64/ld-linux-x86-64.so.2 => /r/lib/ld-linux-x86-64.so.2 (0x00007f02)
";
        let needed: Vec<_> = needed(list).collect();
        assert_eq!(
            needed,
            [
                ("libnettle.so.8", "/r/usr/lib/libnettle.so.8"),
                ("libgone.so.1", "not found")
            ]
        );
    }
}
