//! `minivmm config check`.

use std::{path::Path, process::ExitCode};

use minivmm_vmm::VmConfig;

use super::config_file::ConfigFile;
use crate::{
    failure::Failure,
    supervisor::{Opened, ids_notice},
};

/// Checks a configuration file and the files and directories that it names.
pub fn check(path: &Path) -> Result<ExitCode, Failure> {
    let file = ConfigFile::read(path)?;
    Opened::check(&file.config).map_err(|failure| file.located(failure))?;
    for share in &file.config.shares {
        if let Some(notice) = ids_notice(share) {
            super::say(format_args!("share `{}`: {notice}", share.tag));
        }
    }
    super::say(format_args!(
        "{}: VM `{}` is fine",
        path.display(),
        file.config.name
    ));
    Ok(ExitCode::SUCCESS)
}

/// Prints the schema of configuration files.
pub fn schema() -> Result<ExitCode, Failure> {
    // The alternate form of a JSON value is the indented one.
    super::say(format_args!("{:#}", VmConfig::json_schema()));
    Ok(ExitCode::SUCCESS)
}
