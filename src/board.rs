//! What is to be known of a VM: written by the supervisor's loop, read by the control thread, and what `minivmm status`
//! gets.

use std::{
    path::{Path, absolute},
    sync::{Mutex, PoisonError},
    time::{SystemTime, UNIX_EPOCH},
};

use minivmm_vmm::VmConfig;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// What a VM is doing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// What it needs is being made ready.
    #[default]
    Starting,
    /// The guest runs.
    Running,
    /// The guest stands still.
    Paused,
    /// The guest was asked to shut down, or the VM is being ended.
    Stopping,
    /// A run is over, and the next one begins.
    Restarting,
}

impl State {
    /// As the interface spells it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Stopping => "stopping",
            Self::Restarting => "restarting",
        }
    }
}

impl std::fmt::Display for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.name())
    }
}

/// A VM, as its supervisor sees it. What an older minivmm does not say yet has the default of its type.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Status {
    /// Its name in the configuration.
    pub name: String,
    /// What it is doing.
    pub state: State,
    /// In a few words, what it is waiting for or has come to.
    pub detail: String,
    /// The guest is ready, as far as the configuration says what that means.
    pub ready: bool,
    /// The supervisor.
    pub pid: u32,
    /// The VMM process of this run.
    pub vmm_pid: Option<u32>,
    /// The virtiofsds of this run.
    pub virtiofsd_pids: Vec<u32>,
    /// When the supervisor began, in microseconds since 1970.
    pub started_usec: u64,
    /// When the guest of this run began to run, in microseconds since 1970.
    pub running_usec: Option<u64>,
    /// Runs before this one.
    pub restarts: u32,
    /// How the last run ended, in words.
    pub last_end: Option<String>,
    /// vCPUs.
    pub vcpu: u8,
    /// Memory in MiB.
    pub mem: u32,
    /// Its socket device, if it has one.
    pub vsock: Option<Vsock>,
    /// Its disks, in the order of the configuration.
    pub volumes: Vec<Volume>,
    /// The guest's addresses, as it was told.
    pub addresses: Vec<String>,
    /// The configuration, an absolute path.
    pub config: String,
    /// Where relative paths of the configuration begin.
    pub working_directory: String,
    /// What [`fingerprint`] made of its text when the VM started.
    pub config_fingerprint: String,
    /// The version of minivmm that runs it.
    pub version: String,
}

/// A disk.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Volume {
    /// What the guest calls it, as `vda`.
    pub disk: String,
    /// Its image: an absolute path.
    pub image: String,
    /// Bytes.
    pub size: u64,
    /// The guest can read only.
    pub read_only: bool,
    /// The host has no room for what the guest writes, and writes wait for it.
    pub full: bool,
}

/// A socket device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Vsock {
    /// The guest's address.
    pub cid: u32,
    /// Where programs of the host connect, if any may: an absolute path.
    pub socket: Option<String>,
    /// What may be connected to, as the configuration has it.
    pub allow: Vec<String>,
}

/// What tells one text from another. It keeps nobody from making two that are alike.
pub fn fingerprint(text: &str) -> String {
    Uuid::new_v5(&Uuid::NAMESPACE_URL, text.as_bytes()).to_string()
}

/// The one place where a VM's [`Status`] is.
#[derive(Debug)]
pub struct Board(Mutex<Status>);

impl Board {
    /// Of a VM that is being started.
    pub fn new(config: &VmConfig, path: &Path, text: &str) -> Self {
        let addresses = config.interfaces.iter().filter_map(|i| i.address);
        Self(Mutex::new(Status {
            name: config.name.clone(),
            state: State::Starting,
            detail: "starting".to_owned(),
            ready: false,
            pid: std::process::id(),
            vmm_pid: None,
            virtiofsd_pids: Vec::new(),
            started_usec: now_usec(),
            running_usec: None,
            restarts: 0,
            last_end: None,
            vcpu: config.vcpu,
            mem: config.mem,
            vsock: None,
            volumes: Vec::new(),
            addresses: addresses.map(String::from).collect(),
            config: absolute(path)
                .unwrap_or_else(|_| path.to_owned())
                .to_string_lossy()
                .into_owned(),
            working_directory: std::env::current_dir()
                .map(|directory| directory.to_string_lossy().into_owned())
                .unwrap_or_default(),
            config_fingerprint: fingerprint(text),
            version: env!("CARGO_PKG_VERSION").to_owned(),
        }))
    }

    /// As it is now.
    pub fn status(&self) -> Status {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Changes it.
    pub fn update(&self, change: impl FnOnce(&mut Status)) {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

/// Microseconds since 1970.
pub fn now_usec() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_micros() as u64)
}
