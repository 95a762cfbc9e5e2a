//! What the demo shows.

use std::env;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use super::network::{self, GUEST, Transport};
use super::vm::Vm;
use crate::progress::Steps;
use crate::workspace;

/// In the local zone of guest/dns/rules.conf.
const LOCAL: (&str, &str) = ("printer.home.test", "192.168.83.10");
/// Filtered by guest/dns/rules.conf.
const BLOCKED: &str = "blocked.test";
/// Filtered from the second boot on, by a list that is added between the two.
const ADDED: &str = "added.test";
/// The answer to a question for a filtered name.
const NOWHERE: &str = "0.0.0.0";

/// Runs the demo here, where KVM is able and where everything that it makes goes away with it.
pub fn run() -> Result<u8> {
    super::need_root()?;
    let scratch = env::var_os("MINIVMM_SCRATCH").map_or_else(env::temp_dir, PathBuf::from);
    let directory = tempfile::Builder::new()
        .prefix("demo-")
        .tempdir_in(&scratch)
        .with_context(|| format!("cannot make a directory in {}", scratch.display()))?;
    let result = show(directory.path());
    if result.is_err() {
        print_log(&directory.path().join(LOG));
    }
    result.map(|()| 0)
}

/// What minivmm and the guest's console say.
const LOG: &str = "minivmm.log";

fn show(directory: &Path) -> Result<()> {
    let data = directory.join("adguard-data");
    fs::create_dir(&data)?;
    // The example's paths are relative to the checkout, where target is.
    symlink(workspace::target(), directory.join("target"))?;
    let vm = || Vm::start(directory, &directory.join(LOG));

    let steps = Steps::new(11);
    steps.step(
        "two network namespaces: a bridge with the VM's tap, and a client behind it",
        network::make,
    )?;
    let mut first = steps.step("first boot, until DNS answers", || boot(&vm))?;
    steps.step("an allowed name is answered over UDP and TCP", || {
        answered(LOCAL.0, LOCAL.1)
    })?;
    steps.step("a blocked name gets 0.0.0.0 over UDP and TCP", || {
        answered(BLOCKED, NOWHERE)
    })?;
    let log = steps.step("the host reads both names in the query log", || {
        read_log(&data, &[LOCAL.0, BLOCKED])
    })?;
    steps.step(
        "SIGTERM: the power button, and the guest powers off",
        || first.power_off(),
    )?;
    let born = fs::read_to_string(data.join("first-boot"))
        .context("the guest did not note its first boot")?;

    steps.step("the host adds a list of names to be blocked", || {
        let list = data.join("lists.d/added.hosts");
        fs::write(&list, format!("{NOWHERE} {ADDED}\n"))
            .with_context(|| format!("cannot write {}", list.display()))
    })?;
    let mut second = steps.step("second boot, until DNS answers", || boot(&vm))?;
    steps.step("the new list is used, and the old rules still hold", || {
        answered(ADDED, NOWHERE)?;
        answered(BLOCKED, NOWHERE)
    })?;
    steps.step("the data of the first boot is still there", || {
        let now = read_log(&data, &[LOCAL.0, BLOCKED, ADDED])?;
        ensure!(
            now.starts_with(&log) && now.len() > log.len(),
            "the query log was not continued"
        );
        let noted = fs::read_to_string(data.join("first-boot"))?;
        ensure!(
            noted == born,
            "the guest took its second boot for its first"
        );
        Ok(())
    })?;
    steps.step("SIGTERM: the guest powers off again", || second.power_off())?;
    steps.finish("the demo itself");
    Ok(())
}

fn boot(start: &impl Fn() -> Result<Vm>) -> Result<Vm> {
    let mut vm = start()?;
    vm.wait_until(|| {
        network::ask(LOCAL.0, Transport::Udp).is_ok_and(|answers| !answers.is_empty())
    })
    .with_context(|| format!("{GUEST} does not answer"))?;
    Ok(vm)
}

fn answered(name: &str, address: &str) -> Result<()> {
    for transport in [Transport::Udp, Transport::Tcp] {
        let answers = network::ask(name, transport)?;
        ensure!(
            answers == [address],
            "{name} over {transport:?}: asked for {address}, got {answers:?}"
        );
    }
    Ok(())
}

/// The query log, which must have a question of the client's for each of `names`.
fn read_log(data: &Path, names: &[&str]) -> Result<String> {
    let path = data.join("queries.log");
    let log =
        fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    for name in names {
        let question = format!("query[A] {name} from {}", network::CLIENT);
        ensure!(
            log.contains(&question),
            "{} has no line with: {question}",
            path.display()
        );
    }
    Ok(log)
}

fn print_log(path: &Path) {
    const LINES: usize = 60;
    let log = fs::read(path).unwrap_or_default();
    let log = String::from_utf8_lossy(&log);
    let lines: Vec<_> = log.lines().collect();
    println!("the last lines of minivmm and the guest's console:");
    for line in &lines[lines.len().saturating_sub(LINES)..] {
        println!("  {line}");
    }
}
