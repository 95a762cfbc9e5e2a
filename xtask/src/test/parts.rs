//! Runs tests that boot guests: all in one program, but in the lab a few go to a machine, and two machines run at a time.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;

use anyhow::{Result, anyhow};

use super::guests::{Depth, Needs};
use super::tally::{Ran, TestOutput};
use crate::lab;
use crate::tee::Both;

/// Tests of one machine of the lab: so many that its boot does not count, so few that little is lost with it.
const TOGETHER: usize = 8;

/// Machines of the lab at a time: each has one CPU.
const MACHINES: usize = 2;

/// Runs the tests with these names. One that is not in what this returns did not say how it went.
pub fn run(needs: &Needs, names: &[String], depth: Depth) -> Result<Vec<Ran>> {
    match lab::is_needed(&needs.job(names, depth))? {
        false => program(needs, names, depth, &mut io::stdout()),
        true => in_machines(needs, names, depth),
    }
}

/// As they are, and those that a lost machine has taken along once more.
fn in_a_machine(
    needs: &Needs,
    names: &[String],
    depth: Depth,
    print: &mut dyn Write,
) -> Result<Vec<Ran>> {
    let mut ran = program(needs, names, depth, print)?;
    let lost = silent(names, &ran);
    if !lost.is_empty() {
        writeln!(
            print,
            "the lab was lost with {} tests that had not failed: once more",
            lost.len()
        )?;
        ran.extend(program(needs, &lost, depth, print)?);
    }
    Ok(ran)
}

fn in_machines(needs: &Needs, names: &[String], depth: Depth) -> Result<Vec<Ran>> {
    let left: Mutex<VecDeque<&[String]>> = Mutex::new(names.chunks(TOGETHER).collect());
    let done = Mutex::new(Vec::new());
    let work = || -> Result<()> {
        loop {
            let Some(part) = locked(&left).pop_front() else {
                return Ok(());
            };
            // What two machines print would be mixed.
            let mut printed = Vec::new();
            let ran = in_a_machine(needs, part, depth, &mut printed)?;
            let mut done = locked(&done);
            done.extend(ran);
            io::stdout().lock().write_all(&printed)?;
            println!("{} of {} tests with guests\n", done.len(), names.len());
        }
    };
    thread::scope(|scope| {
        let machines: Vec<_> = (0..MACHINES).map(|_| scope.spawn(work)).collect();
        machines.into_iter().try_for_each(|machine| {
            let panicked = |_| anyhow!("a machine's thread panicked");
            machine.join().map_err(panicked)?
        })
    })?;
    Ok(done.into_inner().unwrap_or_else(PoisonError::into_inner))
}

/// Those of `names` that did not say how they went.
pub fn silent(names: &[String], ran: &[Ran]) -> Vec<String> {
    let mut silent = names.to_vec();
    silent.retain(|name| ran.iter().all(|test| test.name != *name));
    silent
}

/// One run of the test program.
fn program(
    needs: &Needs,
    names: &[String],
    depth: Depth,
    print: &mut dyn Write,
) -> Result<Vec<Ran>> {
    let mut output = TestOutput::default();
    // How it ended is in what the tests said.
    lab::run(
        &needs.job(names, depth),
        Some(&mut Both(print, &mut output)),
    )?;
    Ok(output.tests)
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_test_is_silent_until_it_passed_or_failed() {
        let names = ["a", "b", "c"].map(str::to_owned);
        let ran = |name: &str, passed| Ran {
            name: name.to_owned(),
            passed,
            time: Duration::ZERO,
        };
        assert_eq!(silent(&names, &[ran("c", true), ran("a", false)]), ["b"]);
        assert_eq!(silent(&names, &[]), names);
    }
}
