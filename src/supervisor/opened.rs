//! Opens everything that a VM works on, before anything is started.

use std::{
    fs::File,
    io,
    path::{Path, PathBuf},
};

use minivmm_block::Image;
use minivmm_boot::{Payload, Placement};
use minivmm_fs::{Program, program};
use minivmm_net::Tap;
use minivmm_vmm::{VmConfig, boot_key, cmdline, host, kvm, layout};

use super::{
    credentials::{self, Credentials, Found},
    shares,
    streams::Streams,
    taps::{self, Inherited},
    volumes,
};
use crate::{
    failure::{Failure, with_causes},
    regular_file,
    runtime_dir::RuntimeDir,
};

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
    /// The credentials.
    pub credentials: Credentials,
    /// A tap for each interface.
    pub taps: Vec<Tap>,
    /// An image for each volume.
    pub volumes: Vec<Image>,
    /// The host's side of the socket device, if there is one.
    pub streams: Option<Streams>,
    /// The program that serves shares, if there are any.
    pub virtiofsd: Option<Program>,
}

impl Opened {
    /// Opens what `config` names beside the taps that were handed in; the first thing that is missing is the error.
    pub fn open(
        config: &VmConfig,
        inherited: Inherited,
        runtime_dir: &RuntimeDir,
    ) -> Result<Self, Failure> {
        let Checked {
            kernel,
            initrd,
            credentials,
            ..
        } = Self::check(config)?;
        let credentials = Credentials::read(config, credentials)?;
        let virtiofsd = virtiofsd(config).transpose().map_err(Failure::host)?;
        let taps = taps::open(config, inherited)?;
        let entropy = File::open("/dev/urandom")
            .map_err(|error| Failure::host(format!("/dev/urandom: {error}")))?;
        Ok(Self {
            kvm: kvm::open().map_err(Failure::host)?,
            kernel,
            initrd,
            entropy,
            credentials,
            taps,
            volumes: volumes::open(config)?,
            streams: Streams::open(config, runtime_dir.path())?,
            virtiofsd,
        })
    }

    /// Looks at what `config` names without taking it: a tap that a running VM has is left alone, and KVM
    /// is not asked, because a file is as right on a host without it.
    pub fn check(config: &VmConfig) -> Result<Checked, Failure> {
        host::check_memory(config).map_err(Failure::config)?;
        let mut checked = kernel(config)?;
        checked.credentials = credentials::find(config)?;
        shares::check(config)?;
        volumes::check(config)?;
        Ok(checked)
    }
}

/// A kernel and an initrd that can be booted, and the files of credentials.
#[derive(Debug)]
pub struct Checked {
    /// The kernel image.
    pub kernel: File,
    /// The initial RAM disk.
    pub initrd: Option<File>,
    /// Where they go.
    pub placement: Placement,
    /// The file of each credential, as [`credentials::find`] has found it.
    pub credentials: Vec<Option<Found>>,
}

/// The program that serves those shares of `config` that nobody else serves, if there are any.
pub fn virtiofsd(config: &VmConfig) -> Option<Result<Program, program::Error>> {
    if config.shares.iter().all(|share| share.source.is_none()) {
        return None;
    }
    let named = std::env::var_os("MINIVMM_VIRTIOFSD").map(PathBuf::from);
    Some(Program::find(named.as_deref()))
}

/// Opens the kernel and the initrd, and makes sure that they can be booted.
fn kernel(config: &VmConfig) -> Result<Checked, Failure> {
    let mut kernel = open("kernel.path", &config.kernel.path)?;
    let initrd = config.kernel.initrd.as_deref();
    let mut initrd = initrd.map(|path| open("kernel.initrd", path)).transpose()?;
    let payload = Payload {
        kernel: &mut kernel,
        entry: config.kernel.entry.into(),
        initrd: initrd.as_mut(),
        cmdline: &cmdline::build(config),
    };
    let placement = minivmm_boot::check(&layout::platform(config), payload).map_err(|error| {
        Failure::config(format!("{}{}", place(&error, config), with_causes(&error)))
    })?;
    Ok(Checked {
        kernel,
        initrd,
        placement,
        credentials: Vec::new(),
    })
}

/// The key, and the file, that an error is about.
fn place(error: &minivmm_boot::Error, config: &VmConfig) -> String {
    let Some(key) = boot_key(error) else {
        return String::new();
    };
    let file = match error {
        minivmm_boot::Error::Kernel(_) => Some(&config.kernel.path),
        minivmm_boot::Error::Initrd(_) => config.kernel.initrd.as_ref(),
        _ => None,
    };
    match file {
        Some(path) => format!("{key}: {}: ", path.display()),
        None => format!("{key}: "),
    }
}

/// Opens the file that `key` names.
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
    regular_file::open(path).map_err(failed)
}
