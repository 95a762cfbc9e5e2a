//! All tests: unit tests here, and those that boot guests where KVM is able.

mod guests;
mod parts;
mod record;
mod soak;
mod tally;

use std::collections::BTreeSet;
use std::env;
use std::fs;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context, Result, anyhow};
use serde_json::Value;

use crate::command::{Tied, capture, cargo};
use crate::workspace;
use guests::Needs;
use tally::{Tally, TestOutput};

pub use soak::run as run_soak;

/// The integration test that boots guests. It is a program of its own, run once for all tests in it.
const KVM: &str = "kvm";

/// Where the number of tests is committed that must at least pass.
const EXPECTED: &str = "tests/expected-count";

/// Runs everything; the last line on standard output is the sum. Whether that is good is in the exit code.
pub fn run() -> Result<u8> {
    let needs = Needs::made()?;
    let mut complaints = Vec::new();
    let mut unit = TestOutput::default();
    for arguments in [unit_tests()?, vec!["--doc".to_owned()]] {
        if !cargo_test(&arguments, &needs.virtiofsd, &mut unit)? {
            complaints.push(format!("`cargo test {}` failed", arguments.join(" ")));
        }
    }

    let sum = unit.tally + guests::run(&needs)?;
    let in_ci = env::var_os("CI").is_some_and(|value| !value.is_empty());
    complaints.extend(judge(sum, expected()?, in_ci));
    for complaint in &complaints {
        println!("make test: {complaint}");
    }
    println!("{sum}");
    Ok(u8::from(!complaints.is_empty()))
}

/// What is wrong with the sum.
fn judge(sum: Tally, expected: u32, in_ci: bool) -> Vec<String> {
    let mut complaints = Vec::new();
    if sum.failed > 0 {
        complaints.push(format!("{} tests failed", sum.failed));
    }
    if sum.skipped > 0 && in_ci {
        complaints.push(format!(
            "{} tests were skipped, and in CI none may be",
            sum.skipped
        ));
    }
    if sum.passed < expected {
        complaints.push(format!(
            "{} tests passed, and {EXPECTED} asks for {expected}",
            sum.passed
        ));
    }
    complaints
}

fn expected() -> Result<u32> {
    let path = workspace::root().join(EXPECTED);
    let text =
        fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    text.trim()
        .parse()
        .with_context(|| format!("{} holds no number", path.display()))
}

/// Builds the launcher.
pub fn build_minivmm() -> Result<()> {
    crate::command::run(cargo().args([
        "build",
        "--release",
        "--package",
        "minivmm",
        "--bin",
        "minivmm",
    ]))
}

/// Builds the KVM tests and returns the program's path.
fn build_kvm_tests() -> Result<PathBuf> {
    let messages = capture(
        cargo()
            .args(["test", "--release", "--package", "minivmm", "--test", KVM])
            .args(["--no-run", "--message-format", "json-render-diagnostics"])
            .stderr(Stdio::inherit()),
    )?;
    String::from_utf8_lossy(&messages)
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .filter(|message| message["target"]["name"] == KVM)
        .find_map(|message| Some(PathBuf::from(message["executable"].as_str()?)))
        .ok_or_else(|| anyhow!("cargo made no test program {KVM}"))
}

/// Arguments for `cargo test` that select all but the KVM tests and the documentation's examples.
fn unit_tests() -> Result<Vec<String>> {
    let metadata = capture(cargo().args(["metadata", "--no-deps", "--format-version", "1"]))?;
    let metadata: Value = serde_json::from_slice(&metadata).context("cargo metadata")?;
    let mut arguments = vec!["--lib".to_owned(), "--bins".to_owned()];
    for name in integration_tests(&metadata) {
        if name != KVM {
            arguments.extend(["--test".to_owned(), name.to_owned()]);
        }
    }
    Ok(arguments)
}

/// The names of the workspace's integration tests, each once: cargo runs a name in all packages.
fn integration_tests(metadata: &Value) -> BTreeSet<&str> {
    metadata["packages"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|package| package["targets"].as_array())
        .flatten()
        .filter(|target| target["kind"][0] == "test")
        .filter_map(|target| target["name"].as_str())
        .collect()
}

/// Runs `cargo test` over the workspace and passes its output on. Returns whether it was content.
fn cargo_test(arguments: &[String], virtiofsd: &Path, output: &mut TestOutput) -> Result<bool> {
    let mut command = cargo();
    command
        .args(["test", "--workspace", "--no-fail-fast"])
        .args(arguments)
        .env("MINIVMM_VIRTIOFSD", virtiofsd)
        .env("MINIVMM_REQUIRE_NIX", "1")
        .stdout(Stdio::piped());
    let mut cargo = Tied::start(&mut command)?;
    if let Some(mut stdout) = cargo.0.stdout.take() {
        let mut bytes = [0; 4096];
        while let count @ 1.. = stdout.read(&mut bytes)? {
            io::stdout().write_all(&bytes[..count])?;
            output.write_all(&bytes[..count])?;
        }
    }
    Ok(cargo.0.wait()?.success())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tally(passed: u32, failed: u32, skipped: u32) -> Tally {
        Tally {
            passed,
            failed,
            skipped,
        }
    }

    #[test]
    fn enough_passed_tests_are_good() {
        assert_eq!(judge(tally(10, 0, 0), 10, true), [""; 0]);
    }

    #[test]
    fn a_failed_test_a_missing_one_and_in_ci_a_skipped_one_are_complaints() {
        assert_eq!(judge(tally(10, 1, 0), 10, true).len(), 1);
        assert_eq!(judge(tally(9, 0, 0), 10, true).len(), 1);
        assert_eq!(judge(tally(10, 0, 1), 10, true).len(), 1);
        assert_eq!(judge(tally(10, 0, 1), 10, false).len(), 0);
    }

    #[test]
    fn integration_tests_are_found_in_cargos_metadata() {
        let metadata = serde_json::json!({"packages": [
            {"targets": [{"kind": ["lib"], "name": "a"}, {"kind": ["test"], "name": "kvm"}]},
            {"targets": [{"kind": ["test"], "name": "wire"}]},
            {"targets": [{"kind": ["test"], "name": "wire"}]},
        ]});
        assert_eq!(
            integration_tests(&metadata),
            BTreeSet::from(["kvm", "wire"])
        );
    }
}
