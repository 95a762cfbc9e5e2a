//! What the VMs under test boot: kernels with an initramfs, and a small Debian.

use std::{
    ffi::OsStr,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};

use crate::vm::Vm;

/// A kernel and what it starts with.
pub struct Guest {
    /// The bzImage or ELF file.
    pub kernel: PathBuf,
    /// None for a kernel that mounts its root itself.
    pub initrd: Option<PathBuf>,
    /// `kernel.entry`, if it is given.
    pub entry: Option<&'static str>,
}

impl Guest {
    /// The guest in `directory`.
    pub fn new(directory: &Path) -> Self {
        let directory = directory
            .canonicalize()
            .unwrap_or_else(|_| directory.to_owned());
        Self {
            kernel: directory.join("vmlinuz"),
            initrd: Some(directory.join("initrd")),
            entry: None,
        }
    }

    /// The test guest with the kernel of this name: `6.12-cloud`, …
    pub fn of_kernel(name: &str) -> Result<Self> {
        Ok(Self::new(&environment("MINIVMM_KERNELS")?.join(name)))
    }

    /// Boots the ELF file that is in the bzImage, by `entry`.
    pub fn elf(mut self, entry: &'static str) -> Self {
        self.kernel.set_file_name("vmlinux");
        self.entry = Some(entry);
        self
    }

    /// Gives the kernel the initramfs no longer.
    pub fn without_initrd(mut self) -> Self {
        self.initrd = None;
        self
    }

    /// The section of a configuration.
    pub fn toml(&self, cmdline: &str) -> String {
        let initrd = self.initrd.iter();
        let initrd: String = initrd.map(|path| format!("initrd = {path:?}\n")).collect();
        let entry = self.entry.iter();
        let entry: String = entry.map(|entry| format!("entry = {entry:?}\n")).collect();
        format!(
            "[kernel]\npath = {:?}\n{initrd}cmdline = {cmdline:?}\n{entry}",
            self.kernel
        )
    }
}

impl Vm {
    /// A VM whose root is a small Debian, read-only on the share `root` (slot 15), and with systemd as PID 1.
    pub fn debian() -> Result<Self> {
        let root = environment("MINIVMM_GUEST_DEBIAN")?;
        Ok(Self::new()?
            .guest(Guest::of_kernel("6.12-cloud")?)
            .memory(512)
            .cmdline("root=root rootfstype=virtiofs")
            .toml(&format!("[[shares]]\ntag = \"root\"\nsource = {root:?}\n")))
    }

    /// The same with a shell script as its only work; then it powers off. What it writes beside its share goes to RAM.
    pub fn debian_script(script: &str) -> Result<Self> {
        let vm = Self::debian()?.cmdline("overlay init=/test-init");
        fs::write(vm.data().join("test.sh"), script)?;
        Ok(vm)
    }
}

/// A path that the caller of the tests gave.
fn environment(name: impl AsRef<OsStr>) -> Result<PathBuf> {
    let name = name.as_ref();
    let path = std::env::var_os(name).map(PathBuf::from);
    path.with_context(|| format!("{} is not set: `make test` sets it", name.display()))
}
