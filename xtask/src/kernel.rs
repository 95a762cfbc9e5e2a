//! A Debian kernel package, unpacked: its image and the modules that an initramfs needs.

mod vmlinux;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail};

use crate::command::{capture, capture_text, program, run};
use crate::cpio::Archive;
use crate::debian::Package;

pub use vmlinux::vmlinux;

/// The kernel package that `meta` (one without a version in its name) stands for now.
pub fn behind(meta: &Package) -> Result<Package> {
    let name = meta
        .depends
        .first()
        .ok_or_else(|| anyhow!("package {} depends on no kernel", meta.name))?;
    // Debian builds both from one source, so they have one version.
    Ok(Package {
        name: name.clone(),
        version: meta.version.clone(),
        architecture: meta.architecture.clone(),
        depends: Vec::new(),
    })
}

/// An unpacked kernel package.
#[derive(Debug)]
pub struct Kernel {
    root: PathBuf,
    release: String,
}

impl Kernel {
    /// The kernel in the tree at `root`, which must be absolute.
    pub fn unpacked(root: &Path) -> Result<Self> {
        let modules = root.join("lib/modules");
        let release = fs::read_dir(&modules)
            .with_context(|| format!("no kernel modules in {}", modules.display()))?
            .next()
            .ok_or_else(|| anyhow!("{} is empty", modules.display()))??
            .file_name()
            .into_string()
            .map_err(|name| anyhow!("{name:?} is no kernel release"))?;
        // A package has no list of dependencies; its installation makes it.
        run(program("depmod").arg("-b").arg(root).arg(&release))?;
        Ok(Self {
            root: root.to_owned(),
            release,
        })
    }

    /// The bzImage.
    pub fn image(&self) -> PathBuf {
        self.root.join("boot/vmlinuz-".to_owned() + &self.release)
    }

    /// Adds `modules` and what they need to `archive`: the files in `/modules`, and `/modules/order`, which names them
    /// in the order of loading. What is built into the kernel is passed over.
    pub fn add_modules(&self, modules: &[&str], archive: &mut Archive) -> Result<()> {
        let list = capture_text(
            program("modprobe")
                .args(["--config", "/dev/null", "--show-depends", "--all", "-d"])
                .arg(&self.root)
                .args(["-S", &self.release])
                .args(modules),
        )?;
        let mut order = String::new();
        for path in files_to_load(&list)? {
            let path = Path::new(path);
            let name = path
                .file_stem()
                .and_then(|name| name.to_str())
                .ok_or_else(|| anyhow!("{} is no module", path.display()))?;
            let (name, content) = match path.extension().and_then(|name| name.to_str()) {
                Some("ko") => (format!("{name}.ko"), fs::read(path)?),
                Some("xz") => (name.to_owned(), decompress("xz", path)?),
                Some("zst") => (name.to_owned(), decompress("zstd", path)?),
                _ => bail!("{} is compressed in an unknown way", path.display()),
            };
            archive.file(&format!("modules/{name}"), 0o644, content);
            order.push_str(&name);
            order.push('\n');
        }
        archive.file("modules/order", 0o644, order);
        Ok(())
    }
}

/// The files that `modprobe --show-depends` names, each once.
fn files_to_load(list: &str) -> Result<Vec<&str>> {
    let mut files = Vec::new();
    for line in list.lines() {
        match line.split_once(' ') {
            Some(("insmod", file)) => {
                let file = file.trim_end();
                if !files.contains(&file) {
                    files.push(file);
                }
            }
            Some(("builtin", _)) => {}
            _ => bail!("modprobe said what is not understood: {line}"),
        }
    }
    Ok(files)
}

fn decompress(with: &str, path: &Path) -> Result<Vec<u8>> {
    capture(
        program(with)
            .args(["--decompress", "--stdout", "--quiet"])
            .arg(path),
    )
}

/// The modules that a list names: a name a line, with `#` comments.
pub fn listed(text: &str) -> Vec<&str> {
    text.lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn a_module_that_two_others_need_is_loaded_once_and_first() {
        let list = "\
insmod /m/virtio.ko 
insmod /m/virtio_blk.ko 
builtin ext4
insmod /m/virtio.ko 
insmod /m/virtio_net.ko.xz 
";
        assert_eq!(
            files_to_load(list).unwrap(),
            ["/m/virtio.ko", "/m/virtio_blk.ko", "/m/virtio_net.ko.xz"]
        );
    }

    #[test]
    fn what_modprobe_would_run_instead_of_loading_is_refused() {
        assert!(files_to_load("install /bin/true").is_err());
    }

    #[test]
    fn comments_and_empty_lines_name_no_modules() {
        assert_eq!(listed("# a\n\nfuse\n  tun \n"), ["fuse", "tun"]);
    }
}
