//! Finding virtiofsd, and telling it from its namesake.

use std::{
    env,
    ffi::OsStr,
    io::{self, Read},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{ChildStdout, Command, Stdio},
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::Access,
};

/// How long a program may take to say its version.
const VERSION_DEADLINE: Duration = Duration::from_secs(5);

/// Where distributions put it beside `$PATH`. The second one is, on Debian 12, QEMU's own virtiofsd.
const PLACES: [&str; 3] = [
    "/usr/libexec/virtiofsd",
    "/usr/lib/qemu/virtiofsd",
    "/usr/lib/virtiofsd",
];

/// A virtiofsd that can be run (<https://gitlab.com/virtio-fs/virtiofsd>).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Program {
    path: PathBuf,
    version: (u32, u32),
}

/// Why there is none.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It is nowhere.
    #[error(
        "virtiofsd not found: install the distribution's package `virtiofsd` or \
         `cargo install virtiofsd`, or name it with MINIVMM_VIRTIOFSD=PATH"
    )]
    NotFound,
    /// The C program that QEMU had until 8.0 takes other options.
    #[error(
        "{path:?} is QEMU's old C virtiofsd, whose options differ: install the one in Rust \
         (`cargo install virtiofsd`) and name it with MINIVMM_VIRTIOFSD=PATH"
    )]
    OldC {
        /// The program.
        path: PathBuf,
    },
    /// It does not say a version as virtiofsd does.
    #[error("{path:?} is not virtiofsd: `--version` says {said:?}")]
    Foreign {
        /// The program.
        path: PathBuf,
        /// The first line that it printed, in part.
        said: String,
    },
    /// It cannot be run at all.
    #[error(
        "cannot run virtiofsd {path:?}: {source}: install the distribution's package `virtiofsd` or \
         `cargo install virtiofsd`, or name another with MINIVMM_VIRTIOFSD=PATH"
    )]
    Run {
        /// The program.
        path: PathBuf,
        /// What happened.
        source: io::Error,
    },
}

impl Program {
    /// The virtiofsd at `explicit`; without it the one in `$PATH`, else where distributions put it.
    pub fn find(explicit: Option<&Path>) -> Result<Self, Error> {
        match explicit {
            Some(path) => Self::at(path),
            None => {
                let path = env::var_os("PATH").unwrap_or_default();
                Self::search(&path, &PLACES.map(Path::new))
            }
        }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its version, major and minor.
    pub fn version(&self) -> (u32, u32) {
        self.version
    }

    fn search(path: &OsStr, places: &[&Path]) -> Result<Self, Error> {
        let mut refused = None;
        for candidate in env::split_paths(path)
            // An empty entry, as the only one of an empty list, would be the working directory.
            .filter(|directory| directory.is_absolute())
            .map(|directory| directory.join("virtiofsd"))
            .chain(places.iter().map(|place| place.to_path_buf()))
            .filter(|candidate| is_executable(candidate))
        {
            match Self::at(&candidate) {
                Ok(program) => return Ok(program),
                Err(error) => refused = refused.or(Some(error)),
            }
        }
        Err(refused.unwrap_or(Error::NotFound))
    }

    fn at(path: &Path) -> Result<Self, Error> {
        let output = ask_version(path).map_err(|source| Error::Run {
            path: path.to_owned(),
            source,
        })?;
        let said = String::from_utf8_lossy(&output);
        let line = said.lines().next().unwrap_or_default();
        if line.starts_with("virtiofsd version ") || said.contains("FUSE kernel interface") {
            return Err(Error::OldC {
                path: path.to_owned(),
            });
        }
        let version = version(line).ok_or_else(|| Error::Foreign {
            path: path.to_owned(),
            said: line.chars().take(80).collect(),
        })?;
        Ok(Self {
            path: path.to_owned(),
            version,
        })
    }
}

/// What it prints for `--version`, as far as it does so in time; a Ctrl-C at the terminal is not for it.
fn ask_version(path: &Path) -> io::Result<Vec<u8>> {
    let mut child = Command::new(path)
        .arg("--version")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .process_group(0)
        .spawn()?;
    let said = match child.stdout.take() {
        Some(stdout) => read_in_time(stdout),
        None => Ok(Vec::new()),
    };
    // It has said what it had to say.
    child.kill()?;
    child.wait()?;
    said
}

/// Up to 4 KiB that come before the end or the deadline.
fn read_in_time(mut stdout: ChildStdout) -> io::Result<Vec<u8>> {
    let end = Instant::now() + VERSION_DEADLINE;
    let mut said = Vec::new();
    let mut buffer = [0; 1024];
    while said.len() < 4096 {
        let left = end.saturating_duration_since(Instant::now());
        let timeout = Timespec::try_from(left).map_err(io::Error::other)?;
        match poll(&mut [PollFd::new(&stdout, PollFlags::IN)], Some(&timeout)) {
            Ok(0) => {
                return Err(io::Error::new(
                    io::ErrorKind::TimedOut,
                    "it does not answer",
                ));
            }
            Ok(_) => match stdout.read(&mut buffer)? {
                0 => break,
                n => said.extend_from_slice(&buffer[..n]),
            },
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(said)
}

/// Reads "virtiofsd 1.14.0", or "virtiofsd backend 1.4.0" as it was called first.
fn version(line: &str) -> Option<(u32, u32)> {
    let numbers = line.strip_prefix("virtiofsd ")?;
    let numbers = numbers.strip_prefix("backend ").unwrap_or(numbers);
    let mut numbers = numbers.split('.').map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

fn is_executable(path: &Path) -> bool {
    path.is_file() && rustix::fs::access(path, Access::EXEC_OK).is_ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_program_that_does_not_answer_is_given_up() {
        let begin = Instant::now();
        let (stdout, _open) = io::pipe().unwrap();
        let stdout = ChildStdout::from(std::os::fd::OwnedFd::from(stdout));
        let error = read_in_time(stdout).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert!(begin.elapsed() >= VERSION_DEADLINE);
    }

    /// A script called virtiofsd that prints `text`, in a directory of its own below `root`.
    ///
    /// A shell writes it: a file that this process has open for writing at the moment when another
    /// test's thread forks could not be run (ETXTBSY).
    fn pretender(root: &Path, name: &str, text: &str) -> PathBuf {
        let path = root.join(name).join("virtiofsd");
        let made = Command::new("sh")
            .args(["-ec", "mkdir \"${1%/*}\"; printf '%s\\n' '#!/bin/sh' \"echo '$2'\" >\"$1\"; chmod 755 \"$1\"", "sh"])
            .arg(&path)
            .arg(text)
            .status();
        assert!(made.unwrap().success());
        path
    }

    #[test]
    fn a_named_program_is_asked_for_its_version() {
        let root = tempfile::tempdir().unwrap();
        let new = pretender(root.path(), "new", "virtiofsd 1.14.0");
        let program = Program::find(Some(&new)).unwrap();
        assert_eq!((program.path(), program.version()), (&*new, (1, 14)));
        let first = pretender(root.path(), "first", "virtiofsd backend 1.4.0");
        assert_eq!(Program::find(Some(&first)).unwrap().version(), (1, 4));
    }

    #[test]
    fn the_old_c_program_is_refused_and_passed_over() {
        let root = tempfile::tempdir().unwrap();
        let old = pretender(root.path(), "old", "virtiofsd version 7.2.0 (Debian)");
        let error = Program::find(Some(&old)).unwrap_err();
        assert!(error.to_string().contains("QEMU's old C virtiofsd"));
        let new = pretender(root.path(), "new", "virtiofsd 1.14.0");
        let path = env::join_paths([old.parent().unwrap()]).unwrap();
        assert_eq!(Program::search(&path, &[&new]).unwrap().path(), new);
        assert!(matches!(
            Program::search(&path, &[]),
            Err(Error::OldC { path }) if path == old
        ));
    }

    #[test]
    fn the_working_directory_is_not_searched() {
        let search = |path: &str| Program::search(OsStr::new(path), &[]);
        for path in ["", ":", ".", "./", "src/..", ":/nonexistent:"] {
            assert!(matches!(search(path), Err(Error::NotFound)), "{path}");
        }
    }

    #[test]
    fn another_program_is_refused_with_what_it_said() {
        let root = tempfile::tempdir().unwrap();
        let other = pretender(root.path(), "other", "hello");
        assert!(matches!(
            Program::find(Some(&other)),
            Err(Error::Foreign { said, .. }) if said == "hello"
        ));
    }

    #[test]
    fn none_at_all_says_how_to_get_one() {
        let nowhere = Path::new("/nonexistent/virtiofsd");
        let error = Program::search(OsStr::new("/nonexistent"), &[nowhere]).unwrap_err();
        assert!(error.to_string().contains("cargo install virtiofsd"));
        assert!(matches!(
            Program::find(Some(nowhere)),
            Err(Error::Run { .. })
        ));
    }
}
