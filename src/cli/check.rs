//! `minivmm check`.

use std::process::ExitCode;

use minivmm_vmm::{check, kvm};
use serde::Serialize;

use crate::failure::{Failure, code};

/// Runs the tiny guest and says what it found.
pub fn check(json: bool) -> Result<ExitCode, Failure> {
    let device = kvm::open().map_err(Failure::host)?;
    let report = check::check(device.into()).map_err(Failure::host)?;
    let code = match report.is_able() {
        true => ExitCode::SUCCESS,
        false => ExitCode::from(code::HOST),
    };
    if json {
        super::say_json(&Json {
            able: report.is_able(),
            report: &report,
        })?;
        return Ok(code);
    }
    super::say(format_args!("host: {}", report.host));
    for step in &report.passed {
        super::say(format_args!("ok: {step}"));
    }
    if let Some(rate) = report.instructions_per_second {
        super::say(format_args!(
            "speed: {} million instructions a second",
            rate / 1_000_000
        ));
    }
    match report.obstacle {
        None => super::say("KVM is able here: Linux guests can run"),
        Some(obstacle) => super::say(format_args!("KVM is not able here: {obstacle}")),
    }
    Ok(code)
}

/// The object of `--json`.
#[derive(Serialize)]
struct Json<'a> {
    /// Whether Linux guests can run here.
    able: bool,
    #[serde(flatten)]
    report: &'a check::Report,
}
