//! `minivmm config check`.

use std::{path::Path, process::ExitCode};

use minivmm_vmm::VmConfig;

use super::plan::Report;
use crate::config_file::ConfigFile;
use crate::{
    failure::Failure,
    supervisor::{Opened, ids_notice, only_in_a_unit},
};

/// How much is said of a configuration that is fine.
pub enum Detail {
    /// One line.
    Line,
    /// The machine that it makes.
    Table,
    /// The same as one JSON object.
    Json,
}

/// Checks a configuration file and the files and directories that it names.
pub fn check(path: &Path, detail: Detail) -> Result<ExitCode, Failure> {
    let file = ConfigFile::read(path)?;
    let checked = Opened::check(&file.config).map_err(|failure| file.located(failure))?;
    let notices = file.config.shares.iter().filter_map(|share| {
        let notice = ids_notice(share)?;
        Some(format!("share `{}`: {notice}", share.tag))
    });
    let mut notices: Vec<String> = notices.collect();
    let missing = file.config.credentials.iter().zip(&checked.credentials);
    let missing = missing.filter(|(_, found)| found.is_none());
    notices.extend(missing.map(|(credential, _)| only_in_a_unit(credential)));
    match detail {
        Detail::Line => {
            notices.iter().for_each(super::say);
            super::say(format_args!(
                "{}: VM `{}` is fine",
                path.display(),
                file.config.name
            ));
        }
        Detail::Table => Report::new(&file, checked, notices)?.print(),
        Detail::Json => super::say_json(&Report::new(&file, checked, notices)?)?,
    }
    Ok(ExitCode::SUCCESS)
}

/// Prints the schema of configuration files.
pub fn schema() -> Result<ExitCode, Failure> {
    super::say_json(&VmConfig::json_schema())?;
    Ok(ExitCode::SUCCESS)
}
