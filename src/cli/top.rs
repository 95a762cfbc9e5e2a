//! `minivmm top`.

mod screen;
mod terminal;

use std::{
    collections::BTreeMap,
    io::{self, IsTerminal},
    process::ExitCode,
    thread,
    time::{Duration, Instant},
};

use clap::{Args, ValueEnum};

use super::{
    list::{self, Row},
    look,
};
use crate::{
    failure::Failure,
    survey::{self, PATIENCE},
    usage,
};

/// What `top` takes.
#[derive(Args, Clone, Debug)]
pub struct TopArgs {
    /// Print this many tables and end; in a pipe one, if nothing is said
    #[arg(short = 'n', long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    iterations: Option<u32>,
    /// Seconds between two looks
    #[arg(short, long, value_name = "SECONDS", default_value_t = 1,
          value_parser = clap::value_parser!(u64).range(1..=3600))]
    delay: u64,
    /// The order of the VMs
    #[arg(short, long, value_name = "KEY", default_value = "cpu")]
    sort: Key,
}

/// What VMs are ordered by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Key {
    /// By name
    Name,
    /// Who takes most of the processors first
    Cpu,
    /// Who takes most memory first
    Memory,
    /// Who runs for longest first
    Uptime,
}

/// Shows all VMs again and again.
pub fn top(args: &TopArgs) -> Result<ExitCode, Failure> {
    let interactive = io::stdout().is_terminal() && io::stdin().is_terminal();
    let delay = Duration::from_secs(args.delay);
    if interactive && args.iterations.is_none() {
        return screen::run(args.sort, delay);
    }
    let mut before = Before::default();
    for n in 0..args.iterations.unwrap_or(1) {
        if n > 0 {
            thread::sleep(delay);
            look::say("");
        }
        let mut rows = before.look();
        sort(&mut rows, args.sort);
        list::table(&rows, None).iter().for_each(look::say);
    }
    Ok(ExitCode::SUCCESS)
}

/// What the VMs had taken when they were looked at last.
#[derive(Debug, Default)]
struct Before(BTreeMap<(String, u32), (Instant, Duration)>);

impl Before {
    /// Looks at all VMs. Their CPU is that since the last look, or since their start if there was none.
    fn look(&mut self) -> Vec<Row> {
        let vms = survey::all(PATIENCE).into_iter();
        let mut rows: Vec<Row> = vms.map(Row::new).collect();
        self.since(&mut rows, Instant::now());
        rows
    }

    fn since(&mut self, rows: &mut [Row], now: Instant) {
        let before = std::mem::take(&mut self.0);
        for row in rows {
            let Some((pid, cpu)) = row.vmm_pid.zip(row.cpu_usec) else {
                continue;
            };
            let cpu = Duration::from_micros(cpu);
            let key = (row.directory.clone(), pid);
            if let Some((then, had)) = before.get(&key) {
                // One of its virtiofsds may have ended.
                let taken = cpu.saturating_sub(*had);
                row.cpu_percent = usage::percent(taken, now.saturating_duration_since(*then));
            }
            self.0.insert(key, (now, cpu));
        }
    }
}

fn sort(rows: &mut [Row], key: Key) {
    match key {
        Key::Name => rows.sort_by(|a, b| a.name.cmp(&b.name)),
        Key::Cpu => rows.sort_by(|a, b| {
            let cpu = |row: &Row| row.cpu_percent.unwrap_or(-1.0);
            cpu(b).total_cmp(&cpu(a))
        }),
        Key::Memory => rows.sort_by_key(|row| std::cmp::Reverse(row.memory_used_bytes)),
        Key::Uptime => rows.sort_by_key(|row| std::cmp::Reverse(row.uptime_sec)),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::survey::{Found, Vm};

    fn row(name: &str, cpu_usec: u64) -> Row {
        let vm = Vm {
            name: name.to_owned(),
            directory: name.into(),
            found: Found::NotYours,
        };
        Row {
            vmm_pid: Some(1),
            cpu_usec: Some(cpu_usec),
            ..Row::new(vm)
        }
    }

    #[test]
    fn cpu_is_what_was_taken_since_the_last_look() {
        let mut before = Before::default();
        let start = Instant::now();
        let mut rows = [row("a", 1_000_000), row("b", 0)];
        before.since(&mut rows, start);
        assert_eq!(rows[0].cpu_percent, None);
        let mut rows = [row("a", 1_500_000), row("b", 0), row("c", 5)];
        before.since(&mut rows, start + Duration::from_secs(2));
        assert_eq!(rows[0].cpu_percent.unwrap(), 25.0);
        assert_eq!(rows[1].cpu_percent.unwrap(), 0.0);
        assert_eq!(rows[2].cpu_percent, None);
        sort(&mut rows, Key::Cpu);
        let names: Vec<_> = rows.iter().map(|row| row.name.as_str()).collect();
        assert_eq!(names, ["a", "b", "c"]);
        // Another run of the VM has another process.
        let mut rows = [Row {
            vmm_pid: Some(2),
            ..row("a", 10)
        }];
        before.since(&mut rows, start + Duration::from_secs(3));
        assert_eq!(rows[0].cpu_percent, None);
    }
}
