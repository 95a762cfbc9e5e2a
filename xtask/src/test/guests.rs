//! The tests that boot guests: one run of all, and where the lab may be at fault, one more of what failed.

use std::ffi::OsString;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;

use super::tally::{Tally, TestOutput};
use crate::command::{capture_text, program};
use crate::guest::{self, Guests};
use crate::lab::{self, Job};
use crate::progress::Steps;
use crate::tee::Both;
use crate::{tools, workspace};

/// So many tests may be repeated. QEMU's software CPU now and then loses its way under a running kernel (docs/lab.md);
/// more than that is not its doing. Where KVM is able nothing is ever repeated.
const REPEATED: usize = 2;

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

    /// The test program with `arguments`, as a job for where KVM is able.
    pub fn job(&self, arguments: &[&str]) -> Job {
        let mut command = vec![self.tests.clone().into(), "--test-threads=1".into()];
        command.extend(arguments.iter().map(OsString::from));
        let mut job = Job::new(command);
        job.timeout = TIMEOUT;
        job.environment = [
            ("MINIVMM_REQUIRE_KVM", OsString::from("1")),
            ("MINIVMM_GUEST", self.guests.dns.clone().into()),
            ("MINIVMM_KERNELS", self.guests.kernels.clone().into()),
            ("MINIVMM_BIN", workspace::minivmm().into()),
            ("MINIVMM_VIRTIOFSD", self.virtiofsd.clone().into()),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .to_vec();
        job
    }

    /// The names of all tests, the long ones too.
    pub fn names(&self) -> Result<Vec<String>> {
        let list = capture_text(program(&self.tests).arg("--list").env("MINIVMM_SOAK", "1"))?;
        let names = list.lines().filter_map(|line| line.strip_suffix(": test"));
        Ok(names.map(str::to_owned).collect())
    }
}

/// How the tests went.
#[derive(Debug)]
pub struct Outcome {
    /// Those that passed, also the second time, and those that did not.
    pub tally: Tally,
    /// What is wrong with the run.
    pub complaints: Vec<String>,
}

/// Runs all of them where KVM is able.
pub fn run(needs: &Needs) -> Result<Outcome> {
    let all = needs.job(&[]);
    let in_lab = lab::is_needed(&all)?;

    let mut output = TestOutput::default();
    let mut code = shown(&all, &mut output)?;
    if in_lab && code == lab::NO_OUTCOME && output.results == 0 {
        println!("make test: the lab was lost and not the tests; once more from the beginning");
        output = TestOutput::default();
        code = shown(&all, &mut output)?;
    }
    let mut tally = output.tally;
    let mut complaints = Vec::new();
    if output.results == 0 {
        complaints.push("the KVM tests did not say how they went".to_owned());
    }
    if code != 0 && in_lab && may_repeat(&output) {
        for name in output.failed() {
            println!("make test: {name} failed in the lab; once more");
            let mut again = TestOutput::default();
            let code = shown(&needs.job(&["--exact", name]), &mut again)?;
            if code == 0 && (again.tally.passed, again.tally.failed) == (1, 0) {
                println!("make test: {name} passed when it was repeated");
                tally.passed += 1;
                tally.failed -= 1;
            }
        }
    } else if code != 0 {
        complaints.push(format!("the KVM tests ended with exit code {code}"));
    }
    Ok(Outcome { tally, complaints })
}

/// Runs tests before everybody's eyes, and takes what they print.
fn shown(job: &Job, output: &mut TestOutput) -> Result<u8> {
    lab::run(job, Some(&mut Both(&mut io::stdout(), output)))
}

/// Whether all failures are known by name and few enough.
fn may_repeat(output: &TestOutput) -> bool {
    output.results == 1
        && (1..=REPEATED).contains(&output.failed().len())
        && usize::try_from(output.tally.failed) == Ok(output.failed().len())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::io::Write;

    use super::*;

    fn output(text: &str) -> TestOutput {
        let mut output = TestOutput::default();
        output.write_all(text.as_bytes()).unwrap();
        output
    }

    #[test]
    fn only_few_failures_that_are_known_by_name_are_repeated() {
        let result = |failed| {
            format!("test result: FAILED. 9 passed; {failed} failed; 0 ignored; 0 filtered out\n")
        };
        assert!(may_repeat(&output(&format!(
            "test a ... FAILED\n{}",
            result(1)
        ))));
        assert!(!may_repeat(&output(&result(1))), "unknown by name");
        assert!(!may_repeat(&output("test a ... FAILED\n")), "no result");
        let three = "test a ... FAILED\n".repeat(3);
        assert!(!may_repeat(&output(&format!("{three}{}", result(3)))));
        assert!(!may_repeat(&output(&result(0))), "nothing failed");
    }
}
