//! `minivmm status`.

use std::process::ExitCode;

use super::target::TargetArgs;
use crate::{
    client::{Client, PATIENCE},
    failure::Failure,
};

/// Says what a VM is doing.
pub fn status(of: &TargetArgs, json: bool) -> Result<ExitCode, Failure> {
    let target = of.target();
    let status = Client::connect(&target)
        .and_then(|mut client| client.status(PATIENCE))
        .map_err(|error| error.of(&target))?;
    if json {
        super::say_json(&status)?;
    } else {
        super::say(format_args!("{}: {}", status.name, status.state));
    }
    Ok(ExitCode::SUCCESS)
}
