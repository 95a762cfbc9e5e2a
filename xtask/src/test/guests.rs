//! The tests that boot guests: one run of all, and where the lab may be at fault, one more of what failed.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;

use super::parts;
use super::tally::{Ran, Tally};
use crate::command::{capture_text, program};
use crate::guest::{self, Guests};
use crate::lab::{self, Job};
use crate::progress::Steps;
use crate::{tools, workspace};

/// So many tests may be repeated: with more than one CPU QEMU's software CPU has lost its way under a running kernel, in one
/// test of fifty (docs/lab.md); more than that is not its doing. Where KVM is able nothing is ever repeated.
const REPEATED: usize = 4;

/// After this long the tests are ended.
const TIMEOUT: Duration = Duration::from_secs(60 * 60);

/// What the tests need.
#[derive(Debug)]
pub struct Needs {
    /// The program virtiofsd.
    pub virtiofsd: PathBuf,
    guests: Guests,
    tests: PathBuf,
}

impl Needs {
    /// Makes what is missing.
    pub fn made() -> Result<Self> {
        let steps = Steps::new(4 + guest::STEPS);
        steps.step("Debian packages", tools::packages)?;
        let needs = Self {
            virtiofsd: steps.loud("virtiofsd", tools::virtiofsd)?,
            guests: guest::all(&steps)?,
            tests: {
                steps.loud("minivmm", super::build_minivmm)?;
                steps.loud("the KVM tests", super::build_kvm_tests)?
            },
        };
        steps.finish("what the tests need");
        Ok(needs)
    }

    /// The test program with the tests of these names, as a job for where KVM is able.
    pub fn job(&self, names: &[String], depth: Depth) -> Job {
        let mut job = Job::new(vec![self.tests.clone().into(), "--test-threads=1".into()]);
        job.timeout = TIMEOUT;
        job.environment = [
            ("MINIVMM_REQUIRE_KVM", OsString::from("1")),
            ("MINIVMM_GUEST", self.guests.dns.clone().into()),
            ("MINIVMM_KERNELS", self.guests.kernels.clone().into()),
            ("MINIVMM_BIN", workspace::minivmm().into()),
            ("MINIVMM_VIRTIOFSD", self.virtiofsd.clone().into()),
            ("MINIVMM_ONLY", names.join(",").into()),
        ]
        .into_iter()
        .chain(depth.variable())
        .map(|(name, value)| (name.to_owned(), value))
        .collect();
        job
    }

    /// The names of all tests.
    pub fn names(&self, depth: Depth) -> Result<Vec<String>> {
        let mut list = program(&self.tests);
        list.arg("--list").envs(depth.variable());
        let list = capture_text(&mut list)?;
        let names = list.lines().filter_map(|line| line.strip_suffix(": test"));
        Ok(names.map(str::to_owned).collect())
    }
}

/// Of tests that have two sizes, which.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Depth {
    /// What CI has time for.
    Ci,
    /// All of it.
    Full,
}

impl Depth {
    fn variable(self) -> Option<(&'static str, OsString)> {
        (self == Self::Full).then(|| ("MINIVMM_SOAK", "1".into()))
    }
}

/// Runs all of them where KVM is able.
pub fn run(needs: &Needs) -> Result<Tally> {
    let names = needs.names(Depth::Ci)?;
    let in_lab = lab::is_needed(&needs.job(&names, Depth::Ci))?;
    let tests = parts::run(needs, &names, Depth::Ci)?;
    let mut failed = parts::silent(&names, &tests);
    let said = tests.into_iter().filter(|test| !test.passed);
    failed.extend(said.map(|test| test.name));
    if in_lab && failed.len() <= REPEATED {
        let mut left = Vec::new();
        for name in failed {
            println!("make test: {name} failed in the lab; once more");
            let one = std::slice::from_ref(&name);
            match parts::run(needs, one, Depth::Ci)?.as_slice() {
                [Ran { passed: true, .. }] => {
                    println!("make test: {name} passed when it was repeated");
                }
                _ => left.push(name),
            }
        }
        failed = left;
    }
    for name in &failed {
        println!("make test: {name} failed");
    }
    let count = |tests: usize| u32::try_from(tests).unwrap_or(u32::MAX);
    Ok(Tally {
        passed: count(names.len() - failed.len()),
        failed: count(failed.len()),
        skipped: 0,
    })
}
