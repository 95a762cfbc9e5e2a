//! Opens everything that a VM works on, before anything is started.

use std::{
    error::Error,
    fs::File,
    io,
    os::{
        fd::{AsFd, OwnedFd},
        unix::fs::OpenOptionsExt,
    },
    path::{Path, PathBuf},
};

use minivmm_boot::bzimage::BzImage;
use minivmm_fs::{Program, Share, virtiofsd::check_source};
use minivmm_net::Tap;
use minivmm_vmm::{Blame, VmConfig, cmdline, config, kvm, layout};

use crate::failure::{Failure, with_causes};

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
        sources(config)?;
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
                    Failure::new(blame, format!("interfaces.id: {error}"))
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
        sources(config)
    }
}

/// A share as virtiofsd serves it.
pub fn served(share: &config::Share) -> Share {
    Share {
        tag: share.tag.clone(),
        source: share.source.clone(),
    }
}

/// The directories that are shared.
fn sources(config: &VmConfig) -> Result<(), Failure> {
    for share in &config.shares {
        check_source(&served(share))
            .map_err(|error| Failure::config(format!("shares.source: {error}")))?;
    }
    Ok(())
}

fn kernel(config: &VmConfig) -> Result<(File, Option<File>), Failure> {
    let path = &config.kernel.path;
    let mut kernel = open("kernel.path", path)?;
    let platform = layout::platform(config.vcpu, u64::from(config.mem) << 20);
    let failed = |error: &dyn Error| {
        let why = with_causes(error);
        Failure::config(format!("kernel.path: {}: {why}", path.display()))
    };
    let image = BzImage::read(&mut kernel).map_err(|error| failed(&error))?;
    image.place(&platform.ram).map_err(|error| failed(&error))?;
    minivmm_boot::cmdline::check(&cmdline::build(config), image.cmdline_size())
        .map_err(|error| Failure::config(format!("kernel.cmdline: {}", with_causes(&error))))?;
    let initrd = config.kernel.initrd.as_deref();
    let initrd = initrd.map(|path| open("kernel.initrd", path)).transpose()?;
    Ok((kernel, initrd))
}

/// Opens a regular file, without waiting for the other end of what is a pipe.
fn open(key: &str, path: &Path) -> Result<File, Failure> {
    let failed = |error: io::Error| {
        let hint = match error.kind() {
            io::ErrorKind::NotFound if path.is_relative() => {
                " (relative paths are relative to the working directory)"
            }
            _ => "",
        };
        Failure::config(format!("{key}: {}: {error}{hint}", path.display()))
    };
    let file = File::options()
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(path)
        .map_err(failed)?;
    match file.metadata().map_err(failed)?.is_file() {
        true => Ok(file),
        false => Err(failed(io::Error::other("not a regular file"))),
    }
}
