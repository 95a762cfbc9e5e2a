//! A VM of the demo: `minivmm run` as a person would start it.

use std::fs::File;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};

use super::network::HOST_NAMESPACE;
use crate::command::{Tied, program};
use crate::workspace;

/// Longer than any boot or shutdown takes, in the lab and beside other work.
const PATIENCE: Duration = Duration::from_secs(180);

/// A running `minivmm`.
#[derive(Debug)]
pub struct Vm(Tied);

impl Vm {
    /// Starts `examples/adguard.toml` with `directory` as working directory; what is said goes to the end of `log`.
    pub fn start(directory: &Path, log: &Path) -> Result<Self> {
        let log = File::options()
            .create(true)
            .append(true)
            .open(log)
            .with_context(|| format!("cannot write {}", log.display()))?;
        // ip becomes minivmm, so that its process is minivmm's.
        let mut command = program("ip");
        command
            .args(["netns", "exec", HOST_NAMESPACE])
            .arg(workspace::minivmm())
            .args(["run", "--config"])
            .arg(workspace::root().join("examples/adguard.toml"))
            .current_dir(directory)
            .stdout(log.try_clone()?)
            .stderr(log);
        Ok(Self(Tied::start(&mut command)?))
    }

    /// Waits until `true_now`, which is asked again and again.
    pub fn wait_until(&mut self, true_now: impl Fn() -> bool) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        while !true_now() {
            if let Some(status) = self.0.0.try_wait()? {
                bail!("minivmm ended: {status}");
            }
            ensure!(Instant::now() < deadline, "waited {} s", PATIENCE.as_secs());
            thread::sleep(Duration::from_millis(100));
        }
        Ok(())
    }

    /// Asks minivmm to end, as systemd would, and wants the exit code of a guest that powered off.
    pub fn power_off(&mut self) -> Result<()> {
        let child = &mut self.0.0;
        let pid = Pid::from_child(child);
        kill_process(pid, Signal::TERM).context("cannot send SIGTERM to minivmm")?;
        let deadline = Instant::now() + PATIENCE;
        let status = loop {
            if let Some(status) = child.try_wait()? {
                break status;
            }
            ensure!(
                Instant::now() < deadline,
                "minivmm did not end within {} s of SIGTERM",
                PATIENCE.as_secs()
            );
            thread::sleep(Duration::from_millis(20));
        };
        match status.code() {
            Some(0) => Ok(()),
            _ => Err(anyhow!("minivmm ended with {status} instead of 0")),
        }
    }
}
