//! `minivmm pause`, `minivmm resume` and `minivmm reboot`.

use std::{
    process::ExitCode,
    thread,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use super::target::TargetArgs;
use crate::{
    board::State,
    client::{Client, Error, PATIENCE, Target},
    control::interface::RebootParameters,
    failure::Failure,
};

/// How often a VM that reboots is asked how far it is.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// How long the socket of a VM that reboots may be silent.
const SILENCE: Duration = PATIENCE;

/// Keeps a guest from running.
pub fn pause(of: &TargetArgs) -> Result<ExitCode, Failure> {
    simply(&of.target(), "Pause", "paused")
}

/// Lets it run again.
pub fn resume(of: &TargetArgs) -> Result<ExitCode, Failure> {
    simply(&of.target(), "Resume", "runs")
}

fn simply(target: &Target, method: &str, said: &str) -> Result<ExitCode, Failure> {
    Client::connect(target)
        .and_then(|mut client| client.call::<Value>(method, &json!({}), PATIENCE))
        .map_err(|error| error.of(target))?;
    super::say(format_args!("{target}: {said}"));
    Ok(ExitCode::SUCCESS)
}

/// Ends a run of a VM, and waits for the next one unless `no_wait`.
pub fn reboot(of: &TargetArgs, force: bool, no_wait: bool) -> Result<ExitCode, Failure> {
    let target = of.target();
    let said = ask_to_reboot(&target, force, no_wait).map_err(|error| error.of(&target))?;
    super::say(format_args!("{target}: {said}"));
    Ok(ExitCode::SUCCESS)
}

fn ask_to_reboot(target: &Target, force: bool, no_wait: bool) -> Result<&'static str, Error> {
    let mut client = Client::connect(target)?;
    let before = client.status(PATIENCE)?.restarts;
    let parameters = RebootParameters { force: Some(force) };
    client.call::<Value>("Reboot", &parameters, PATIENCE)?;
    if no_wait {
        return Ok("reboots");
    }
    let mut heard = Instant::now();
    loop {
        match client.status(PATIENCE) {
            Ok(status) => {
                heard = Instant::now();
                if status.restarts > before && status.state == State::Running {
                    return Ok("runs again");
                }
            }
            Err(error) if heard.elapsed() > SILENCE => return Err(error),
            Err(error @ (Error::Gone | Error::NotRunning)) => return Err(error),
            Err(_) => {}
        }
        thread::sleep(LOOK_EVERY);
    }
}
