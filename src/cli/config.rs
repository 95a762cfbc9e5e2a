//! `minivmm config check`.

use std::{path::Path, process::ExitCode};

use crate::{failure::Failure, supervisor::Opened};

/// Checks a configuration file and opens everything that it names, but for the taps, which would be taken
/// from a VM that runs.
pub fn check(path: &Path) -> Result<ExitCode, Failure> {
    let config = super::load(path)?;
    Opened::check(&config)?;
    super::say(format_args!(
        "{}: VM `{}` is fine",
        path.display(),
        config.name
    ));
    Ok(ExitCode::SUCCESS)
}
