//! The tests that boot guests: one run of all, and where the lab may be at fault, one more of what failed.

use std::ffi::OsString;
use std::path::Path;

use anyhow::Result;

use super::tally::{Tally, TestOutput};
use crate::guest::Guests;
use crate::lab::{self, Job};
use crate::workspace;

/// So many tests may be repeated. QEMU's software CPU now and then loses its way under a running kernel (docs/lab.md);
/// more than that is not its doing. Where KVM is able nothing is ever repeated.
const REPEATED: usize = 2;

/// How the tests went.
#[derive(Debug)]
pub struct Outcome {
    /// Those that passed, also the second time, and those that did not.
    pub tally: Tally,
    /// What is wrong with the run.
    pub complaints: Vec<String>,
}

/// Runs the test program `tests` where KVM is able.
pub fn run(tests: &Path, guests: &Guests, virtiofsd: &Path) -> Result<Outcome> {
    let job = |arguments: &[&str]| {
        let mut command = vec![tests.as_os_str().to_owned(), "--test-threads=1".into()];
        command.extend(arguments.iter().map(OsString::from));
        let mut job = Job::new(command);
        job.environment = [
            ("MINIVMM_REQUIRE_KVM", OsString::from("1")),
            ("MINIVMM_GUEST", guests.dns.clone().into()),
            ("MINIVMM_KERNELS", guests.kernels.clone().into()),
            ("MINIVMM_BIN", workspace::minivmm().into()),
            ("MINIVMM_VIRTIOFSD", virtiofsd.into()),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .to_vec();
        job
    };
    let all = job(&[]);
    let in_lab = lab::is_needed(&all)?;

    let mut output = TestOutput::default();
    let mut code = lab::run(&all, Some(&mut output))?;
    if in_lab && code == lab::NO_OUTCOME && output.results == 0 {
        println!("make test: the lab was lost and not the tests; once more from the beginning");
        output = TestOutput::default();
        code = lab::run(&all, Some(&mut output))?;
    }
    let mut tally = output.tally;
    let mut complaints = Vec::new();
    if output.results == 0 {
        complaints.push("the KVM tests did not say how they went".to_owned());
    }
    if code != 0 && in_lab && may_repeat(&output) {
        for name in &output.failed {
            println!("make test: {name} failed in the lab; once more");
            let mut again = TestOutput::default();
            let code = lab::run(&job(&["--exact", name]), Some(&mut again))?;
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

/// Whether all failures are known by name and few enough.
fn may_repeat(output: &TestOutput) -> bool {
    output.results == 1
        && (1..=REPEATED).contains(&output.failed.len())
        && usize::try_from(output.tally.failed) == Ok(output.failed.len())
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
