//! What a `kill -9` leaves of what a guest has synced.

use anyhow::{Context, Result, ensure};
use rustix::process::Signal;

use crate::{
    depth,
    guest::Guest,
    vm::{self, Vm},
};

/// Each number is on the disk before it is said.
const WRITER: &str = r#"
: >>/vol/log
last=$(tail -n 1 /vol/log)
last=${last:-0}
[ "$(seq $last | sha256sum)" = "$(sha256sum </vol/log)" ] || echo minivmm-guest: numbers are missing
echo "minivmm-guest: begins after $last"
while :; do
    last=$((last + 1))
    echo $last >>/vol/log
    sync /vol/log
    echo "minivmm-guest: synced $last"
done
"#;

pub fn kills() -> Result<()> {
    let vm = Vm::with_script(WRITER)?
        .guest(Guest::of_kernel("6.12-cloud")?)
        .toml(
            "[[volumes]]\nimage = \"log.img\"\nsize = 32\nauto_create = true\nmount_point = \"/vol\"\n",
        );
    let mut synced = 0;
    for round in 0..depth(3, 30) {
        let mut running = vm.start()?;
        let line = running.wait_for("minivmm-guest: begins after ")?;
        let found = number(&line)?;
        ensure!(
            found >= synced,
            "{synced} was synced, and {found} is there in round {round}"
        );
        running.wait_for_nth("minivmm-guest: synced ", 10 + 7 * (round % 5))?;
        running.signal(Signal::KILL)?;
        let (_, output) = running.wait()?;
        ensure!(
            !output.contains("numbers are missing"),
            "round {round}:\n{output}"
        );
        let last = output
            .lines()
            .rfind(|line| line.contains("minivmm-guest: synced "));
        synced = number(last.context("a number")?)?;
    }
    // The journal is what a guest would take first.
    let image = vm.directory().join("log.img");
    let image = image.to_string_lossy();
    vm::run(["e2fsck", "-fp", &image]).or_else(|error| {
        match error.to_string().contains("status: 1") {
            true => Ok(String::new()),
            false => Err(error),
        }
    })?;
    let log = vm::run(["debugfs", "-R", "cat /log", &image])?;
    let last = log.lines().last().unwrap_or_default();
    ensure!(
        number(last)? >= synced,
        "{synced} was synced, and {last} is there"
    );
    vm.nothing_left()
}

/// The number at the end of a line.
fn number(line: &str) -> Result<u64> {
    let word = line.trim().rsplit(' ').next().unwrap_or_default();
    word.parse().with_context(|| line.to_owned())
}
