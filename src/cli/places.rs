//! Where the files of a VM are that has only a name.

use std::{env, fs, path::PathBuf};

use rustix::process::geteuid;

use crate::{client::is_name, failure::Failure};

/// The environment variable that replaces the directory of logs.
const LOGS: &str = "MINIVMM_LOG_DIR";

/// The configuration of the VM called `name`: `/etc/minivmm/NAME.toml`, or an ordinary user's
/// `$XDG_CONFIG_HOME/minivmm/NAME.toml`.
pub fn config(name: &str) -> Result<PathBuf, Failure> {
    if !is_name(name) {
        return Err(Failure::config(format!(
            "`{name}` is no VM's name: that has letters, digits, `-`, `_` and `.`; for a file say `--config FILE`"
        )));
    }
    let directory = configs().ok_or_else(|| homeless(name))?;
    let path = directory.join(format!("{name}.toml"));
    if fs::symlink_metadata(&path).is_ok() {
        return Ok(path);
    }
    let others = configured();
    let near = others
        .iter()
        .map(|other| (strsim::damerau_levenshtein(name, other), other))
        .min();
    let hint = match near {
        Some((distance, near)) if distance <= name.len().div_ceil(3) => {
            format!("did you mean `{near}`?")
        }
        _ => "say which file with `--config FILE`".to_owned(),
    };
    Err(Failure::config(format!(
        "there is no VM called `{name}`: {} does not exist; {hint}",
        path.display()
    )))
}

/// The names that have a configuration.
pub fn configured() -> Vec<String> {
    let entries = configs().and_then(|directory| fs::read_dir(directory).ok());
    let names = entries.into_iter().flatten().flatten().filter_map(|entry| {
        let name = entry.file_name().into_string().ok()?;
        Some(name.strip_suffix(".toml")?.to_owned())
    });
    let mut names: Vec<_> = names.filter(|name| is_name(name)).collect();
    names.sort_unstable();
    names
}

fn configs() -> Option<PathBuf> {
    match geteuid().is_root() {
        true => Some(system_configs()),
        false => Some(home("XDG_CONFIG_HOME", ".config")?.join("minivmm")),
    }
}

/// Where systemd's units have their configurations.
pub fn system_configs() -> PathBuf {
    "/etc/minivmm".into()
}

/// The directory in which the VM called `name` runs that was started by its name: as that of the unit.
pub fn working_directory(name: &str) -> Result<PathBuf, Failure> {
    let state = match geteuid().is_root() {
        true => "/var/lib/minivmm".into(),
        false => state(name)?,
    };
    Ok(state.join(name))
}

/// The directory of the logs of VMs that are started in the background.
pub fn logs(name: &str) -> Result<PathBuf, Failure> {
    match env::var_os(LOGS) {
        Some(directory) => Ok(directory.into()),
        None if geteuid().is_root() => Ok("/var/log/minivmm".into()),
        None => state(name),
    }
}

fn state(name: &str) -> Result<PathBuf, Failure> {
    let state = home("XDG_STATE_HOME", ".local/state").ok_or_else(|| homeless(name))?;
    Ok(state.join("minivmm"))
}

/// A directory of the XDG Base Directory Specification.
fn home(variable: &str, default: &str) -> Option<PathBuf> {
    let given = env::var_os(variable).map(PathBuf::from);
    let given = given.filter(|path| path.is_absolute());
    given.or_else(|| {
        let home = PathBuf::from(env::var_os("HOME")?);
        home.is_absolute().then(|| home.join(default))
    })
}

fn homeless(name: &str) -> Failure {
    Failure::host(format!(
        "there is no place for the files of `{name}`: HOME is not set to a directory"
    ))
}
