//! What a VM costs, held against budgets.toml: docs/testing.md says how, and how a budget is raised.

mod memory;
mod system_calls;

use std::{collections::BTreeMap, fs, path::Path, thread, time::Instant};

use anyhow::{Context, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};
use serde::Deserialize;

use crate::{
    Test,
    vm::{self, PATIENCE, Running, Vm},
};

pub const TESTS: &[Test] = &[
    Test {
        name: "budgets::nothing_costs_more_than_budgets_toml_allows",
        run: budgets,
    },
    Test {
        name: "budgets::system_calls_are_counted_to_the_first_kvm_run_and_without_virtiofsd",
        run: system_calls::counts,
    },
    Test {
        name: "budgets::pages_that_both_processes_have_are_counted_once_and_guest_memory_never",
        run: memory::counts,
    },
];

/// So much more, in percent, fails; so much less is said.
const TOLERANCE: f64 = 5.0;
/// So often is measured before a figure counts as too high. The least counts: what disturbs only adds.
const ATTEMPTS: usize = 3;

/// A figure's name, as in budgets.toml, and its value.
type Figures = BTreeMap<&'static str, u64>;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Budgets {
    everywhere: BTreeMap<String, u64>,
    lab: BTreeMap<String, u64>,
    #[serde(default)]
    host: BTreeMap<String, u64>,
}

fn budgets() -> Result<()> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("budgets.toml");
    let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    let budgets: Budgets = toml::from_str(&text).context("budgets.toml")?;
    let mut allowed = budgets.everywhere;
    allowed.extend(match std::env::var_os("MINIVMM_LAB") {
        Some(_) => budgets.lab,
        None => budgets.host,
    });

    let mut least = measure()?;
    for name in allowed.keys() {
        ensure!(
            least.contains_key(name.as_str()),
            "budgets.toml: `{name}` is not measured"
        );
    }
    for _ in 1..ATTEMPTS {
        if complaints(&least, &allowed).is_empty() {
            break;
        }
        for (name, value) in measure()? {
            least
                .entry(name)
                .and_modify(|least| *least = value.min(*least));
        }
    }
    print!("{}", table(&least, &allowed));
    let complaints = complaints(&least, &allowed);
    ensure!(complaints.is_empty(), "{}", complaints.join("\n"));
    Ok(())
}

fn measure() -> Result<Figures> {
    let vm = guest()?;
    let mut running = vm.start()?;
    running.wait_for("minivmm-guest: standing still")?;
    let supervisor = running.pid();
    let vmm = vmm_of(supervisor)?;
    let exits = Exits::of(vmm)?;
    running.wait_for("minivmm-guest: ten seconds later")?;
    let memory_kib = memory::own_kib([supervisor, vmm])?;
    end(running, supervisor)?;
    Ok(Figures::from([
        ("binary_bytes", fs::metadata(vm::program())?.len()),
        ("memory_kib", memory_kib),
        ("vm_exits", exits.untimed),
        ("vm_exits_to_devices", exits.to_devices),
        ("system_calls", system_calls::measure()?),
    ]))
}

/// A guest with one vCPU and one share, which says when its init has set everything up.
fn guest() -> Result<Vm> {
    Vm::with_script(
        "echo minivmm-guest: standing still\n\
         sleep 10\n\
         echo minivmm-guest: ten seconds later\n\
         sleep 100000\n",
    )
}

/// The VMM process of a supervisor.
fn vmm_of(supervisor: u32) -> Result<u32> {
    let is_vmm = |pid: &u32| {
        fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| line.starts_with(b"minivmm-vmm"))
    };
    let mut vmms = vm::descendants(supervisor)?.into_iter().filter(is_vmm);
    vmms.next().context("no VMM process runs")
}

/// Ends a VM at once.
fn end(running: Running, supervisor: u32) -> Result<()> {
    let processes = vm::descendants(supervisor)?;
    let supervisor = Pid::from_raw(supervisor.try_into()?).context("no process id")?;
    kill_process(supervisor, Signal::KILL)?;
    vm::wait_gone(&processes)?;
    running.wait()?;
    Ok(())
}

/// How often the guest was left, by KVM's own statistics.
struct Exits {
    /// All but those whose number depends on how long it took: interrupts of the host, HLT, and waiting until the
    /// guest takes an interrupt.
    untimed: u64,
    /// For port and memory-mapped I/O.
    to_devices: u64,
}

impl Exits {
    fn of(vmm: u32) -> Result<Self> {
        const STATISTICS: &str = "/sys/kernel/debug/kvm";
        let vms = fs::read_dir(STATISTICS).context(STATISTICS)?;
        let names = vms.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        let vm = (names.into_iter())
            .find(|name| name.split('-').next() == Some(&vmm.to_string()))
            .with_context(|| format!("{STATISTICS} does not know process {vmm}"))?;
        let count = |name: &str| -> Result<u64> {
            let path = format!("{STATISTICS}/{vm}/{name}");
            let text = fs::read_to_string(&path).context(path)?;
            Ok(text.trim().parse()?)
        };
        let timed = count("irq_exits")? + count("irq_window_exits")? + count("halt_exits")?;
        Ok(Self {
            untimed: count("exits")?.saturating_sub(timed),
            to_devices: count("io_exits")? + count("mmio_exits")?,
        })
    }
}

/// Waits until `done`.
fn wait_until(what: &str, mut done: impl FnMut() -> bool) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    while !done() {
        ensure!(Instant::now() < deadline, "{what}: not within {PATIENCE:?}");
        thread::sleep(std::time::Duration::from_millis(10));
    }
    Ok(())
}

/// By how many percent a figure is above its budget.
fn growth(value: u64, budget: u64) -> f64 {
    100.0 * (value as f64 / budget as f64 - 1.0)
}

fn complaints(figures: &Figures, budgets: &BTreeMap<String, u64>) -> Vec<String> {
    let over = figures.iter().filter_map(|(name, value)| {
        let budget = *budgets.get(*name)?;
        let growth = growth(*value, budget);
        (growth > TOLERANCE).then(|| {
            format!(
                "{name} is {value}, {growth:.1} % over its budget of {budget}: find out why, or raise it in \
                 budgets.toml in a commit that says why"
            )
        })
    });
    over.collect()
}

fn table(figures: &Figures, budgets: &BTreeMap<String, u64>) -> String {
    let mut table = format!("{:<20} {:>10} {:>10}\n", "budget", "measured", "allowed");
    for (name, value) in figures {
        let line = match budgets.get(*name) {
            None => format!("{name:<20} {value:>10} {:>10}", "-"),
            Some(budget) => {
                let growth = growth(*value, *budget);
                let hint = match growth < -TOLERANCE {
                    true => ": lower it",
                    false => "",
                };
                format!("{name:<20} {value:>10} {budget:>10}  {growth:+.1} %{hint}")
            }
        };
        table.push_str(&line);
        table.push('\n');
    }
    table
}
