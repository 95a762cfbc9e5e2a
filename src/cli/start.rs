//! `minivmm start` and `minivmm restart`.

mod background;
mod log_file;

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::Args;
use clap_complete::ArgValueCandidates;

use super::{
    made, places, stop,
    target::TargetArgs,
    unit::{Unit, Wait},
};
use crate::{
    client::{Client, Error, PATIENCE, Target},
    config_file::ConfigFile,
    failure::Failure,
    runtime_dir::{self, Holder},
    supervisor::Opened,
};

/// Which VM to start.
#[derive(Args, Clone, Debug)]
#[group(required = true, multiple = false)]
pub struct Which {
    /// The VM's name: of `/etc/minivmm/NAME.toml`, or of an ordinary user's `~/.config/minivmm/NAME.toml`
    #[arg(value_name = "NAME", add = ArgValueCandidates::new(made::configured))]
    name: Option<String>,
    /// The VM's configuration, a TOML file
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,
}

/// Starts a VM in the background.
pub fn start(which: &Which, wait: Wait, log_level: &str) -> Result<ExitCode, Failure> {
    match (&which.config, &which.name) {
        (Some(path), _) => {
            let file = checked(path)?;
            in_background(&file, wait, log_level)
        }
        (None, name) => start_named(name.as_deref().unwrap_or_default(), wait, log_level),
    }
}

fn start_named(name: &str, wait: Wait, log_level: &str) -> Result<ExitCode, Failure> {
    if let Some(unit) = Unit::configured(name) {
        // Of a file that is wrong systemd would say only that it has failed.
        ConfigFile::read(&places::system_configs().join(format!("{name}.toml")))?;
        return unit.start(wait);
    }
    let path = places::config(name)?;
    let directory = places::working_directory(name)?;
    fs::create_dir_all(&directory)
        .and_then(|()| env::set_current_dir(&directory))
        .map_err(|error| Failure::host(format!("{}: {error}", directory.display())))?;
    let file = checked(&path)?;
    is_of(&file, name)?;
    in_background(&file, wait, log_level)
}

/// Stops a VM and starts it with its configuration as it is now.
pub fn restart(
    of: &TargetArgs,
    stopping: &stop::StopArgs,
    log_level: &str,
) -> Result<ExitCode, Failure> {
    let target = of.target();
    let wait = stopping.wait();
    if let Target::Name(name) = &target
        && let Some(unit) = Unit::of_running(name).or_else(|| Unit::configured(name))
    {
        ConfigFile::read(&places::system_configs().join(format!("{name}.toml")))?;
        return unit.restart(wait);
    }
    let status = Client::connect(&target).and_then(|mut client| client.status(PATIENCE));
    let status = match (status, &target) {
        (Ok(status), _) => status,
        (Err(Error::NotRunning), Target::Name(name)) if places::config(name).is_ok() => {
            super::say(format_args!("{target}: did not run"));
            return start_named(name, wait, log_level);
        }
        (Err(error), _) => return Err(error.of(&target)),
    };
    env::set_current_dir(&status.working_directory).map_err(|error| {
        let directory = &status.working_directory;
        Failure::host(format!(
            "the VM's working directory, {directory}: {error}: it runs on"
        ))
    })?;
    let file = checked(Path::new(&status.config))?;
    is_of(&file, &status.name)?;
    stop::directly(&target, &stopping.waiting())?;
    in_background(&file, wait, log_level)
}

/// A configuration that is right, with all that it names.
fn checked(path: &Path) -> Result<ConfigFile, Failure> {
    let file = ConfigFile::read(path)?;
    Opened::check(&file.config).map_err(|failure| file.located(failure))?;
    Ok(file)
}

fn is_of(file: &ConfigFile, name: &str) -> Result<(), Failure> {
    if file.config.name == name {
        return Ok(());
    }
    let error = format!("name: it is `{}`, and not `{name}`", file.config.name);
    Err(file.located(Failure::config(error)))
}

fn in_background(file: &ConfigFile, wait: Wait, log_level: &str) -> Result<ExitCode, Failure> {
    let name = &file.config.name;
    // Before the log of the one that runs is touched.
    if let Some(directory) = runtime_dir::own(name)
        && let Holder::Process(pid) = runtime_dir::holder(&directory)
    {
        return Err(runtime_dir::runs_already(name, pid));
    }
    background::start(file, wait, log_level)
}
