//! `minivmm run`.

use std::{path::Path, process::ExitCode};

use crate::{failure::Failure, supervisor};

/// Runs the VM of a configuration file until it ends.
pub fn run(path: &Path, log_level: &str) -> Result<ExitCode, Failure> {
    let config = super::load(path)?;
    let end = supervisor::run(&config, log_level)?;
    Ok(ExitCode::from(crate::failure::exit_code(&end)))
}
