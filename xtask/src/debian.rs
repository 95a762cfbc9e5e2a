//! Debian packages as ingredients: found by `apt-cache`, downloaded by `apt-get` and unpacked, never installed.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow};

use crate::command::{capture, capture_text, is_root, program, run};
use crate::workspace;

/// A package in the version that apt would install.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Package {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// What it is for: `amd64`, or `all`.
    pub architecture: String,
    /// The packages that it needs, by name; of alternatives the first.
    pub depends: Vec<String>,
}

/// What apt knows of `names`; those that it does not know are left out.
pub fn known<'a>(names: impl IntoIterator<Item = &'a str>) -> Result<BTreeMap<String, Package>> {
    let mut show = program("apt-cache");
    show.args(["show", "--no-all-versions"]).args(names);
    // It fails if one name of many is unknown, and prints the others all the same.
    let output = show
        .output()
        .with_context(|| crate::command::not_started(&show))?;
    let text = String::from_utf8_lossy(&output.stdout);
    Ok(text
        .split("\n\n")
        .filter_map(parse)
        .map(|package| (package.name.clone(), package))
        .collect())
}

/// The first known one of each line of alternatives.
pub fn newest<const N: usize>(wanted: [&[&str]; N]) -> Result<[Package; N]> {
    let mut known = known(wanted.concat())?;
    let mut found = Vec::new();
    for names in wanted {
        let package = names.iter().find_map(|name| known.remove(*name));
        found.push(package.ok_or_else(|| {
            anyhow!(
                "apt knows no package {}: is this Debian, and was `apt-get update` run?",
                names.join(" or ")
            )
        })?);
    }
    found
        .try_into()
        .map_err(|_| anyhow!("one package for each line"))
}

/// The shared libraries' packages that `package` needs, with those that they need in turn.
pub fn libraries(package: &Package) -> Result<Vec<Package>> {
    let recursive = capture_text(program("apt-cache").args([
        "depends",
        "--recurse",
        "--no-recommends",
        "--no-suggests",
        "--no-conflicts",
        "--no-breaks",
        "--no-replaces",
        "--no-enhances",
        &package.name,
    ]))?;
    let names = recursive.lines().filter(|line| line.starts_with("lib"));
    let mut known = known(names)?;
    let mut libraries = Vec::new();
    let mut wanted = package.depends.clone();
    while let Some(name) = wanted.pop() {
        if let Some(library) = known.remove(&name) {
            wanted.extend(library.depends.iter().cloned());
            libraries.push(library);
        }
    }
    libraries.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(libraries)
}

/// Downloads `packages` and unpacks them into `root`. The downloads are kept for `user`, and those that `user` had
/// before and needs no more are removed.
pub fn unpack(user: &str, packages: &[Package], root: &Path) -> Result<()> {
    let store = workspace::cache().join("deb").join(user);
    fs::create_dir_all(&store)?;
    let files: Vec<PathBuf> = packages
        .iter()
        .map(|package| store.join(file(package)))
        .collect();
    for entry in fs::read_dir(&store)? {
        let path = entry?.path();
        if path.is_file() && !files.contains(&path) {
            fs::remove_file(path)?;
        }
    }
    let missing: Vec<&Package> = packages
        .iter()
        .zip(&files)
        .filter(|(_, file)| !file.exists() && !share(file))
        .map(|(package, _)| package)
        .collect();
    if !missing.is_empty() {
        download(&missing, &store)?;
    }
    for file in files {
        run(program("dpkg-deb").arg("--extract").args([&file, root]))?;
    }
    Ok(())
}

/// Takes `file` from another user's downloads, if one has it.
fn share(file: &Path) -> bool {
    let (Some(name), Ok(users)) = (
        file.file_name(),
        fs::read_dir(workspace::cache().join("deb")),
    ) else {
        return false;
    };
    users
        .flatten()
        .any(|user| fs::hard_link(user.path().join(name), file).is_ok())
}

fn download(packages: &[&Package], store: &Path) -> Result<()> {
    let incoming = tempfile::tempdir_in(store)?;
    let get = || {
        let mut get = program("apt-get");
        get.current_dir(incoming.path())
            // The directory is not one that apt's own user could write to.
            .args(["--quiet", "-o", "APT::Sandbox::User=root", "download"])
            .args(
                packages
                    .iter()
                    .map(|package| format!("{}={}", package.name, package.version)),
            );
        capture(&mut get).map(drop)
    };
    if let Err(error) = get() {
        if !is_root() {
            return Err(error.context("does `apt-get update` help?"));
        }
        // The lists may be older than the last security update, which took the packages that they name away.
        update_lists()?;
        get()?;
    }
    for package in packages {
        let file = file(package);
        fs::rename(incoming.path().join(&file), store.join(&file))
            .with_context(|| format!("apt-get did not download {file}"))?;
    }
    Ok(())
}

/// Fetches apt's package lists.
pub fn update_lists() -> Result<()> {
    capture(program("apt-get").args(["--quiet", "update"])).map(drop)
}

/// The address of the mirror from which apt has this machine's Debian.
pub fn mirror() -> Result<String> {
    mirror_of("Debian")
}

/// The address of the mirror from which it has its security updates.
pub fn security_mirror() -> Result<String> {
    mirror_of("Debian-Security")
}

fn mirror_of(label: &str) -> Result<String> {
    let targets = capture_text(program("apt-get").args([
        "indextargets",
        "--format",
        "$(ORIGIN) $(LABEL) $(COMPONENT) $(REPO_URI)",
        "Created-By: Packages",
    ]))?;
    targets
        .lines()
        .find_map(|line| line.strip_prefix(&format!("Debian {label} main ")))
        .map(str::to_owned)
        .ok_or_else(|| anyhow!("apt knows no mirror of {label}: was `apt-get update` run?"))
}

/// The content of a file on a mirror.
pub fn fetch(address: &str) -> Result<Vec<u8>> {
    let store = workspace::cache();
    fs::create_dir_all(&store)?;
    let incoming = tempfile::tempdir_in(store)?;
    let file = incoming.path().join("file");
    capture(
        program("/usr/lib/apt/apt-helper")
            .args(["-o", "APT::Sandbox::User=root", "download-file", address])
            .arg(&file),
    )?;
    fs::read(&file).with_context(|| format!("cannot read what came from {address}"))
}

/// This machine's settings for fetching from mirrors, such as a proxy, as lines of apt.conf.
pub fn fetch_settings() -> Result<Vec<String>> {
    const KINDS: [&str; 3] = ["Acquire::Check-", "Acquire::http", "Acquire::Force"];
    let settings = capture_text(program("apt-config").args(["dump", "Acquire"]))?;
    Ok(settings
        .lines()
        .filter(|line| KINDS.iter().any(|kind| line.starts_with(kind)))
        .map(str::to_owned)
        .collect())
}

/// The name that `apt-get download` gives a package's file.
fn file(package: &Package) -> String {
    format!(
        "{}_{}_{}.deb",
        package.name,
        package.version.replace(':', "%3a"),
        package.architecture
    )
}

/// One record of `apt-cache show`.
fn parse(record: &str) -> Option<Package> {
    let field = |name: &str| {
        record
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
    };
    let depends = [field("Pre-Depends"), field("Depends")]
        .into_iter()
        .flatten()
        .flat_map(|list| list.split(','))
        .filter_map(|alternatives| {
            let name = alternatives.split(['|', '(', ':']).next()?.trim();
            (!name.is_empty()).then(|| name.to_owned())
        })
        .collect();
    Some(Package {
        name: field("Package")?.to_owned(),
        version: field("Version")?.to_owned(),
        architecture: field("Architecture")?.to_owned(),
        depends,
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    const RECORD: &str = "\
Package: libsystemd0
Source: systemd
Version: 252.39-1~deb12u1
Architecture: amd64
Pre-Depends: libc6 (>= 2.36), libcap2 (>= 1:2.10)
Depends: libfirst | libsecond, python3:any
Description: not a dependency, libx
";

    #[test]
    fn a_record_gives_name_version_and_the_first_of_each_alternatives() {
        let package = parse(RECORD).unwrap();
        assert_eq!(package.name, "libsystemd0");
        assert_eq!(package.version, "252.39-1~deb12u1");
        assert_eq!(package.architecture, "amd64");
        assert_eq!(package.depends, ["libc6", "libcap2", "libfirst", "python3"]);
    }

    #[test]
    fn an_epoch_is_escaped_in_the_file_name() {
        let package = Package {
            name: "busybox-static".to_owned(),
            version: "1:1.35.0-4".to_owned(),
            architecture: "amd64".to_owned(),
            depends: Vec::new(),
        };
        assert_eq!(file(&package), "busybox-static_1%3a1.35.0-4_amd64.deb");
    }

    #[test]
    fn a_package_for_all_machines_has_that_in_its_file_name() {
        let record = RECORD.replace("amd64", "all");
        let package = parse(&record).unwrap();
        assert_eq!(file(&package), "libsystemd0_252.39-1~deb12u1_all.deb");
    }

    #[test]
    fn text_without_a_package_is_no_record() {
        assert_eq!(parse(""), None);
        assert_eq!(parse("Version: 1"), None);
    }
}
