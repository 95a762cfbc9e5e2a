//! Runs a command where KVM is able: here if `minivmm check` finds it so, else in *the lab*, a Debian kernel with
//! kvm-amd under QEMU's software CPU, over this machine's files.
//!
//! In the lab the command finds this machine's programs, files and checkout, and may write anywhere: what it writes
//! stays in the lab's RAM and is gone afterwards. `/scratch` (`MINIVMM_SCRATCH`) is an ext4 disk that is new for each
//! run, `/guest/debian` (`MINIVMM_GUEST_DEBIAN`) is the small Debian of [`guest`](crate::guest), read-only, and `/out`
//! leads back to the directory given as `--out`. Standard output and error come as one stream.

mod console;
mod hold;
mod l1;
mod machine;
mod qemu;

use std::ffi::OsString;
use std::fs;
use std::io::{self, IsTerminal, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::command::{Tied, exit_code, not_started, program, tie};
use crate::{guest, workspace};

pub use hold::hold_vm;

/// The exit code when the lab could not say how the command ended.
pub const NO_OUTCOME: u8 = 125;

/// A command for the lab.
#[derive(Debug)]
pub struct Job {
    /// The program and its arguments.
    pub command: Vec<OsString>,
    /// Variables set for it, besides PATH, HOME, and this process's own `MINIVMM_…`.
    pub environment: Vec<(String, OsString)>,
    /// Whether the lab is taken even where KVM here is able.
    pub force_lab: bool,
    /// The scratch disk's size in MiB.
    pub disk: u64,
    /// Whether the command finds the small Debian, if that has been made.
    pub debian: bool,
    /// A directory of this machine that the lab may write to, as `/out`.
    pub out: Option<PathBuf>,
    /// How long the lab may run.
    pub timeout: Duration,
}

impl Job {
    /// A job with the defaults of `cargo xtask lab`.
    pub fn new(command: Vec<OsString>) -> Self {
        Self {
            command,
            environment: Vec::new(),
            force_lab: false,
            disk: 8192,
            debian: true,
            out: None,
            timeout: Duration::from_secs(20 * 60),
        }
    }
}

/// Where a job can run.
#[derive(Debug, PartialEq, Eq)]
enum Place {
    Here,
    Lab { reason: String },
}

/// Runs `job`, says on standard error where, and passes its output on `to` there, or to standard output. Returns its exit
/// code.
pub fn run(job: &Job, to: Option<&mut dyn Write>) -> Result<u8> {
    match place(job)? {
        Place::Here => {
            eprintln!("lab: KVM here is able, running directly");
            run_here(job, to)
        }
        Place::Lab { reason } => {
            eprintln!("lab: KVM here is not able ({reason}), running under QEMU's software CPU");
            machine::run(job, to)
        }
    }
}

/// The image that `job` wants.
fn debian(job: &Job) -> Option<PathBuf> {
    job.debian.then(guest::debian_image).flatten()
}

/// Whether `job` runs in the lab and not directly.
pub fn is_needed(job: &Job) -> Result<bool> {
    Ok(place(job)? != Place::Here)
}

/// Asks `minivmm check`.
fn place(job: &Job) -> Result<Place> {
    if job.force_lab {
        return Ok(Place::Lab {
            reason: "--force-lab".to_owned(),
        });
    }
    let minivmm = workspace::minivmm();
    if !minivmm.exists() {
        let reason = format!("{} is not built yet", minivmm.display());
        return Ok(Place::Lab { reason });
    }
    let mut check = program(&minivmm);
    let output = check
        .arg("check")
        .output()
        .with_context(|| not_started(&check))?;
    if output.status.success() {
        return Ok(Place::Here);
    }
    // It ends with the obstacle, on standard error if it could not even look.
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    let reason = match said.lines().rfind(|line| !line.trim().is_empty()) {
        Some(line) => line.trim_start_matches("KVM is not able here: ").to_owned(),
        None => format!("minivmm check: {}", output.status),
    };
    Ok(Place::Lab { reason })
}

fn run_here(job: &Job, to: Option<&mut dyn Write>) -> Result<u8> {
    let [name, arguments @ ..] = job.command.as_slice() else {
        anyhow::bail!("no command was given");
    };
    let cache = workspace::cache();
    let scratch = fs::create_dir_all(&cache)
        .and_then(|()| {
            tempfile::Builder::new()
                .prefix("scratch-")
                .tempdir_in(&cache)
        })
        .context("cannot make a scratch directory")?;
    // Its own: what others leave in the machine's is not the command's doing.
    let temporary = scratch.path().join("tmp");
    fs::create_dir(&temporary)
        .and_then(|()| fs::set_permissions(&temporary, fs::Permissions::from_mode(0o1777)))
        .context("cannot make a directory for temporary files")?;
    let mut command = program(name);
    command
        .args(arguments)
        .env("MINIVMM_SCRATCH", scratch.path())
        .env("TMPDIR", &temporary)
        .envs(job.environment.iter().map(|(name, value)| (name, value)));
    if let Some(out) = &job.out {
        command.env("MINIVMM_OUT", out);
    }
    if let Some(image) = debian(job) {
        command.env("MINIVMM_GUEST_DEBIAN", guest::debian_unpacked(&image)?);
    }
    if to.is_some() {
        command.stdout(Stdio::piped());
    }
    let mut child = match tie(&mut command).spawn() {
        Ok(child) => Tied(child),
        Err(error) => {
            eprintln!("lab: cannot run {}: {error}", name.display());
            return Ok(127);
        }
    };
    if let (Some(to), Some(mut output)) = (to, child.0.stdout.take()) {
        io::copy(&mut output, to)?;
    }
    Ok(exit_code(child.0.wait()?))
}

/// Rows and columns, if standard output is a terminal.
fn terminal_size() -> Option<(u16, u16)> {
    let stdout = io::stdout();
    if !stdout.is_terminal() {
        return None;
    }
    let size = rustix::termios::tcgetwinsize(&stdout).ok()?;
    Some((size.ws_row, size.ws_col))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn a_command_that_runs_here_has_scratch_and_temporary_directories_of_its_own() {
        let script = "[ \"$TMPDIR\" = \"$MINIVMM_SCRATCH/tmp\" ] && [ -k \"$TMPDIR\" ] && exit 7";
        let mut job = Job::new(["sh", "-c", script].map(OsString::from).to_vec());
        job.debian = false;
        assert_eq!(run_here(&job, None).unwrap(), 7);
    }
}
