//! A configuration file, and the place in it that an error is about.

use std::{
    io::Read,
    path::{Path, PathBuf},
};

use minivmm_vmm::{
    VmConfig,
    config::{Limits, default_uuid, line_about},
};

use crate::{failure::Failure, machine_id::machine_id, regular_file};

/// A configuration that is within its limits, with the text that it is from.
pub struct ConfigFile {
    /// Where it is.
    pub path: PathBuf,
    /// Its text.
    pub text: String,
    /// What it says.
    pub config: VmConfig,
}

impl ConfigFile {
    /// Reads and checks the file at `path`, and gives a VM without UUID the one that it has on this host.
    pub fn read(path: &Path) -> Result<Self, Failure> {
        let name = path.display();
        let text = read_text(path)?;
        let config = VmConfig::from_toml(&text).map_err(|error| {
            let line = error.line.map(|n| format!("{n}:")).unwrap_or_default();
            Failure::config(format!("{name}:{line} {}", error.message))
        })?;
        let mut file = Self {
            path: path.to_owned(),
            text,
            config,
        };
        let valid = file.config.validate();
        valid.map_err(|error| file.located(Failure::config(error)))?;
        let config = &mut file.config;
        config
            .uuid
            .get_or_insert_with(|| default_uuid(machine_id(), &config.name));
        Ok(file)
    }

    /// Names this file and the line, where a failure is about a key of it.
    pub fn located(&self, failure: Failure) -> Failure {
        let name = self.path.display();
        failure.of_config(|message| match line_about(&self.text, message) {
            Some(line) => format!("{name}:{line}: {message}"),
            None => format!("{name}: {message}"),
        })
    }
}

fn read_text(path: &Path) -> Result<String, Failure> {
    let name = path.display();
    let failed = |error| Failure::config(format!("{name}: {error}"));
    let file = regular_file::open(path).map_err(failed)?;
    // One byte more than there may be: files of /proc and /sys do not tell their size.
    let mut bytes = Vec::new();
    file.take(Limits::FILE + 1)
        .read_to_end(&mut bytes)
        .map_err(failed)?;
    if bytes.len() as u64 > Limits::FILE {
        return Err(Failure::config(format!(
            "{name}: more than {} bytes are no configuration",
            Limits::FILE
        )));
    }
    String::from_utf8(bytes).map_err(|error| {
        let good = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        let line = good.iter().filter(|byte| **byte == b'\n').count() + 1;
        Failure::config(format!(
            "{name}:{line}: not UTF-8: save the file in that encoding"
        ))
    })
}
