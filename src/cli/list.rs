//! `minivmm list`.

use std::{io::IsTerminal, process::ExitCode};

use anstyle::{AnsiColor, Style};
use minivmm_vmm::BalloonReport;
use serde::Serialize;

use super::{
    look,
    table::{self, Align, Cell, Column},
};
use crate::{
    board::Status,
    failure::Failure,
    survey::{self, Found, PATIENCE, Vm},
    usage::{Usage, percent, uptime},
};

const COLUMNS: &[Column] = &[
    ("NAME", Align::Left),
    ("STATE", Align::Left),
    ("PID", Align::Right),
    ("UPTIME", Align::Right),
    ("VCPU", Align::Right),
    ("MEMORY", Align::Right),
    ("GIVEN BACK", Align::Right),
    ("CPU", Align::Right),
    ("RESTARTS", Align::Right),
    ("ADDRESSES", Align::Left),
];

/// A VM's line, and its object of `--json`; `null` is what is not known.
#[derive(Debug, Serialize)]
pub struct Row {
    /// The VM's name, which the verbs take.
    pub name: String,
    /// `starting` … as in the interface, `no-answer` or `not-yours`.
    pub state: &'static str,
    /// The colour of the state.
    #[serde(skip)]
    pub style: Style,
    /// The supervisor.
    pub pid: Option<u32>,
    /// The VMM process of this run.
    pub vmm_pid: Option<u32>,
    /// Since the guest of this run began to run.
    pub uptime_sec: Option<u64>,
    /// vCPUs.
    pub vcpu: Option<u8>,
    /// Of the VMM process, resident.
    pub memory_used_bytes: Option<u64>,
    /// What the guest was given.
    pub memory_bytes: Option<u64>,
    /// What of it is in the balloon.
    pub balloon_bytes: Option<u64>,
    /// What went back to the host since the run's start, in bytes.
    pub given_back_bytes: Option<u64>,
    /// Processor time of all processes of the VM.
    pub cpu_usec: Option<u64>,
    /// 100 is one processor of the host; since the guest of this run began to run.
    pub cpu_percent: Option<f64>,
    /// Runs before this one.
    pub restarts: Option<u32>,
    /// The guest's, with their prefixes, as it was told.
    pub addresses: Vec<String>,
    /// The runtime directory.
    pub directory: String,
}

impl Row {
    /// What was found of a VM.
    pub fn new(vm: Vm) -> Self {
        let row = Self {
            name: look::clean(&vm.name),
            state: "",
            style: Style::new(),
            pid: None,
            vmm_pid: None,
            uptime_sec: None,
            vcpu: None,
            memory_used_bytes: None,
            memory_bytes: None,
            balloon_bytes: None,
            given_back_bytes: None,
            cpu_usec: None,
            cpu_percent: None,
            restarts: None,
            addresses: Vec::new(),
            directory: vm.directory.to_string_lossy().into_owned(),
        };
        match vm.found {
            Found::NotYours => Self {
                state: "not-yours",
                style: Style::new().dimmed(),
                ..row
            },
            Found::NoAnswer { pid } => Self {
                state: "no-answer",
                style: AnsiColor::Red.on_default(),
                pid,
                ..row
            },
            Found::Status(status, balloon) => row.of(&status, balloon.as_ref()),
        }
    }

    fn of(self, status: &Status, balloon: Option<&BalloonReport>) -> Self {
        let usage = Usage::of(status);
        let uptime = uptime(status);
        let cpu = usage.cpu.zip(uptime);
        Self {
            state: status.state.name(),
            style: look::state(status.state),
            pid: Some(status.pid),
            vmm_pid: status.vmm_pid,
            uptime_sec: uptime.map(|uptime| uptime.as_secs()),
            vcpu: Some(status.vcpu),
            memory_used_bytes: usage.memory,
            memory_bytes: Some(u64::from(status.mem) << 20),
            balloon_bytes: balloon.map(|balloon| balloon.size_bytes),
            given_back_bytes: balloon.map(BalloonReport::given_back_bytes),
            cpu_usec: usage.cpu.map(|cpu| cpu.as_micros() as u64),
            cpu_percent: cpu.and_then(|(cpu, uptime)| Some(round(percent(cpu, uptime)?))),
            restarts: Some(status.restarts),
            addresses: status
                .addresses
                .iter()
                .map(|text| look::clean(text))
                .collect(),
            ..self
        }
    }

    fn cells(&self) -> Vec<Cell> {
        let dash = |text: Option<String>| Cell::from(text.unwrap_or_else(|| "-".to_owned()));
        let memory = self.memory_bytes.map(|given| {
            let used = self.memory_used_bytes.map(|used| (used >> 20).to_string());
            format!("{}/{}M", used.as_deref().unwrap_or("-"), given >> 20)
        });
        let back = self.given_back_bytes;
        vec![
            self.name.clone().into(),
            Cell {
                text: self.state.replace('-', " "),
                style: self.style,
            },
            dash(self.pid.map(|pid| pid.to_string())),
            dash(self.uptime_sec.map(look::age)),
            dash(self.vcpu.map(|vcpu| vcpu.to_string())),
            dash(memory),
            dash(back.map(|back| format!("{}M", back >> 20))),
            dash(self.cpu_percent.map(|percent| format!("{percent:.1}%"))),
            dash(self.restarts.map(|restarts| restarts.to_string())),
            self.addresses.join(" ").into(),
        ]
    }
}

fn round(percent: f64) -> f64 {
    (percent * 10.0).round() / 10.0
}

/// The table of VMs, for a terminal of `width` characters or for a pipe.
pub fn table(rows: &[Row], width: Option<usize>) -> Vec<String> {
    let cells: Vec<_> = rows.iter().map(Row::cells).collect();
    table::lines(COLUMNS, &cells, width)
}

/// Prints all VMs.
pub fn list(json: bool) -> Result<ExitCode, Failure> {
    let rows: Vec<Row> = survey::all(PATIENCE).into_iter().map(Row::new).collect();
    if json {
        super::say_json(&rows)?;
    } else {
        let width = std::io::stdout().is_terminal().then(look::width).flatten();
        for line in table(&rows, width) {
            look::say(line);
        }
    }
    Ok(ExitCode::SUCCESS)
}
