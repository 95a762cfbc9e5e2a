//! `minivmm run`.

use std::{path::Path, process::ExitCode};

use crate::config_file::ConfigFile;
use crate::{failure::Failure, supervisor};

/// Runs the VM of a configuration file until it ends.
pub fn run(path: &Path, log_level: &str) -> Result<ExitCode, Failure> {
    let file = ConfigFile::read(path)?;
    let outcome = supervisor::run(&file, log_level).map_err(|failure| file.located(failure))?;
    let status = file.config.lifecycle.exit_status;
    Ok(ExitCode::from(outcome.exit_code(status)))
}
