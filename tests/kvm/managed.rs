//! VMs that systemd manages: what `start`, `stop` and `restart` have systemctl do. Systemd itself is a stand-in here, which
//! writes down what it is asked for.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    process::{Command, Output, Stdio},
};

use anyhow::{Result, ensure};
use tempfile::TempDir;

use crate::{Test, vm};

pub const TESTS: &[Test] = &[Test {
    name: "errors::start_stop_and_restart_of_a_unit_go_through_systemctl",
    run: through_systemctl,
}];

/// Answers `show` with what is in files, and writes down everything else.
const SYSTEMCTL: &str = "#!/bin/sh
case \"$1\" in
show) cat \"$STAND_IN/$4\" ;;
*) echo \"$*\" >>\"$STAND_IN/asked\"; exit \"$(cat \"$STAND_IN/code\")\" ;;
esac
";

struct StandIn(TempDir);

impl StandIn {
    fn new() -> Result<Self> {
        let stand_in = Self(vm::directory()?);
        let program = stand_in.0.path().join("systemctl");
        fs::write(&program, SYSTEMCTL)?;
        fs::set_permissions(program, fs::Permissions::from_mode(0o755))?;
        stand_in.put("code", "0")?;
        stand_in.put("LoadState", "loaded")?;
        stand_in.put("ActiveState", "inactive")?;
        stand_in.put("MainPID", "4711")?;
        stand_in.put("ExecMainStatus", "0")?;
        stand_in.put("a.toml", "name = \"a\"\n[kernel]\npath = \"/k\"\n")?;
        Ok(stand_in)
    }

    fn put(&self, file: &str, text: &str) -> Result<()> {
        Ok(fs::write(self.0.path().join(file), format!("{text}\n"))?)
    }

    /// Runs minivmm on a host of its own, where systemd runs and `a` has a configuration.
    fn run(&self, words: &str) -> Result<Output> {
        let here = self.0.path().display();
        let program = vm::program();
        let script = format!(
            "cp {program} {here}/minivmm && mount -t tmpfs none /run && mount -t tmpfs none /etc && \
             mkdir -p /run/systemd/system /etc/minivmm && cp {here}/a.toml /etc/minivmm/ && \
             PATH={here}:$PATH STAND_IN={here} exec {here}/minivmm {words}",
            program = program.display()
        );
        Ok(Command::new("unshare")
            .args(["--mount", "sh", "-c", &script])
            .env_remove("MINIVMM_RUNTIME_ROOT")
            .stdin(Stdio::null())
            .output()?)
    }

    /// Exit code, what systemctl is asked for, and words of what is said.
    fn says(&self, words: &str, code: i32, asked: &str, said: &str) -> Result<()> {
        let _ = fs::remove_file(self.0.path().join("asked"));
        let output = self.run(words)?;
        let found = fs::read_to_string(self.0.path().join("asked")).unwrap_or_default();
        ensure!(
            output.status.code() == Some(code) && found.trim_end() == asked,
            "{words}: {found}{output:?}"
        );
        let text = [output.stdout, output.stderr].concat();
        let text = String::from_utf8_lossy(&text);
        ensure!(text.contains(said), "{words}: no `{said}` in {text}");
        Ok(())
    }
}

fn through_systemctl() -> Result<()> {
    let unit = "-- minivmm@a.service";
    let systemd = StandIn::new()?;
    systemd.says(
        "start a",
        0,
        &format!("start {unit}"),
        "start of minivmm@a.service is done",
    )?;
    systemd.says(
        "start a --no-wait",
        0,
        &format!("start --no-block {unit}"),
        "is begun",
    )?;
    systemd.says(
        "restart a",
        0,
        &format!("restart {unit}"),
        "restart of minivmm@a.service is done",
    )?;
    // A unit that is down has nothing to stop.
    systemd.says("stop a", 0, "", "a: does not run")?;
    // It fails as `run` would, and the unit's code is the verb's.
    systemd.put("code", "1")?;
    systemd.put("ActiveState", "failed")?;
    systemd.put("ExecMainStatus", "69")?;
    systemd.says(
        "start a",
        69,
        &format!("start {unit}"),
        "has failed: minivmm has ended with exit code 69; its log: journalctl -eu minivmm@a.service",
    )?;
    systemd.put("code", "0")?;

    systemd.put("ActiveState", "active")?;
    systemd.says(
        "start a",
        69,
        "",
        "`a` runs already: minivmm@a.service has it, process 4711",
    )?;
    systemd.says(
        "stop a",
        0,
        &format!("stop {unit}"),
        "stop of minivmm@a.service is done",
    )?;
    systemd.says(
        "stop a --no-wait",
        0,
        &format!("stop --no-block {unit}"),
        "is begun",
    )?;
    systemd.says("stop a --timeout 5s", 0, &format!("stop {unit}"), "is done")?;
    let both = format!("stop --no-block {unit}\nstop {unit}");
    systemd.says("stop a --force", 0, &both, "is done")?;
    // One that is about to be started again is stopped, too.
    systemd.put("ActiveState", "activating")?;
    systemd.says("stop a", 0, &format!("stop {unit}"), "is done")?;
    // A socket is nobody's unit.
    systemd.says("stop --socket /run/x", 0, "", "/run/x: does not run")?;

    // What is wrong is said before systemd is asked.
    systemd.put("a.toml", "name = \"a\"\n")?;
    systemd.says(
        "restart a",
        78,
        "",
        "/etc/minivmm/a.toml: the key `kernel` is missing",
    )?;
    systemd.put("ActiveState", "inactive")?;
    systemd.says(
        "start a",
        78,
        "",
        "/etc/minivmm/a.toml: the key `kernel` is missing",
    )?;
    // Without the unit minivmm starts it by itself.
    systemd.put("LoadState", "not-found")?;
    systemd.says("start a", 78, "", "the key `kernel` is missing")
}
