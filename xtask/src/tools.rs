//! Programs that the tests and the demo need beside Rust: Debian packages, and virtiofsd from its crate.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};

use crate::command::{capture, cargo, is_root, program, quiet_in_a_pipe, run};
use crate::{debian, workspace};

/// Debian packages, and what they are for.
const PACKAGES: &[(&str, &str)] = &[
    ("e2fsprogs", "the lab's scratch disk"),
    ("kmod", "which module needs which"),
    ("xz-utils", "kernels, and modules in .ko.xz"),
    ("lz4", "kernels"),
    ("zstd", "kernels, and modules in .ko.zst"),
    (
        "mmdebstrap",
        "the root of guests with systemd, and the lab's QEMU",
    ),
    ("uidmap", "mmdebstrap, where it is not run by root"),
    ("debian-archive-keyring", "what that root is signed with"),
    ("squashfs-tools-ng", "that root as one image"),
    ("iproute2", "network namespaces and taps"),
    ("bind9-dnsutils", "dig"),
    (
        "systemd",
        "PID 1 of hosts in tests, and the check of the units",
    ),
    ("openssh-client", "minivmm ssh in tests"),
    ("strace", "counting system calls"),
    ("python3", "programs with a terminal or a socket in tests"),
    ("acpica-tools", "iasl reads the ACPI tables in tests"),
    ("dmidecode", "reads the SMBIOS tables in tests"),
    ("nix-bin", "evaluating and building the Nix side"),
    ("shellcheck", "the scripts that it makes"),
    ("g++", "building libFuzzer"),
    ("libcap-ng-dev", "building virtiofsd"),
    ("libseccomp-dev", "building virtiofsd"),
];

/// What only those need who make images of service VMs, beside those.
const FOR_IMAGES: &[(&str, &str)] = &[("erofs-utils", "images of service VMs")];
/// What only those need who build the kernel of service VMs, beside those.
const FOR_KERNEL: &[(&str, &str)] = &[
    ("make", "the kernel of service VMs"),
    ("gcc", "the kernel of service VMs"),
    ("gcc-12-plugin-dev", "plugins of its compiler"),
    ("flex", "the kernel of service VMs"),
    ("bison", "the kernel of service VMs"),
    ("bc", "the kernel of service VMs"),
    ("libelf-dev", "the kernel's objtool"),
];

/// Debian 12 has only the older one that was part of QEMU.
const VIRTIOFSD_VERSION: &str = "1.14.0";

const CARGO_DENY_VERSION: &str = "0.20.2";

const NIXFMT_VERSION: &str = "0.5.3";

const DEADNIX_VERSION: &str = "1.3.1";

/// Installs the Debian packages that are missing, and fetches apt's lists if there are none: guests are made from
/// packages that they name.
pub fn packages() -> Result<()> {
    install(PACKAGES)
}

/// As [`packages`], with what images of service VMs need.
pub fn for_images() -> Result<()> {
    packages()?;
    install(FOR_IMAGES)
}

/// As [`packages`], with what the kernel of service VMs needs.
pub fn for_kernel() -> Result<()> {
    packages()?;
    install(FOR_KERNEL)
}

/// Installs npm if there is none. It is no package of every machine that has it.
pub fn npm() -> Result<()> {
    match capture(program("npm").arg("--version")) {
        Ok(_) => Ok(()),
        Err(_) => install(&[("npm", "the packages of Actual Budget")]),
    }
}

fn install(packages: &[(&'static str, &'static str)]) -> Result<()> {
    let missing = missing(packages)?;
    if missing.is_empty() {
        return match !has_lists() && is_root() {
            true => debian::update_lists(),
            false => Ok(()),
        };
    }
    if !is_root() {
        let what: Vec<_> = missing
            .iter()
            .map(|(name, purpose)| format!("{name} ({purpose})"))
            .collect();
        let names: Vec<_> = missing.iter().map(|(name, _)| *name).collect();
        bail!(
            "these Debian packages are missing: {}; run\n  sudo apt-get install --no-install-recommends {}",
            what.join(", "),
            names.join(" ")
        );
    }
    let install = || {
        let mut install = program("apt-get");
        install
            .env("DEBIAN_FRONTEND", "noninteractive")
            .args(["--quiet", "--yes", "--no-install-recommends", "install"])
            .args(missing.iter().map(|(name, _)| name));
        capture(&mut install).map(drop)
    };
    if !has_lists() {
        debian::update_lists()?;
    } else if install().is_ok() {
        return Ok(());
    } else {
        // The lists may be older than the last security update, which took the packages that they name away.
        debian::update_lists()?;
    }
    install()
}

fn missing(packages: &[(&'static str, &'static str)]) -> Result<Vec<(&'static str, &'static str)>> {
    let mut query = program("dpkg-query");
    query
        .args(["--show", "--showformat=${Package} ${db:Status-Status}\n"])
        .args(packages.iter().map(|(name, _)| name));
    // It fails if it does not know one of the names, and prints the others all the same.
    let output = query
        .output()
        .context("cannot run dpkg-query: is this Debian?")?;
    let known = String::from_utf8_lossy(&output.stdout);
    let is_installed = |name: &str| {
        known
            .lines()
            .any(|line| line.split_once(' ') == Some((name, "installed")))
    };
    Ok(packages
        .iter()
        .copied()
        .filter(|(name, _)| !is_installed(name))
        .collect())
}

/// Whether apt has any package lists: images for containers come without.
fn has_lists() -> bool {
    fs::read_dir("/var/lib/apt/lists").is_ok_and(|mut entries| {
        entries.any(|entry| {
            entry.is_ok_and(|entry| entry.file_name().to_string_lossy().contains("_Packages"))
        })
    })
}

/// The path of virtiofsd, built if it is not there.
pub fn virtiofsd() -> Result<PathBuf> {
    from_crate("virtiofsd", VIRTIOFSD_VERSION, "virtiofsd")
}

/// The path of cargo-deny, built if it is not there: two minutes on two cores.
pub fn cargo_deny() -> Result<PathBuf> {
    from_crate("cargo-deny", CARGO_DENY_VERSION, "cargo-deny")
}

/// The path of nixfmt, which checks the format of Nix files, built if it is not there.
pub fn nixfmt() -> Result<PathBuf> {
    from_crate("nixfmt_rs", NIXFMT_VERSION, "nixfmt")
}

/// The path of deadnix, which finds names in Nix files that nothing uses, built if it is not there.
pub fn deadnix() -> Result<PathBuf> {
    from_crate("deadnix", DEADNIX_VERSION, "deadnix")
}

/// The program called `program` of a crate, built if it is not there. Other versions of it are removed then.
fn from_crate(name: &str, version: &str, program: &str) -> Result<PathBuf> {
    let tools = workspace::cache().join("tools");
    let root = tools.join(format!("{name}-{version}"));
    let program = root.join("bin").join(program);
    if program.exists() {
        return Ok(program);
    }
    // Kept until it is done, so that an interrupted build goes on where it was.
    let build = tools.join(format!("{name}-build"));
    let mut install = cargo();
    install
        .env("CARGO_TARGET_DIR", &build)
        .args(["install", "--locked", name, "--version", version, "--root"])
        .arg(&root);
    run(quiet_in_a_pipe(&mut install))?;
    for entry in fs::read_dir(&tools)? {
        let path = entry?.path();
        let file = path.file_name().unwrap_or_default().to_string_lossy();
        let is_of_crate = file
            .strip_prefix(name)
            .is_some_and(|rest| rest.starts_with('-'));
        if is_of_crate && path != root {
            fs::remove_dir_all(path)?;
        }
    }
    Ok(program)
}
