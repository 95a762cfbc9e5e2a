//! `minivmm install-units`.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::Args;

use super::say;
use crate::{
    failure::Failure,
    units::{Done, FILES, Units},
};

/// What is installed, and where.
#[derive(Args)]
pub struct InstallUnitsArgs {
    /// The root of the system that the units are for, as of an image that is being built
    #[arg(long, value_name = "DIR", default_value = "/")]
    root: PathBuf,
    /// The units go to PREFIX/lib/systemd/system; packages take /usr
    #[arg(long, value_name = "PREFIX", default_value = "/usr/local")]
    prefix: PathBuf,
    /// Print a file instead of installing: minivmm@.service, minivmm.target, strict.conf or unprivileged.conf
    #[arg(long, value_name = "FILE", num_args = 0..=1, default_missing_value = "minivmm@.service",
          value_parser = FILES.map(|file| file.name))]
    print: Option<String>,
    /// Remove what was installed
    #[arg(long, conflicts_with = "print")]
    uninstall: bool,
}

/// Puts the systemd units where systemd finds them, and says what to do next.
pub fn run(args: &InstallUnitsArgs) -> Result<ExitCode, Failure> {
    let units = Units::new(&args.root, &args.prefix);
    if args.uninstall {
        tell(&units.uninstall()?);
        next(&args.root, &["systemctl daemon-reload"]);
        return Ok(ExitCode::SUCCESS);
    }
    let program = std::env::current_exe()
        .map_err(|error| Failure::host(format!("this program's path is not known: {error}")))?;
    let program = units.program(&program)?;
    if let Some(name) = &args.print {
        for file in FILES.iter().filter(|file| file.name == name) {
            say(file.text(&program).trim_end());
        }
        return Ok(ExitCode::SUCCESS);
    }
    tell(&units.install(&program)?);
    next(
        &args.root,
        &[
            "systemctl daemon-reload",
            "mkdir -p /etc/minivmm, and a configuration as /etc/minivmm/NAME.toml",
            "systemctl enable --now minivmm@NAME",
        ],
    );
    Ok(ExitCode::SUCCESS)
}

fn tell(done: &[Done]) {
    for done in done {
        match done {
            Done::Written(path) => say(format_args!("wrote {}", path.display())),
            Done::Unchanged(path) => say(format_args!("unchanged: {}", path.display())),
            Done::Removed(path) => say(format_args!("removed {}", path.display())),
        }
    }
    if done.is_empty() {
        say("there was nothing to remove");
    }
}

/// An image that is being built has no systemd that runs.
fn next(root: &Path, steps: &[&str]) {
    if root == Path::new("/") {
        say("next:");
        for step in steps {
            say(format_args!("  {step}"));
        }
    }
}
