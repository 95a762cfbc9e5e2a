//! The Nix side: what `nix/` makes of VMs of microvm.nix, evaluated and built by Nix against the stubs in `nix/tests`, without
//! a network, a daemon or a store of this machine's.
//!
//! Environment: `NIXPKGS_LIB` and `MICROVM_NIX` are checkouts of nixpkgs' lib and of microvm.nix, against which the same is
//! run as well; `MINIVMM_REQUIRE_NIX` makes a machine without Nix a failure instead of a skip.

mod flake;
mod golden;
mod guest;
mod host;
mod nix;
mod package;
mod refused;
mod scripts;
mod upstream;

use std::process::ExitCode;

use libtest_mimic::{Arguments, Trial};

use nix::World;

/// A test by name, of the stubs or of checkouts.
struct Test {
    name: &'static str,
    run: fn(&World) -> anyhow::Result<()>,
}

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let obstacle = nix::obstacle();
    if let Some(obstacle) = &obstacle {
        eprintln!("skipping all tests of Nix: {obstacle}");
        if std::env::var_os("MINIVMM_REQUIRE_NIX").is_some() {
            return ExitCode::FAILURE;
        }
    }
    let shared = [
        golden::TESTS,
        guest::TESTS,
        host::TESTS,
        refused::TESTS,
        scripts::TESTS,
    ];
    let alone = [flake::TESTS, package::TESTS];
    let mut trials = Vec::new();
    for test in shared.iter().chain(&alone).copied().flatten() {
        trials.push(trial(test, test.name.to_owned(), World::stubs()));
    }
    if let Some(real) = World::checkouts() {
        for test in shared.iter().chain(&[upstream::TESTS]).copied().flatten() {
            let name = format!("checkouts::{}", test.name);
            trials.push(trial(test, name, real.clone()));
        }
    }
    let skipped = |trial: Trial| trial.with_ignored_flag(obstacle.is_some());
    let trials = trials.into_iter().map(skipped).collect();
    libtest_mimic::run(&arguments, trials).exit_code()
}

fn trial(test: &Test, name: String, world: World) -> Trial {
    let run = test.run;
    Trial::test(name, move || {
        run(&world).map_err(|error| format!("{error:#}").into())
    })
}
