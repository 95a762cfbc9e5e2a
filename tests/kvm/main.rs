//! Real guests on real KVM: `cargo xtask test` (`make test`) runs these where KVM is able, here or in the lab.
//!
//! Environment: `MINIVMM_GUEST` is the directory of the guest's `vmlinuz` and `initrd`, `MINIVMM_VIRTIOFSD`
//! the virtiofsd, `MINIVMM_KERNELS` a directory with a guest for each of several kernels, `MINIVMM_GUEST_DEBIAN` the
//! root of a small Debian, which the lab mounts, `MINIVMM_SOAK` asks for long tests and for all sizes of those that have
//! several, `MINIVMM_SERVICES` the directory of the images of service VMs, whose
//! tests are there only then, `MINIVMM_ONLY` names the tests to run, with commas between them, `MINIVMM_REQUIRE_KVM` makes a host that is not able a failure instead of a skip, `MINIVMM_SCRATCH`
//! is a directory on a real file system.

mod backend_lost;
mod balloon;
mod boot;
mod budgets;
mod clock;
mod console;
mod control;
mod credentials;
mod debian;
mod dns;
mod ends;
mod errors;
mod files;
mod fleet;
mod guest;
mod guest_watchdog;
mod hostile;
mod kernels;
mod list;
mod machine;
mod managed;
mod metrics;
mod net;
mod network;
mod panics;
mod pause;
mod plan;
mod reboot;
mod restart;
mod services;
mod shares;
mod smbios;
mod ssh;
mod start;
mod stop;
mod systemd;
mod tiny;
mod top;
mod user;
mod vm;
mod volumes;
mod vsock;
mod watchdog;

use std::process::{Command, ExitCode};

use libtest_mimic::{Arguments, Trial};

/// A test by name. Those of errors need the guest's files, but no able KVM.
struct Test {
    name: &'static str,
    run: fn() -> anyhow::Result<()>,
}

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    // Tests look at directories and processes that all of them use.
    arguments.test_threads = Some(1);
    let obstacle = obstacle();
    if let Some(obstacle) = &obstacle {
        eprintln!("skipping all tests with guests: {obstacle}");
        eprintln!("`make test` runs them in the lab");
        if std::env::var_os("MINIVMM_REQUIRE_KVM").is_some() {
            return ExitCode::FAILURE;
        }
    }
    let guests = [
        backend_lost::TESTS,
        depth(&[], backend_lost::LONG),
        balloon::TESTS,
        depth(&[], balloon::LONG),
        boot::TESTS,
        budgets::TESTS,
        clock::TESTS,
        console::TESTS,
        control::TESTS,
        credentials::TESTS,
        debian::TESTS,
        depth(&[], debian::LONG),
        dns::TESTS,
        ends::TESTS,
        files::TESTS,
        guest_watchdog::TESTS,
        hostile::TESTS,
        kernels::TESTS,
        list::TESTS,
        machine::TESTS,
        metrics::TESTS,
        panics::TESTS,
        pause::TESTS,
        plan::TESTS,
        reboot::TESTS,
        restart::TESTS,
        shares::TESTS,
        smbios::TESTS,
        ssh::TESTS,
        depth(&[], ssh::LONG),
        start::TESTS,
        stop::TESTS,
        depth(&[], stop::LONG),
        systemd::TESTS,
        depth(&[], systemd::LONG),
        user::TESTS,
        net::TESTS,
        volumes::TESTS,
        depth(&[], volumes::LONG),
        vsock::TESTS,
        &services::tests(),
    ]
    .concat();
    let mut trials: Vec<Trial> = guests
        .into_iter()
        .map(|test| trial(test).with_ignored_flag(obstacle.is_some()))
        .collect();
    let no_guest = std::env::var_os("MINIVMM_GUEST").is_none();
    let errors = [
        errors::tests(),
        managed::TESTS.to_vec(),
        top::TESTS.to_vec(),
    ]
    .concat()
    .into_iter();
    trials.extend(errors.map(|test| trial(test).with_ignored_flag(no_guest)));
    if let Some(only) = std::env::var_os("MINIVMM_ONLY") {
        let only = only.to_string_lossy();
        trials.retain(|trial| only.split(',').any(|name| name == trial.name()));
    }
    libtest_mimic::run(&arguments, trials).exit_code()
}

/// Of two sizes of a test the one that is asked for: `ci` as a rule, `full` where `MINIVMM_SOAK` is set (`make soak`).
pub fn depth<T>(ci: T, full: T) -> T {
    match std::env::var_os("MINIVMM_SOAK") {
        Some(_) => full,
        None => ci,
    }
}

impl Copy for Test {}
impl Clone for Test {
    fn clone(&self) -> Self {
        *self
    }
}

fn trial(test: Test) -> Trial {
    Trial::test(test.name, move || {
        let _watchdog = watchdog::start(test.name);
        (test.run)().map_err(|error| format!("{error:#}").into())
    })
}

/// Why guests cannot run here.
fn obstacle() -> Option<String> {
    if std::env::var_os("MINIVMM_GUEST").is_none() {
        return Some("MINIVMM_GUEST does not name a guest".to_owned());
    }
    let check = Command::new(vm::program()).arg("check").output();
    match check {
        Ok(output) if output.status.success() => None,
        Ok(output) => {
            let said = [output.stdout, output.stderr].concat();
            let said = String::from_utf8_lossy(&said);
            Some(
                said.lines()
                    .last()
                    .unwrap_or("`minivmm check` failed")
                    .to_owned(),
            )
        }
        Err(error) => Some(format!("`minivmm check` does not run: {error}")),
    }
}
