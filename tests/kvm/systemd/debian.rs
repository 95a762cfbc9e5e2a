//! A Debian 13 whose systemd says how far it is, and shuts down when it is asked.

use std::{
    fs,
    process::Stdio,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use rustix::process::Signal;

use super::host::Host;
use crate::{
    guest::Guest,
    vm::{PATIENCE, Vm},
};

/// What systemd prints on the console.
const SHOW: &str = "cryptomgr.notests systemd.show_status=true";

/// A unit of the guest that multi-user.target waits for, in base64:
///
/// ```text
/// [Unit]
/// RequiresMountsFor=/data
/// Before=multi-user.target
/// [Service]
/// Type=oneshot
/// TimeoutStartSec=infinity
/// ExecStart=/usr/bin/python3 /data/wait.py
/// ```
const WAIT: &str = "W1VuaXRdClJlcXVpcmVzTW91bnRzRm9yPS9kYXRhCkJlZm9yZT1tdWx0aS11c2VyLnRhcmdldApbU2VydmljZV0KVHlwZT1vbmVzaG90ClRpbWVvdXRTdGFydFNlYz1pbmZpbml0eQpFeGVjU3RhcnQ9L3Vzci9iaW4vcHl0aG9uMyAvZGF0YS93YWl0LnB5Cg==";

/// It keeps talking to the host as if it were PID 1, until it may go on.
const WAIT_SCRIPT: &str = include_str!("wait.py");

pub fn readiness() -> Result<()> {
    let host = Host::boot()?;
    let root = std::env::var("MINIVMM_GUEST_DEBIAN").context("MINIVMM_GUEST_DEBIAN")?;
    let data = host.data("d")?;
    fs::write(data.join("wait.py"), WAIT_SCRIPT)?;
    let guest = Guest::of_kernel("6.12-cloud")?.toml(&format!(
        "quiet {SHOW} root=root rootfstype=virtiofs overlay systemd.wants=wait.service \
         systemd.set_credential_binary=systemd.extra-unit.wait.service:{WAIT}"
    ));
    host.configure(
        "d",
        &format!(
            "name = \"d\"\nvcpu = 1\nmem = 512\n{guest}[lifecycle]\nready = \"guest\"\n\
             [[shares]]\ntag = \"data\"\nsource = {data:?}\nmount_point = \"/data\"\n\
             [[shares]]\ntag = \"root\"\nsource = {root:?}\n"
        ),
    )?;
    let mut start = host.command("systemctl");
    let mut start = start
        .args(["start", "minivmm@d"])
        .stdout(Stdio::null())
        .spawn()?;

    // The guest has come as far as to wait for us, and talks.
    wait_for(&host, "the guest's unit to wait", || {
        Ok(data.join("waiting").exists())
    })?;
    let main = host.show("d", "MainPID")?;
    for round in [1, 2] {
        wait_for(&host, "the guest's words", || {
            let status = host.show("d", "StatusText")?;
            let said = status.strip_prefix("guest: round ");
            Ok(said.is_some_and(|n| n.parse::<u32>().is_ok_and(|n| n >= round)))
        })?;
        ensure!(
            host.show("d", "MainPID")? == main,
            "the guest has changed it"
        );
        ensure!(host.show("d", "NFileDescriptorStore")? == "0");
        ensure!(host.show("d", "ActiveState")? == "activating");
        ensure!(
            start.try_wait()?.is_none(),
            "`systemctl start` has returned"
        );
    }
    fs::write(data.join("go"), "")?;
    wait_for(&host, "`systemctl start` to return", || {
        Ok(start.try_wait()?.is_some())
    })?;
    ensure!(
        start.wait()?.success(),
        "{}\n{}",
        host.log(),
        host.console("d")
    );
    ensure!(data.join("reached").exists(), "too early");
    ensure!(host.show("d", "ActiveState")? == "active");
    let console = host.console("d");
    ensure!(is_up(&console), "{console}");

    host.systemctl(&["stop", "minivmm@d"])?;
    let console = host.console("d");
    ensure!(powered_off(&console), "no orderly power-off:\n{console}");
    for (property, value) in [("Result", "success"), ("ExecMainStatus", "0")] {
        let is = host.show("d", property)?;
        ensure!(is == value, "{property} is {is}:\n{console}");
    }
    let status = host.show("d", "StatusText")?;
    ensure!(
        status.starts_with("the guest powered off, "),
        "the last status is {status:?}"
    );
    Ok(())
}

/// A signal to a Debian that is up, three times.
pub fn three_stops() -> Result<()> {
    for _ in 0..3 {
        let vm = Vm::debian()?.cmdline(&format!("overlay {SHOW}"));
        let mut running = vm.start()?;
        running.wait_for("multi-user.target")?;
        running.signal(Signal::TERM)?;
        let (code, output) = running.wait()?;
        ensure!(
            code == 0 && powered_off(&output),
            "exit code {code}:\n{output}"
        );
        vm.nothing_left()?;
    }
    Ok(())
}

fn is_up(console: &str) -> bool {
    console.contains("multi-user.target")
}

/// Whether its own log shows an orderly power-off.
fn powered_off(console: &str) -> bool {
    ["poweroff.target", "reboot: Power down"]
        .iter()
        .all(|words| console.contains(words))
}

/// A boot takes minutes where a CPU is slow.
fn wait_for(host: &Host, what: &str, mut is_so: impl FnMut() -> Result<bool>) -> Result<()> {
    let deadline = Instant::now() + 2 * PATIENCE;
    while !is_so()? {
        ensure!(
            Instant::now() < deadline,
            "waited in vain for {what}; {}\n{}",
            host.log(),
            host.console("d")
        );
        thread::sleep(Duration::from_millis(200));
    }
    Ok(())
}
