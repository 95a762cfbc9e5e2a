//! VMs that systemd manages: `minivmm@NAME.service`.

use std::{
    path::Path,
    process::{Command, ExitCode, Stdio},
};

use super::places;
use crate::{
    client::is_name,
    failure::{Failure, code},
};

/// Whether a verb returns when what it wants is done, or when it has begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// When it is done.
    Yes,
    /// When it has begun.
    No,
}

/// A unit that systemd can load.
#[derive(Debug)]
pub struct Unit {
    vm: String,
    name: String,
}

impl Unit {
    /// That of the VM called `vm`, if systemd runs here, has the unit, and there is a configuration for it.
    pub fn configured(vm: &str) -> Option<Self> {
        let config = places::system_configs().join(format!("{vm}.toml"));
        let unit = Self::new(vm)?;
        (config.is_file() && unit.property("LoadState")? == "loaded").then_some(unit)
    }

    /// That of the VM called `vm`, if it is up, or is about to be started again.
    pub fn of_running(vm: &str) -> Option<Self> {
        let unit = Self::new(vm)?;
        let state = unit.property("ActiveState")?;
        let up = ["active", "activating", "reloading", "deactivating"];
        up.contains(&state.as_str()).then_some(unit)
    }

    fn new(vm: &str) -> Option<Self> {
        // sd_booted(3)
        let booted = Path::new("/run/systemd/system").is_dir();
        // Under another root for runtime directories systemd has nothing.
        let elsewhere = std::env::var_os("MINIVMM_RUNTIME_ROOT").is_some();
        (booted && !elsewhere && is_name(vm)).then(|| Self {
            vm: vm.to_owned(),
            name: format!("minivmm@{vm}.service"),
        })
    }

    fn property(&self, property: &str) -> Option<String> {
        let output = Command::new("systemctl")
            .args(["show", "--value", "--property", property, "--", &self.name])
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .output()
            .ok()?;
        let value = String::from_utf8(output.stdout).ok()?;
        Some(value.trim().to_owned())
    }

    /// `systemctl start`, which waits until the VM is ready.
    pub fn start(&self, wait: Wait) -> Result<ExitCode, Failure> {
        if Self::of_running(&self.vm)
            .is_some_and(|unit| unit.property("ActiveState").as_deref() == Some("active"))
        {
            let pid = self.property("MainPID").unwrap_or_default();
            return Err(Failure::host(format!(
                "`{}` runs already: {} has it, process {pid}; `minivmm stop {}` ends it",
                self.vm, self.name, self.vm
            )));
        }
        self.systemctl("start", wait)
    }

    /// `systemctl restart`.
    pub fn restart(&self, wait: Wait) -> Result<ExitCode, Failure> {
        self.systemctl("restart", wait)
    }

    /// `systemctl stop`, so that nothing starts it again.
    pub fn stop(&self, wait: Wait) -> Result<ExitCode, Failure> {
        self.systemctl("stop", wait)
    }

    fn systemctl(&self, verb: &str, wait: Wait) -> Result<ExitCode, Failure> {
        let mut command = Command::new("systemctl");
        command.arg(verb);
        if wait == Wait::No {
            command.arg("--no-block");
        }
        let status = command
            .args(["--", &self.name])
            .status()
            .map_err(|error| Failure::host(format!("cannot run systemctl: {error}")))?;
        if status.success() {
            let how = match wait {
                Wait::Yes => "done",
                Wait::No => "begun",
            };
            super::say(format_args!(
                "{}: {verb} of {} is {how}",
                self.vm, self.name
            ));
            return Ok(ExitCode::SUCCESS);
        }
        Err(self.failure(verb))
    }

    /// With the exit code of `minivmm run`, if it is that which has failed.
    fn failure(&self, verb: &str) -> Failure {
        let name = &self.name;
        let ended = self.property("ExecMainStatus");
        let ended = ended.and_then(|code| code.parse::<u8>().ok());
        let is_failed = self.property("ActiveState").as_deref() != Some("active");
        let (code, how) = match ended {
            Some(code @ 1..) if is_failed && verb != "stop" => {
                (code, format!(": minivmm has ended with exit code {code}"))
            }
            _ => (code::REFUSED, String::new()),
        };
        Failure::with_code(
            code,
            format!("systemctl {verb} {name} has failed{how}; its log: journalctl -eu {name}"),
        )
    }
}
