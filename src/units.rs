//! The systemd units that minivmm brings along, and where they go.

use std::{
    fs,
    io::{self, ErrorKind},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use crate::failure::Failure;

/// What a file of ours begins with; one without it is somebody else's.
const MARK: &str = "# Installed by `minivmm install-units`";
/// What stands for the program's path.
const PROGRAM: &str = "@minivmm@";

/// A file, by its name.
#[derive(Debug)]
pub struct UnitFile {
    /// `minivmm@.service`, …
    pub name: &'static str,
    text: &'static str,
    /// A drop-in for one VM is not installed: who wants it prints it where it belongs.
    drop_in: bool,
}

/// All of them.
pub const FILES: [UnitFile; 4] = [
    UnitFile {
        name: "minivmm@.service",
        text: include_str!("../units/minivmm@.service"),
        drop_in: false,
    },
    UnitFile {
        name: "minivmm.target",
        text: include_str!("../units/minivmm.target"),
        drop_in: false,
    },
    UnitFile {
        name: "strict.conf",
        text: include_str!("../units/strict.conf"),
        drop_in: true,
    },
    UnitFile {
        name: "unprivileged.conf",
        text: include_str!("../units/unprivileged.conf"),
        drop_in: true,
    },
];

impl UnitFile {
    /// Its content, for the minivmm at `program`.
    pub fn text(&self, program: &str) -> String {
        self.text.replace(PROGRAM, program)
    }
}

/// What was done with a file.
#[derive(Debug, PartialEq, Eq)]
pub enum Done {
    /// It is new, or was replaced.
    Written(PathBuf),
    /// It was as it should be.
    Unchanged(PathBuf),
    /// It is gone.
    Removed(PathBuf),
}

/// A directory of systemd units.
#[derive(Debug)]
pub struct Units {
    root: PathBuf,
    directory: PathBuf,
}

impl Units {
    /// `PREFIX/lib/systemd/system` below `root`.
    pub fn new(root: &Path, prefix: &Path) -> Self {
        Self {
            root: root.to_owned(),
            directory: below(root, prefix).join("lib/systemd/system"),
        }
    }

    /// The path of `program` as it will be called: without the root, if it lies in that.
    pub fn program(&self, program: &Path) -> Result<String, Failure> {
        let inside = match self.root == Path::new("/") {
            true => None,
            false => program.strip_prefix(&self.root).ok(),
        };
        let path = inside.map_or_else(|| program.to_owned(), |inside| Path::new("/").join(inside));
        let plain = |c: char| c.is_ascii_alphanumeric() || "/._+@-".contains(c);
        match path.to_str() {
            Some(text) if text.chars().all(plain) => Ok(text.to_owned()),
            _ => Err(Failure::config(format!(
                "{}: a unit cannot name this program: put it where its path has only letters, digits and /._+@-",
                path.display()
            ))),
        }
    }

    /// Puts the units there, for the minivmm at `program`.
    pub fn install(&self, program: &str) -> Result<Vec<Done>, Failure> {
        fs::create_dir_all(&self.directory).map_err(|e| failed("make", &self.directory, &e))?;
        self.each(|path, file| {
            let text = file.text(program);
            match fs::read_to_string(&path) {
                Ok(old) if old == text => return Ok(Some(Done::Unchanged(path))),
                Ok(old) if !old.starts_with(MARK) => return Err(not_ours(&path)),
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => return Err(failed("read", &path, &error)),
            }
            // Whoever reads it meanwhile sees the old one or the new one.
            let new = path.with_extension("new");
            fs::write(&new, text)
                .and_then(|()| fs::set_permissions(&new, fs::Permissions::from_mode(0o644)))
                .and_then(|()| fs::rename(&new, &path))
                .map_err(|error| failed("write", &path, &error))?;
            Ok(Some(Done::Written(path)))
        })
    }

    /// Takes them away.
    pub fn uninstall(&self) -> Result<Vec<Done>, Failure> {
        self.each(|path, _| {
            match fs::read_to_string(&path) {
                Ok(old) if !old.starts_with(MARK) => return Err(not_ours(&path)),
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
                Err(error) => return Err(failed("read", &path, &error)),
            }
            fs::remove_file(&path).map_err(|error| failed("remove", &path, &error))?;
            Ok(Some(Done::Removed(path)))
        })
    }

    fn each(
        &self,
        act: impl Fn(PathBuf, &UnitFile) -> Result<Option<Done>, Failure>,
    ) -> Result<Vec<Done>, Failure> {
        let units = FILES.iter().filter(|file| !file.drop_in);
        units
            .filter_map(|file| act(self.directory.join(file.name), file).transpose())
            .collect()
    }
}

/// `path` seen from `root`.
fn below(root: &Path, path: &Path) -> PathBuf {
    root.join(path.strip_prefix("/").unwrap_or(path))
}

fn not_ours(path: &Path) -> Failure {
    Failure::config(format!(
        "{}: this file was not made by `minivmm install-units`, and is left alone: move it away first",
        path.display()
    ))
}

fn failed(what: &str, path: &Path, error: &io::Error) -> Failure {
    let hint = match error.kind() {
        ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => {
            ": run it as root, or name another place with --root or --prefix"
        }
        _ => "",
    };
    Failure::config(format!("cannot {what} {}: {error}{hint}", path.display()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::process::Command;

    use super::*;

    fn units(root: &Path) -> Units {
        Units::new(root, Path::new("/usr/local"))
    }

    #[test]
    fn installed_twice_nothing_changes_and_uninstalled_nothing_is_left() {
        let root = tempfile::tempdir().unwrap();
        let units = units(root.path());
        let done = units.install("/usr/bin/minivmm").unwrap();
        assert!(
            done.iter().all(|d| matches!(d, Done::Written(_))),
            "{done:?}"
        );
        let directory = root.path().join("usr/local/lib/systemd/system");
        let service = fs::read_to_string(directory.join("minivmm@.service")).unwrap();
        assert!(service.contains("ExecStart=/usr/bin/minivmm run --config /etc/minivmm/%i.toml\n"));
        assert!(!service.contains(PROGRAM));
        let done = units.install("/usr/bin/minivmm").unwrap();
        assert!(
            done.iter().all(|d| matches!(d, Done::Unchanged(_))),
            "{done:?}"
        );
        let done = units.install("/opt/minivmm").unwrap();
        assert!(matches!(&done[0], Done::Written(_)), "{done:?}");
        assert_eq!(units.uninstall().unwrap().len(), 2);
        assert!(units.uninstall().unwrap().is_empty());
        assert_eq!(fs::read_dir(directory).unwrap().count(), 0);
    }

    #[test]
    fn a_file_of_somebody_elses_is_left_alone() {
        let root = tempfile::tempdir().unwrap();
        let units = units(root.path());
        units.install("/usr/bin/minivmm").unwrap();
        let target = root
            .path()
            .join("usr/local/lib/systemd/system/minivmm.target");
        fs::write(&target, "[Unit]\n").unwrap();
        let refused = units.install("/usr/bin/minivmm").unwrap_err().to_string();
        assert!(refused.contains("move it away first"), "{refused}");
        assert!(units.uninstall().is_err());
        assert_eq!(fs::read_to_string(target).unwrap(), "[Unit]\n");
    }

    #[test]
    fn the_program_is_called_by_the_path_that_it_will_have() {
        let package = Units::new(Path::new("/build/image"), Path::new("/usr"));
        let path =
            |units: &Units, path: &str| units.program(Path::new(path)).map_err(|e| e.to_string());
        assert_eq!(
            path(&package, "/build/image/usr/bin/minivmm").unwrap(),
            "/usr/bin/minivmm"
        );
        assert_eq!(
            path(&package, "/usr/bin/minivmm").unwrap(),
            "/usr/bin/minivmm"
        );
        let host = Units::new(Path::new("/"), Path::new("/usr/local"));
        assert_eq!(
            path(&host, "/opt/x-1.0/minivmm").unwrap(),
            "/opt/x-1.0/minivmm"
        );
        for bad in [
            "/opt/my programs/minivmm",
            "/opt/%i/minivmm",
            "/opt/\"/minivmm",
        ] {
            assert!(
                path(&host, bad)
                    .unwrap_err()
                    .contains("cannot name this program")
            );
        }
    }

    #[test]
    fn systemd_finds_nothing_wrong_with_the_units_and_their_drop_ins() {
        let root = tempfile::tempdir().unwrap();
        let units = units(root.path());
        units.install("/bin/true").unwrap();
        let directory = root.path().join("usr/local/lib/systemd/system");
        let service = directory.join("minivmm@a.service");
        fs::copy(directory.join("minivmm@.service"), &service).unwrap();
        for file in FILES.iter().filter(|file| file.drop_in) {
            let drop_ins = directory.join("minivmm@a.service.d");
            fs::create_dir_all(&drop_ins).unwrap();
            fs::write(drop_ins.join(file.name), file.text("/bin/true")).unwrap();
        }
        let verified = Command::new("systemd-analyze")
            .args(["verify", "--man=no", "--recursive-errors=no"])
            .args([service, directory.join("minivmm.target")])
            .output()
            .expect("systemd-analyze is one of the tools of docs/testing.md");
        let said = String::from_utf8_lossy(&verified.stderr);
        assert!(
            verified.status.success() && !said.contains("minivmm"),
            "{said}"
        );
    }
}
