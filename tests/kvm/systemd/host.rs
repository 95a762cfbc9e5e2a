//! A host whose PID 1 is systemd, as far as a service of it can tell: namespaces of its own, with this machine's
//! systemd and files, and with minivmm's units installed.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::vm::{self, PATIENCE};

/// What becomes systemd.
const PID1: &str = include_str!("pid1");
/// Targets that units order themselves by; here there is nothing behind them.
const TARGETS: [&str; 7] = [
    "test",
    "sysinit",
    "basic",
    "network",
    "remote-fs",
    "multi-user",
    "shutdown",
];

/// The VMs of the tests.
const KEPT: &str = "minivmm@a.service minivmm@d.service minivmm@n.service minivmm@u.service";

/// The host. Dropped, all of its processes are killed and its cgroups removed.
pub struct Host {
    directory: TempDir,
    cgroup: PathBuf,
    unshare: Child,
    pid1: u32,
}

impl Host {
    /// Boots it and installs the units.
    pub fn boot() -> Result<Self> {
        let directory = vm::directory()?;
        let path = directory.path();
        for name in ["units", "data"] {
            fs::create_dir(path.join(name))?;
        }
        let empty = "[Unit]\nDescription=Nothing\nDefaultDependencies=no\n";
        for name in TARGETS {
            fs::write(path.join(format!("units/{name}.target")), empty)?;
        }
        // systemd forgets how a unit has ended that nothing refers to.
        let kept = format!("{empty}After={KEPT}\n");
        fs::write(path.join("units/test.target"), kept)?;
        fs::write(path.join("pid1"), PID1)?;
        let cgroup = Path::new("/sys/fs/cgroup").join(
            path.file_name()
                .context("a temporary directory has a name")?,
        );
        fs::create_dir(&cgroup).with_context(|| {
            format!(
                "{}: a host with systemd takes root, and cgroups of version 2",
                cgroup.display()
            )
        })?;
        let log = File::create(path.join("start.log"))?;
        let unshare = Command::new("unshare")
            .args(["--mount", "--pid", "--ipc", "--uts", "--fork"])
            .args(["--kill-child=KILL", "sh", "-euc"])
            // A cgroup namespace begins where the process is that makes it.
            .arg("echo 0 >\"$1/cgroup.procs\"; exec unshare --cgroup sh \"$2/pid1\" \"$2\" \"$3\"")
            .arg("sh")
            .args([&cgroup, path, Path::new(env!("CARGO_MANIFEST_DIR"))])
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("cannot run unshare")?;
        let mut host = Self {
            directory,
            cgroup,
            unshare,
            pid1: 0,
        };
        host.wait_until("systemd to run", |host| {
            let pid = host.unshare.id();
            let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"));
            let children = children.unwrap_or_default();
            let Some(child) = children.split_whitespace().next() else {
                return Ok(false);
            };
            let socket = format!("/proc/{child}/root/run/systemd/private");
            host.pid1 = child.parse()?;
            Ok(Path::new(&socket).exists())
        })?;
        host.install()?;
        Ok(host)
    }

    /// The units as they are shipped, and what only a test needs: the way to virtiofsd, and logs in files.
    fn install(&self) -> Result<()> {
        let image = self.path().join("image");
        let program = vm::program().canonicalize()?;
        let installed = Command::new(program)
            .arg("install-units")
            .args(["--prefix", "/usr", "--root"])
            .arg(&image)
            .output()?;
        ensure!(installed.status.success(), "install-units: {installed:?}");
        for entry in fs::read_dir(image.join("usr/lib/systemd/system"))? {
            let entry = entry?;
            fs::copy(
                entry.path(),
                self.path().join("units").join(entry.file_name()),
            )?;
        }
        let virtiofsd = std::env::var("MINIVMM_VIRTIOFSD").context("MINIVMM_VIRTIOFSD")?;
        self.drop_in(
            "minivmm@",
            "test",
            &format!(
                "[Service]\nEnvironment=MINIVMM_VIRTIOFSD={virtiofsd}\n\
                 StandardOutput=append:{log}/%i.log\nStandardError=inherit\n",
                log = self.path().display()
            ),
        )
    }

    /// The directory that is writable there.
    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    /// The directory of a VM's share `data`, made if it is not there.
    pub fn data(&self, name: &str) -> Result<PathBuf> {
        let path = self.path().join("data").join(name);
        fs::create_dir_all(&path)?;
        Ok(path)
    }

    /// The file of this path there.
    pub fn file(&self, path: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root{path}", self.pid1))
    }

    /// Writes a VM's configuration.
    pub fn configure(&self, name: &str, toml: &str) -> Result<()> {
        let path = self.file(&format!("/etc/minivmm/{name}.toml"));
        fs::write(&path, toml).with_context(|| path.display().to_string())
    }

    /// Adds a drop-in to a service.
    pub fn drop_in(&self, service: &str, name: &str, text: &str) -> Result<()> {
        let directory = self.path().join(format!("units/{service}.service.d"));
        fs::create_dir_all(&directory)?;
        fs::write(directory.join(format!("{name}.conf")), text)?;
        self.systemctl(&["daemon-reload"]).map(drop)
    }

    /// A program there, to be run.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command
            .args(["--mount", "--pid", "--cgroup", "--ipc", "--uts", "--target"])
            .arg(self.pid1.to_string())
            .args(["--", program])
            .stdin(Stdio::null());
        command
    }

    /// Runs `systemctl`, and gives what it printed if it succeeded.
    pub fn systemctl(&self, arguments: &[&str]) -> Result<String> {
        let output = self.command("systemctl").args(arguments).output()?;
        ensure!(
            output.status.success(),
            "systemctl {}: {}\n{}\n{}",
            arguments.join(" "),
            output.status,
            text(&output),
            self.log()
        );
        Ok(text(&output))
    }

    /// A property of a VM's unit.
    pub fn show(&self, name: &str, property: &str) -> Result<String> {
        let unit = format!("minivmm@{name}.service");
        let value = self.systemctl(&["show", "--value", "--property", property, &unit])?;
        Ok(value.trim().to_owned())
    }

    /// Waits until a property of a VM's unit is `value`.
    pub fn wait_for_property(&self, name: &str, property: &str, value: &str) -> Result<()> {
        let mut last = String::new();
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            last = self.show(name, property)?;
            if last == value {
                return Ok(());
            }
            thread::sleep(Duration::from_millis(100));
        }
        bail!(
            "{property} of {name} is {last:?} and not {value:?}; {}\n{}",
            self.log(),
            self.console(name)
        )
    }

    /// Waits until a VM's output has `text` for the `n`th time.
    pub fn wait_for_output(&self, name: &str, text: &str, n: usize) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        while self.console(name).matches(text).count() < n {
            ensure!(
                Instant::now() < deadline,
                "no {n} times `{text}` in:\n{}\n{}",
                self.console(name),
                self.log()
            );
            thread::sleep(Duration::from_millis(100));
        }
        Ok(())
    }

    /// What a VM has printed, guest and minivmm.
    pub fn console(&self, name: &str) -> String {
        let bytes = fs::read(self.path().join(format!("{name}.log"))).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// What systemd has said.
    pub fn log(&self) -> String {
        let read = |name| fs::read_to_string(self.path().join(name)).unwrap_or_default();
        format!(
            "systemd's log:\n{}{}",
            read("start.log"),
            read("systemd.log")
        )
    }

    /// The processes of a VM's unit, as this test sees them, the supervisor first.
    pub fn processes(&self, name: &str) -> Result<Vec<u32>> {
        let group = self.show(name, "ControlGroup")?;
        let path = format!("{}{group}/cgroup.procs", self.cgroup.display());
        let list = fs::read_to_string(&path).with_context(|| path)?;
        let mut pids: Vec<u32> = list.lines().filter_map(|line| line.parse().ok()).collect();
        let is_supervisor = |pid: &u32| {
            let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
            let parent = status.lines().find_map(|line| line.strip_prefix("PPid:"));
            parent.is_some_and(|parent| parent.trim() == self.pid1.to_string())
        };
        pids.sort_by_key(|pid| !is_supervisor(pid));
        ensure!(
            pids.first().is_some_and(is_supervisor),
            "no supervisor among {pids:?}"
        );
        Ok(pids)
    }

    /// Waits until `is_so`.
    fn wait_until(
        &mut self,
        what: &str,
        mut is_so: impl FnMut(&mut Self) -> Result<bool>,
    ) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        while !is_so(self)? {
            ensure!(
                Instant::now() < deadline,
                "waited in vain for {what}; {}",
                self.log()
            );
            thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        // The kernel ends all processes of a PID namespace with its first.
        if let Some(pid1) = i32::try_from(self.pid1).ok().and_then(Pid::from_raw) {
            let _ = kill_process(pid1, Signal::KILL);
        }
        let _ = self.unshare.kill();
        let _ = self.unshare.wait();
        let deadline = Instant::now() + PATIENCE;
        while fs::remove_dir(&self.cgroup).is_err() && Instant::now() < deadline {
            remove_groups(&self.cgroup);
        }
    }
}

/// Removes the cgroups in `group`, whose processes may yet be ending.
fn remove_groups(group: &Path) {
    for entry in fs::read_dir(group).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_groups(&entry.path());
            let _ = fs::remove_dir(entry.path());
        }
    }
    thread::sleep(Duration::from_millis(20));
}

/// What a program printed.
pub fn text(output: &Output) -> String {
    String::from_utf8_lossy(&[&output.stdout[..], &output.stderr[..]].concat()).into_owned()
}
