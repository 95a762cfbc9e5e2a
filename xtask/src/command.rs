//! Runs other programs.

use std::env;
use std::ffi::OsStr;
use std::io::{self, IsTerminal};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitStatus, Output, Stdio};

use anyhow::{Context, Result, bail};
use rustix::process::{Signal, getpid, getppid, set_parent_process_death_signal};

/// A command for `program`. Administrators' directories are looked in as well: Debian leaves them out of the PATH of
/// ordinary users, who may well run `depmod` or `mkfs.ext4` on files of their own.
pub fn program(program: impl AsRef<OsStr>) -> Command {
    let mut path = env::var_os("PATH").unwrap_or_default();
    path.push(":/usr/local/sbin:/usr/sbin:/sbin");
    let mut command = Command::new(program);
    command.env("PATH", path).stdin(Stdio::null());
    command
}

/// Cargo, the one that runs this if any.
pub fn cargo() -> Command {
    let mut command = program(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(crate::workspace::root());
    command
}

/// On a terminal cargo shows a bar and what it does; in a log that is a line for each of hundreds of crates.
pub fn quiet_in_a_pipe(cargo: &mut Command) -> &mut Command {
    if !io::stderr().is_terminal() {
        cargo.arg("--quiet");
    }
    cargo
}

/// Runs `command` with this process's standard output and error; any exit code but 0 is an error.
pub fn run(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| not_started(command))?;
    if !status.success() {
        bail!("{} failed: {status}", name(command));
    }
    Ok(())
}

/// Runs `command` and returns what it printed on standard output. What it printed on standard error is in the error
/// if it fails, and dropped otherwise.
pub fn capture(command: &mut Command) -> Result<Vec<u8>> {
    let Output {
        status,
        stdout,
        stderr,
    } = command.output().with_context(|| not_started(command))?;
    if !status.success() {
        let said = String::from_utf8_lossy(&stderr);
        bail!("{} failed: {status}\n{}", name(command), said.trim_end());
    }
    Ok(stdout)
}

/// As [`capture`], for text.
pub fn capture_text(command: &mut Command) -> Result<String> {
    String::from_utf8(capture(command)?)
        .with_context(|| format!("{} printed what is not UTF-8", name(command)))
}

/// The exit code that a shell would give: 128 and the signal's number for a process that a signal ended.
pub fn exit_code(status: ExitStatus) -> u8 {
    let code = status
        .code()
        .or_else(|| status.signal().map(|signal| 128 + signal));
    code.and_then(|code| u8::try_from(code).ok()).unwrap_or(255)
}

/// The program's name, for messages.
pub fn name(command: &Command) -> String {
    command.get_program().to_string_lossy().into_owned()
}

/// What to say of a command that could not even be started.
pub fn not_started(command: &Command) -> String {
    format!(
        "cannot run {}; `cargo xtask tools` installs what is needed",
        name(command)
    )
}

/// Asks the kernel to kill the command's process when the thread that starts it ends, however that ends.
#[allow(unsafe_code)]
pub fn tie(command: &mut Command) -> &mut Command {
    let parent = getpid();
    let tie = move || {
        set_parent_process_death_signal(Some(Signal::KILL))?;
        if getppid() != Some(parent) {
            return Err(io::ErrorKind::Interrupted.into());
        }
        Ok(())
    };
    // SAFETY: between fork and exec this makes two system calls and neither allocates nor locks.
    unsafe { command.pre_exec(tie) }
}

/// A process that is killed, and waited for, when this value goes.
#[derive(Debug)]
pub struct Tied(pub Child);

impl Tied {
    /// Starts `command` with its life bound to this value's, and to this thread's.
    pub fn start(command: &mut Command) -> Result<Self> {
        let child = tie(command).spawn().with_context(|| not_started(command))?;
        Ok(Self(child))
    }
}

impl Drop for Tied {
    fn drop(&mut self) {
        // Both fail only for a process that has been waited for already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Whether this process is root's.
pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}
