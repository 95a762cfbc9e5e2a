//! Several VMs at a time, with a kernel of our own that only sleeps; started, asked and ended by the program's verbs.

use std::{
    fs,
    os::unix::fs::{PermissionsExt, chown},
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use serde_json::Value;
use tempfile::TempDir;

use crate::{
    tiny::{self, Last},
    vm::{self, PATIENCE},
};

/// MiB of each VM.
pub const MEMORY: u64 = 64;

/// A directory with configurations, where runtime directories and logs are as well.
pub struct Fleet {
    directory: TempDir,
    program: PathBuf,
    /// Who starts and asks; root if nobody else.
    user: Option<u32>,
}

impl Fleet {
    /// Of root's.
    pub fn new() -> Result<Self> {
        let directory = vm::directory()?;
        fs::write(directory.path().join("kernel"), tiny::kernel(Last::Idle)?)?;
        fs::create_dir(directory.path().join("run"))?;
        Ok(Self {
            directory,
            program: vm::program(),
            user: None,
        })
    }

    /// Of an ordinary user's, whose own directories are in this one.
    pub fn of_user(user: u32) -> Result<Self> {
        let mut fleet = Self::new()?;
        let program = fleet.path("minivmm");
        fs::copy(&fleet.program, &program)?;
        fleet.program = program;
        fleet.user = Some(user);
        // The program is for everybody, the sockets are not.
        fs::set_permissions(fleet.path(""), fs::Permissions::from_mode(0o711))?;
        fs::set_permissions(fleet.path("run"), fs::Permissions::from_mode(0o700))?;
        for path in [fleet.path("run"), fleet.path("kernel"), fleet.path("")] {
            chown(path, Some(user), Some(user))?;
        }
        Ok(fleet)
    }

    /// A file in it.
    pub fn path(&self, name: &str) -> PathBuf {
        match name {
            "" => self.directory.path().to_owned(),
            name => self.directory.path().join(name),
        }
    }

    /// Where the VM called `name` has its socket and its lock.
    pub fn runtime_dir(&self, name: &str) -> PathBuf {
        match self.user {
            None => self.path("run").join(name),
            Some(_) => self.path("run/minivmm").join(name),
        }
    }

    /// Writes the configuration of the VM called `name`, with `more` at its end, and gives its file's name.
    pub fn config(&self, name: &str, more: &str) -> Result<String> {
        let file = format!("{name}.toml");
        let text = format!(
            "name = \"{name}\"\nvcpu = 1\nmem = {MEMORY}\n[kernel]\npath = {:?}\n{more}",
            self.path("kernel")
        );
        fs::write(self.path(&file), text)?;
        Ok(file)
    }

    /// `minivmm` with `words`, by who owns the VMs.
    pub fn command(&self, words: &[&str]) -> Command {
        let mut command = match self.user {
            None => {
                let mut command = Command::new(&self.program);
                command.env("MINIVMM_RUNTIME_ROOT", self.path("run"));
                command
            }
            Some(user) => {
                let mut command = by(user, &self.program);
                command
                    .env_remove("MINIVMM_RUNTIME_ROOT")
                    .env("XDG_RUNTIME_DIR", self.path("run"))
                    .env("XDG_STATE_HOME", self.path("state"))
                    .env("XDG_CONFIG_HOME", self.path("config"));
                command
            }
        };
        command
            .args(words)
            .current_dir(self.path(""))
            .env("MINIVMM_LOG_DIR", self.path("logs"))
            .stdin(Stdio::null());
        command
    }

    /// Runs it to its end.
    pub fn ask(&self, words: &[&str]) -> Result<Output> {
        self.command(words).output().context("cannot start minivmm")
    }

    /// The same; its exit code is to be `code`. Gives standard output and standard error.
    pub fn says(&self, code: i32, words: &[&str]) -> Result<[String; 2]> {
        let said = self.ask(words)?;
        let texts = [&said.stdout, &said.stderr].map(|text| String::from_utf8_lossy(text).into());
        ensure!(
            said.status.code() == Some(code),
            "minivmm {}: {} instead of {code}: {texts:?}",
            words.join(" "),
            said.status
        );
        Ok(texts)
    }

    /// What `words` print as JSON.
    pub fn json(&self, words: &[&str]) -> Result<Value> {
        let [said, _] = self.says(0, words)?;
        Ok(serde_json::from_str(&said)?)
    }

    /// Starts the VM called `name`.
    pub fn start(&self, name: &str) -> Result<()> {
        self.says(0, &["start", "--config", &format!("{name}.toml")])?;
        Ok(())
    }

    /// The status of the VM called `name`.
    pub fn status(&self, name: &str) -> Result<Value> {
        self.json(&["status", name, "--json"])
    }

    /// The supervisor of the VM called `name`.
    pub fn pid(&self, name: &str) -> Result<Pid> {
        let lock = fs::read_to_string(self.runtime_dir(name).join("lock"))?;
        Pid::from_raw(lock.trim().parse()?).context("no process has the lock")
    }
}

/// `program` as the user `user`, in the group that may open /dev/kvm.
pub fn by(user: u32, program: &Path) -> Command {
    use std::os::unix::fs::MetadataExt;
    let group = fs::metadata("/dev/kvm").map_or(user, |kvm| kvm.gid());
    let mut command = Command::new("setpriv");
    command
        .args(["--reuid", &user.to_string(), "--regid", &user.to_string()])
        .args(["--groups", &group.to_string(), "--"])
        .arg(program);
    command
}

/// Waits until a process is gone that is nobody's child here.
pub fn wait_gone(pid: Pid) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    while test_kill_process(pid).is_ok() {
        ensure!(Instant::now() < deadline, "process {pid:?} still runs");
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}

/// No VM outlives its test.
impl Drop for Fleet {
    fn drop(&mut self) {
        let root = self.runtime_dir("x");
        let entries = root.parent().and_then(|root| fs::read_dir(root).ok());
        for entry in entries.into_iter().flatten().flatten() {
            if let Ok(pid) = self.pid(&entry.file_name().to_string_lossy()) {
                let _ = kill_process(pid, Signal::KILL);
            }
        }
    }
}
