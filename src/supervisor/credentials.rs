//! The credentials of a VM, which are read once and kept for every run of it.

use std::{
    fs::File,
    io::{self, Read},
    os::fd::OwnedFd,
    path::{Path, PathBuf},
};

use minivmm_boot::smbios;
use minivmm_vmm::{VmConfig, config::Credential};

use super::locked::Locked;
use crate::{failure::Failure, regular_file, secrets};

/// The variable with the directory of those that have no path (systemd.exec(5), `LoadCredential=`).
const DIRECTORY: &str = "CREDENTIALS_DIRECTORY";

/// A credential's file.
#[derive(Debug)]
pub struct Found {
    file: File,
    size: usize,
}

/// Opens the file of each credential of `config`, and makes sure that all of them have room; `None` for one that only a
/// unit of systemd would have.
pub fn find(config: &VmConfig) -> Result<Vec<Option<Found>>, Failure> {
    let directory = std::env::var_os(DIRECTORY).map(PathBuf::from);
    find_in(config, directory.as_deref())
}

fn find_in(config: &VmConfig, directory: Option<&Path>) -> Result<Vec<Option<Found>>, Failure> {
    let all = config.credentials.iter();
    let found: Vec<_> = all
        .map(|credential| {
            let path = match (&credential.path, directory) {
                (Some(path), _) => path.clone(),
                (None, Some(directory)) => directory.join(&credential.name),
                (None, None) => return Ok(None),
            };
            Found::open(&path)
                .map(Some)
                .map_err(|error| failed(credential, &path, &error))
        })
        .collect::<Result<_, _>>()?;
    let size = |found: &Option<Found>| found.as_ref().map_or(0, |found| found.size);
    let sizes = config.credentials.iter().zip(&found);
    let sizes: Vec<_> = sizes
        .map(|(c, found)| (c.name.as_str(), size(found)))
        .collect();
    smbios::check_credentials(&config.smbios(), &sizes)
        .map_err(|error| Failure::config(format!("credentials: {error}")))?;
    Ok(found)
}

fn failed(credential: &Credential, path: &Path, error: &io::Error) -> Failure {
    let name = &credential.name;
    let (key, hint) = match (&credential.path, error.kind()) {
        (None, io::ErrorKind::NotFound) => (
            "name",
            format!(" (the unit needs LoadCredential={name}:FILE)"),
        ),
        (None, _) => ("name", String::new()),
        (Some(path), io::ErrorKind::NotFound) if path.is_relative() => (
            "path",
            " (relative paths are relative to the working directory)".to_owned(),
        ),
        (Some(_), _) => ("path", String::new()),
    };
    let path = path.display();
    Failure::config(format!(
        "credentials.{key}: credential `{name}`: {path}: {error}{hint}"
    ))
}

/// Said of a credential that [`find`] did not look for.
pub fn only_in_a_unit(credential: &Credential) -> String {
    let name = &credential.name;
    format!(
        "credential `{name}`: it has no path, and ${DIRECTORY} is not set: say `path`, or start the VM by a unit with \
         LoadCredential={name}:FILE"
    )
}

impl Found {
    fn open(path: &Path) -> io::Result<Self> {
        let file = regular_file::open(path)?;
        let size = usize::try_from(file.metadata()?.len()).unwrap_or(usize::MAX);
        Ok(Self { file, size })
    }

    fn read(mut self, to: &mut [u8]) -> io::Result<()> {
        let changed = || io::Error::other("the file has changed while it was read: try again");
        self.file
            .read_exact(to)
            .map_err(|error| match error.kind() {
                io::ErrorKind::UnexpectedEof => changed(),
                _ => error,
            })?;
        match self.file.read(&mut [0])? {
            0 => Ok(()),
            _ => Err(changed()),
        }
    }
}

/// What all credentials of a VM are, one behind the other.
#[derive(Debug)]
pub struct Credentials {
    bytes: Option<Locked>,
    sizes: Vec<usize>,
}

impl Credentials {
    /// Reads what [`find`] has found for `config`.
    pub fn read(config: &VmConfig, found: Vec<Option<Found>>) -> Result<Self, Failure> {
        let sizes: Vec<usize> = found.iter().flatten().map(|found| found.size).collect();
        let mut bytes = match sizes.iter().sum() {
            0 => None,
            size => Some(Locked::new(size).map_err(|error| {
                Failure::host(format!(
                    "no memory for {size} bytes of credentials: {error}"
                ))
            })?),
        };
        let mut rest = bytes.as_deref_mut().unwrap_or_default();
        for (credential, found) in config.credentials.iter().zip(found) {
            let Some(found) = found else {
                let why = only_in_a_unit(credential);
                return Err(Failure::config(format!("credentials.name: {why}")));
            };
            let (value, behind) = std::mem::take(&mut rest).split_at_mut(found.size);
            rest = behind;
            found.read(value).map_err(|error| {
                let name = &credential.name;
                Failure::config(format!("credentials: credential `{name}`: {error}"))
            })?;
        }
        Ok(Self { bytes, sizes })
    }

    /// What a VMM process gets of them, if there are any.
    pub fn to_send(&self) -> io::Result<Option<OwnedFd>> {
        if self.sizes.is_empty() {
            return Ok(None);
        }
        let mut rest = self.bytes.as_deref().unwrap_or_default();
        let values = self.sizes.iter().map(|size| {
            let (value, behind) = rest.split_at(*size);
            rest = behind;
            value
        });
        secrets::send(values).map(Some)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::fs;

    use super::*;

    fn config(sections: &str) -> VmConfig {
        VmConfig::from_toml(&format!("name = \"a\"\n[kernel]\npath = \"k\"\n{sections}")).unwrap()
    }

    fn section(name: &str, path: Option<&Path>) -> String {
        let path = path
            .map(|path| format!("path = {path:?}\n"))
            .unwrap_or_default();
        format!("[[credentials]]\nname = \"{name}\"\n{path}")
    }

    fn error(config: &VmConfig, directory: Option<&Path>) -> String {
        find_in(config, directory)
            .and_then(|found| Credentials::read(config, found))
            .unwrap_err()
            .to_string()
    }

    #[test]
    fn files_and_what_a_unit_has_arrive_as_they_are() {
        let directory = tempfile::tempdir().unwrap();
        let (file, empty) = (
            directory.path().join("file"),
            directory.path().join("empty"),
        );
        fs::write(&file, [0, 255, 10]).unwrap();
        fs::write(&empty, "").unwrap();
        fs::write(directory.path().join("loaded"), "from systemd").unwrap();
        let config = config(
            &[
                section("one", Some(&file)),
                section("none", Some(&empty)),
                section("loaded", None),
            ]
            .concat(),
        );
        let found = find_in(&config, Some(directory.path())).unwrap();
        let credentials = Credentials::read(&config, found).unwrap();
        // As at a restart.
        for _ in 0..2 {
            let fd = credentials.to_send().unwrap().unwrap();
            let received = secrets::receive(fd, &config.credentials).unwrap();
            let values: Vec<_> = received
                .iter()
                .map(|c| (c.name.as_str(), &c.value[..]))
                .collect();
            assert_eq!(
                values,
                [
                    ("one", &[0, 255, 10][..]),
                    ("none", b""),
                    ("loaded", b"from systemd")
                ]
            );
        }
    }

    #[test]
    fn what_cannot_be_read_is_said_with_what_to_do() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path();
        let gone = config(&section("a", Some(&path.join("gone"))));
        let said = error(&gone, None);
        assert!(
            said.starts_with("credentials.path: credential `a`: /"),
            "{said}"
        );
        assert!(said.contains("No such file"), "{said}");

        let said = error(&config(&section("a", Some(path))), None);
        assert!(said.ends_with("not a regular file"), "{said}");

        let unit = config(&section("a", None));
        for (directory, words) in [
            (
                None,
                "$CREDENTIALS_DIRECTORY is not set: say `path`, or start",
            ),
            (
                Some(path),
                "No such file or directory (os error 2) (the unit needs",
            ),
        ] {
            let said = error(&unit, directory);
            assert!(
                said.starts_with("credentials.name: credential `a`: "),
                "{said}"
            );
            assert!(
                said.contains(words) && said.contains("LoadCredential=a:FILE"),
                "{said}"
            );
        }
    }

    #[test]
    fn what_has_no_room_is_named_whatever_its_size() {
        let directory = tempfile::tempdir().unwrap();
        for (size, needed) in [(200_000, "26"), (1 << 40, "14660")] {
            let large = directory.path().join("large");
            File::create(&large).unwrap().set_len(size).unwrap();
            let said = error(&config(&section("big", Some(&large))), None);
            assert!(
                said.starts_with("credentials: the SMBIOS structures take "),
                "{said}"
            );
            assert!(said.contains(&format!("`big` ({needed}")), "{said}");
        }
    }

    #[test]
    fn a_file_that_grows_meanwhile_is_not_cut() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("file");
        for (before, after) in [("ab", "abc"), ("ab", "a")] {
            fs::write(&file, before).unwrap();
            let config = config(&section("a", Some(&file)));
            let found = find_in(&config, None).unwrap();
            fs::write(&file, after).unwrap();
            let said = Credentials::read(&config, found).unwrap_err().to_string();
            assert!(said.contains("has changed while"), "{said}");
        }
    }
}
