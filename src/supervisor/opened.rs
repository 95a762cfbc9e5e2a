//! Opens everything that a VM works on, before anything is started.

use std::{
    fs::File,
    io,
    os::fd::{AsFd, OwnedFd},
    path::{Path, PathBuf},
};

use minivmm_fs::Program;
use minivmm_net::Tap;
use minivmm_vmm::{Blame, VmConfig, kvm};

use crate::failure::Failure;

/// What a VM works on.
#[derive(Debug)]
pub struct Opened {
    /// `/dev/kvm`.
    pub kvm: File,
    /// The kernel image.
    pub kernel: File,
    /// The initial RAM disk.
    pub initrd: Option<File>,
    /// `/dev/urandom`.
    pub entropy: File,
    /// Where the guest's console goes: standard output.
    pub console: OwnedFd,
    /// A tap for each interface.
    pub taps: Vec<Tap>,
    /// The program that serves shares, if there are any.
    pub virtiofsd: Option<Program>,
}

impl Opened {
    /// Opens what `config` names; the first thing that is missing is the error.
    pub fn open(config: &VmConfig) -> Result<Self, Failure> {
        let (kernel, initrd) = kernel(config)?;
        let virtiofsd = match config.shares.is_empty() {
            true => None,
            false => {
                let named = std::env::var_os("MINIVMM_VIRTIOFSD").map(PathBuf::from);
                Some(Program::find(named.as_deref()).map_err(Failure::host)?)
            }
        };
        let taps = config
            .interfaces
            .iter()
            .map(|interface| {
                Tap::open(&interface.id).map_err(|error| {
                    let blame = match error.is_host_unable() {
                        true => Blame::Host,
                        false => Blame::Config,
                    };
                    Failure::new(blame, error)
                })
            })
            .collect::<Result<_, _>>()?;
        let entropy = File::open("/dev/urandom")
            .map_err(|error| Failure::host(format!("/dev/urandom: {error}")))?;
        let console = io::stdout()
            .as_fd()
            .try_clone_to_owned()
            .map_err(|error| Failure::host(format!("standard output: {error}")))?;
        Ok(Self {
            kvm: kvm::open().map_err(Failure::host)?,
            kernel,
            initrd,
            entropy,
            console,
            taps,
            virtiofsd,
        })
    }

    /// Looks at what `config` names without taking it: a tap that a running VM has is left alone, and KVM
    /// is not asked, because a file is as right on a host without it.
    pub fn check(config: &VmConfig) -> Result<(), Failure> {
        kernel(config)?;
        for share in &config.shares {
            std::fs::read_dir(&share.source).map_err(|error| {
                let source = share.source.display();
                Failure::config(format!("share `{}`: source {source}: {error}", share.tag))
            })?;
        }
        Ok(())
    }
}

fn kernel(config: &VmConfig) -> Result<(File, Option<File>), Failure> {
    let mut kernel = open("kernel.path", &config.kernel.path)?;
    minivmm_boot::bzimage::BzImage::read(&mut kernel).map_err(|error| {
        Failure::config(format!(
            "kernel.path: {}: {error}",
            config.kernel.path.display()
        ))
    })?;
    let initrd = config.kernel.initrd.as_deref();
    let initrd = initrd.map(|path| open("kernel.initrd", path)).transpose()?;
    Ok((kernel, initrd))
}

fn open(key: &str, path: &Path) -> Result<File, Failure> {
    File::open(path).map_err(|error| {
        let hint = match error.kind() {
            io::ErrorKind::NotFound if path.is_relative() => {
                " (relative paths are relative to the working directory)"
            }
            _ => "",
        };
        Failure::config(format!("{key}: {}: {error}{hint}", path.display()))
    })
}
