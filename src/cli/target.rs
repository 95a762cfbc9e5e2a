//! Which VM a verb is about.

use std::path::PathBuf;

use clap::Args;
use clap_complete::ArgValueCandidates;

use super::made;
use crate::client::Target;

/// A VM that runs, by its name or its socket.
#[derive(Args, Clone, Debug)]
#[group(required = true, multiple = false)]
pub struct TargetArgs {
    /// The VM's name, as `minivmm list` shows it
    #[arg(value_name = "NAME", add = ArgValueCandidates::new(made::running))]
    name: Option<String>,
    /// The VM's control socket, instead of its name
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
}

impl TargetArgs {
    /// The VM.
    pub fn target(&self) -> Target {
        match (&self.name, &self.socket) {
            (_, Some(socket)) => Target::Socket(socket.clone()),
            (name, None) => Target::Name(name.clone().unwrap_or_default()),
        }
    }
}
