//! `minivmm metrics`.

use std::{
    io::{self, Write},
    process::ExitCode,
};

use serde::Deserialize;

use super::target::TargetArgs;
use crate::{
    client::{Client, PATIENCE},
    failure::Failure,
};

/// Prints a VM's metrics.
pub fn metrics(of: &TargetArgs) -> Result<ExitCode, Failure> {
    #[derive(Deserialize)]
    struct Reply {
        text: String,
    }
    let target = of.target();
    let reply: Reply = Client::connect(&target)
        .and_then(|mut client| client.call("Metrics", &serde_json::json!({}), PATIENCE))
        .map_err(|error| error.of(&target))?;
    // A reader that has gone away is no reason to fail.
    let _ = io::stdout().write_all(reply.text.as_bytes());
    Ok(ExitCode::SUCCESS)
}
