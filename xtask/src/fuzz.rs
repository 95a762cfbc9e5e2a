//! Fuzzing, as CI does it: every target for a while, with the stable compiler and without cargo-fuzz.
//!
//! The targets and their seeds are in `fuzz/`; `cargo fuzz run TARGET` runs them as well, where it is installed. What
//! is found on the way (a growing corpus, logs, inputs that crash) stays in `target/fuzz`.

mod report;

use std::collections::{BTreeSet, VecDeque};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::command::{Tied, capture, cargo, program, quiet_in_a_pipe, run};
use crate::{tools, workspace};
use report::Report;

/// The only machine that minivmm runs on. Named, the flags below are not those of build scripts and macros.
const TRIPLE: &str = "x86_64-unknown-linux-gnu";

/// What `cargo fuzz --sanitizer none` gives to the compiler, as far as stable ones take it: counters that libFuzzer
/// reads, and checks that turn a wrong sum or a wrong assumption into a crash.
const FLAGS: &str = "--cfg fuzzing -Cpasses=sancov-module \
    -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
    -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares \
    -Cdebug-assertions -Coverflow-checks -Ccodegen-units=1";

/// More memory than any target needs; a guest that makes us take it has won.
const RSS_LIMIT_MIB: u32 = 1024;
/// Seconds for one input: none needs a hundredth of it, on a machine that does other things too.
const INPUT_TIMEOUT: u32 = 20;
/// Fewer runs per second are no fuzzing: the target waits for something, or does not start.
const FLOOR_PER_SECOND: u64 = 10;
/// How much longer than asked a target may take, to read its corpus and to end.
const GRACE: Duration = Duration::from_secs(60);

/// Runs `wanted` targets (all, if it names none) for `seconds` each, and prints a table. 1 if something was found.
pub fn run_targets(wanted: &[String], seconds: u64) -> Result<u8> {
    tools::packages()?;
    let known = targets()?;
    let chosen = choose(&known, wanted)?;
    build()?;

    let queue = Mutex::new(VecDeque::from(chosen));
    let reports = Mutex::new(Vec::new());
    let workers = thread::available_parallelism().map_or(1, usize::from);
    thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                while let Some(target) = lock(&queue).pop_front() {
                    let report = fuzz(&target, seconds);
                    lock(&reports).push((target, report));
                }
            });
        }
    });

    let mut reports = reports.into_inner().unwrap_or_else(PoisonError::into_inner);
    reports.sort_by(|one, other| one.0.cmp(&other.0));
    let floor = FLOOR_PER_SECOND * seconds;
    let (mut rows, mut complaints) = (Vec::new(), Vec::new());
    for (target, report) in reports {
        let report = report.with_context(|| format!("fuzz target {target}"))?;
        complaints.extend(report.complaint(&target, floor, &log(&target)));
        rows.push((target, report));
    }
    println!("{}", report::table(&rows, floor));
    for complaint in &complaints {
        println!("{complaint}");
    }
    Ok(u8::from(!complaints.is_empty()))
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn home() -> PathBuf {
    workspace::target().join("fuzz")
}

fn log(target: &str) -> PathBuf {
    home().join("logs").join(target)
}

fn binary(target: &str) -> PathBuf {
    home().join(TRIPLE).join("release").join(target)
}

fn manifest() -> PathBuf {
    workspace::root().join("fuzz/Cargo.toml")
}

/// The programs of the fuzz workspace.
fn targets() -> Result<BTreeSet<String>> {
    let metadata = capture(
        cargo()
            .args(["metadata", "--no-deps", "--format-version", "1"])
            .arg("--manifest-path")
            .arg(manifest()),
    )?;
    let metadata: Value = serde_json::from_slice(&metadata).context("cargo metadata")?;
    let names = metadata["packages"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|package| package["targets"].as_array())
        .flatten()
        .filter(|target| target["kind"][0] == "bin")
        .filter_map(|target| target["name"].as_str())
        .map(str::to_owned);
    Ok(names.collect())
}

fn choose(known: &BTreeSet<String>, wanted: &[String]) -> Result<Vec<String>> {
    if let Some(unknown) = wanted.iter().find(|name| !known.contains(*name)) {
        let known: Vec<_> = known.iter().map(String::as_str).collect();
        bail!(
            "there is no fuzz target {unknown}; there are {}",
            known.join(", ")
        );
    }
    Ok(known
        .iter()
        .filter(|name| wanted.is_empty() || wanted.contains(name))
        .cloned()
        .collect())
}

fn build() -> Result<()> {
    let mut build = cargo();
    build
        .args(["build", "--release", "--bins", "--target", TRIPLE])
        .arg("--manifest-path")
        .arg(manifest())
        .arg("--target-dir")
        .arg(home())
        .env("RUSTFLAGS", FLAGS);
    run(quiet_in_a_pipe(&mut build))
}

/// Runs one target. What it says goes into its log.
fn fuzz(target: &str, seconds: u64) -> Result<Report> {
    let corpus = home().join("corpus").join(target);
    let artifacts = home().join("artifacts").join(target);
    for directory in [&corpus, &artifacts, &home().join("logs")] {
        fs::create_dir_all(directory).with_context(|| directory.display().to_string())?;
    }
    let before = artifacts_in(&artifacts)?;
    let seeds = workspace::root().join("fuzz/seeds").join(target);
    if !seeds.is_dir() {
        bail!("it has no seeds: make a few in {}", seeds.display());
    }

    let log_file = File::create(log(target))?;
    let mut command = program(binary(target));
    command
        .arg(format!("-max_total_time={seconds}"))
        .arg(format!("-timeout={INPUT_TIMEOUT}"))
        .arg(format!("-rss_limit_mb={RSS_LIMIT_MIB}"))
        .arg(format!("-artifact_prefix={}/", artifacts.display()))
        .arg("-print_final_stats=1")
        .args([&corpus, &seeds])
        .stdout(Stdio::null())
        .stderr(log_file);
    let mut child = Tied::start(&mut command)?;
    let deadline = Instant::now() + Duration::from_secs(seconds) + GRACE;
    let status = loop {
        match child.0.try_wait()? {
            Some(status) => break Some(status),
            None if Instant::now() > deadline => break None,
            None => thread::sleep(Duration::from_millis(50)),
        }
    };
    drop(child);
    let said = fs::read(log(target))?;
    let found = artifacts_in(&artifacts)?
        .difference(&before)
        .cloned()
        .collect();
    Ok(Report::new(&String::from_utf8_lossy(&said), status, found))
}

fn artifacts_in(directory: &Path) -> Result<BTreeSet<PathBuf>> {
    fs::read_dir(directory)?
        .map(|entry| Ok(entry?.path()))
        .collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn all_targets_are_chosen_unless_some_are_named_and_unknown_ones_are_an_error() {
        let known: BTreeSet<String> = ["a", "b", "c"].map(String::from).into();
        assert_eq!(choose(&known, &[]).unwrap(), ["a", "b", "c"]);
        assert_eq!(choose(&known, &["b".to_owned()]).unwrap(), ["b"]);
        let error = choose(&known, &["d".to_owned()]).unwrap_err();
        assert!(error.to_string().contains("a, b, c"));
    }

    #[test]
    fn every_target_is_committed_with_its_seeds() {
        let targets = targets().unwrap();
        assert!(!targets.is_empty());
        for target in targets {
            let seeds = workspace::root().join("fuzz/seeds").join(&target);
            let mut entries = fs::read_dir(&seeds).unwrap();
            assert!(entries.next().is_some(), "{}", seeds.display());
        }
    }
}
