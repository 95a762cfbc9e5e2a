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

/// How far is looked.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// At the file's text.
    File,
    /// At the files and directories that it names, too.
    Named,
}

/// Checks a configuration file and, unless it is to be the file alone, the files and directories that it names.
pub fn check(path: &Path, reach: Reach, detail: Detail) -> Result<ExitCode, Failure> {
    let file = ConfigFile::read(path)?;
    let checked = match reach {
        Reach::File => None,
        Reach::Named => Some(Opened::check(&file.config).map_err(|failure| file.located(failure))?),
    };
    let mut notices = Vec::new();
    if let Some(checked) = &checked {
        notices.extend(file.config.shares.iter().filter_map(|share| {
            let notice = ids_notice(share)?;
            Some(format!("share `{}`: {notice}", share.tag))
        }));
        let missing = file.config.credentials.iter().zip(&checked.credentials);
        let missing = missing.filter(|(_, found)| found.is_none());
        notices.extend(missing.map(|(credential, _)| only_in_a_unit(credential)));
    }
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
