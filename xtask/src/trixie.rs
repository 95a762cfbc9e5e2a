//! Debian 13 (trixie), whichever Debian this machine has: the root of guests, and the lab's QEMU, by mmdebstrap.

use std::ffi::OsString;
use std::path::Path;

use anyhow::{Context, Result};

use crate::command::{capture, program};
use crate::{debian, image};

/// The distribution's name on the mirror.
const RELEASE: &str = "trixie";

/// What is on the mirror at this time. The file names the checksums of all lists of packages, and changes with each point
/// release.
pub fn release() -> Result<Vec<u8>> {
    debian::fetch(&format!("{}dists/{RELEASE}/Release", debian::mirror()?))
}

/// The same of the security updates, which changes with each of them.
pub fn security_release() -> Result<Vec<u8>> {
    let mirror = debian::security_mirror()?;
    debian::fetch(&format!("{mirror}dists/{RELEASE}-security/Release"))
}

/// Makes an archive of `packages` and all that they depend on, in one of mmdebstrap's variants and with further arguments.
pub fn archive(
    variant: &str,
    packages: &[&str],
    arguments: impl IntoIterator<Item = OsString>,
    archive: &Path,
) -> Result<()> {
    make(variant, packages, arguments, archive, &[source()?])
}

/// The same with security updates.
pub fn secure_archive(
    variant: &str,
    packages: &[&str],
    arguments: impl IntoIterator<Item = OsString>,
    archive: &Path,
) -> Result<()> {
    let mirror = debian::security_mirror()?;
    let security = format!("deb {mirror} {RELEASE}-security main");
    make(
        variant,
        packages,
        arguments,
        archive,
        &[source()?, security],
    )
}

/// The release as a line of apt's list of sources.
fn source() -> Result<String> {
    Ok(format!("deb {} {RELEASE} main", debian::mirror()?))
}

fn make(
    variant: &str,
    packages: &[&str],
    arguments: impl IntoIterator<Item = OsString>,
    archive: &Path,
    sources: &[String],
) -> Result<()> {
    let mut mmdebstrap = program("mmdebstrap");
    mmdebstrap
        .env("SOURCE_DATE_EPOCH", image::EPOCH.to_string())
        .args(["--quiet", "--format=tar"])
        .arg(format!("--variant={variant}"))
        .arg(format!("--include={}", packages.join(",")))
        .args(arguments);
    for setting in debian::fetch_settings()? {
        mmdebstrap.arg(format!("--aptopt={setting}"));
    }
    mmdebstrap.arg(RELEASE).arg(archive).args(sources);
    capture(&mut mmdebstrap).map(drop).context(
        "cannot make a Debian 13; if a signature cannot be checked, the package debian-archive-keyring is too old",
    )
}
