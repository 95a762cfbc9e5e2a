//! What a VM has done is counted, and told in numbers.

use std::{
    fs,
    path::Path,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::Signal;

use crate::{
    Test,
    vm::{self, PATIENCE, Running, Vm},
};

pub const TESTS: &[Test] = &[Test {
    name: "metrics::they_count_what_the_guest_does_are_written_to_a_file_and_go_with_the_vm",
    run: metrics,
}];

/// Each line that it prints is known to the host, and so are the bytes that it takes from the entropy device.
const SCRIPT: &str = "\
    echo minivmm-guest: ready\n\
    until [ -e /data/go ]; do usleep 100000; done\n\
    n=0; while [ $n -lt 100 ]; do n=$((n + 1)); printf '%0999d\\n' 0; done\n\
    dd if=/dev/hwrng of=/dev/null bs=1000 count=100 2>/dev/null\n\
    echo minivmm-guest: done\n\
    while :; do sleep 1; done\n";

fn metrics() -> Result<()> {
    let vm = Vm::with_script(SCRIPT)?;
    // Some place that sockets have room for.
    let socket = vm.directory().join("control");
    let vm = vm.toml(
        "[control]\nsocket = \"control\"\n\
         [metrics]\ntextfile = \"test.prom\"\ninterval = \"1s\"\n",
    );
    let file = vm.directory().join("test.prom");
    let mut running = vm.start()?;
    running.wait_for("minivmm-guest: ready")?;
    let before = ask(&socket)?;
    fs::write(vm.data().join("go"), "")?;
    running.wait_for("minivmm-guest: done")?;
    let after = ask(&socket)?;

    let grown =
        |sample: &str| -> Result<f64> { Ok(value(&after, sample)? - value(&before, sample)?) };
    let printed = grown("minivmm_console_bytes_total{vm=\"test\"}")?;
    ensure!(
        (100_000.0..300_000.0).contains(&printed),
        "{printed} bytes printed"
    );
    let rng = |what: &str| {
        format!("minivmm_queue_{what}_total{{vm=\"test\",device=\"rng\",queue=\"0\"}}")
    };
    for (what, least) in [
        ("written_bytes", 100_000.0),
        ("requests", 1.0),
        ("notifications", 1.0),
        ("interrupts", 1.0),
    ] {
        let grown = grown(&rng(what))?;
        ensure!(grown >= least, "{what}: {grown}");
    }
    // The boot alone has many of them.
    let out = value(
        &after,
        "minivmm_exits_total{vm=\"test\",vcpu=\"0\",kind=\"io_out\"}",
    )?;
    ensure!(out >= 100.0, "{out} exits");
    let cpu = "minivmm_thread_cpu_seconds_total{vm=\"test\",process=\"vmm\",thread=\"vcpu0\"}";
    ensure!(grown(cpu)? > 0.0, "{after}");
    ensure!(
        value(&after, "minivmm_state{vm=\"test\",state=\"running\"}")? == 1.0,
        "{after}"
    );
    let given = value(&after, "minivmm_memory_bytes{vm=\"test\"}")?;
    ensure!(given == f64::from(256 << 20), "{given}");
    let resident = value(&after, "minivmm_memory_resident_bytes{vm=\"test\"}")?;
    ensure!((16e6..=given).contains(&resident), "{resident}");
    ensure!(
        value(&after, "minivmm_uptime_seconds{vm=\"test\"}")? > 0.0,
        "{after}"
    );
    ensure!(!after.contains("device=\"test-data\""), "{after}");
    ensure!(after.ends_with("# EOF\n"), "{after}");

    written(&file, &running)?;
    running.signal(Signal::TERM)?;
    running.wait_for("asking the guest to shut down")?;
    running.signal(Signal::TERM)?;
    let (code, output) = running.wait()?;
    ensure!(code == 13, "exit code {code}:\n{output}");
    ensure!(!file.exists(), "the file says what is not true any more");
    ensure!(!output.contains("metrics.textfile"), "{output}");
    vm.nothing_left()
}

/// The file is written again and again, and always whole.
fn written(file: &Path, running: &Running) -> Result<()> {
    let uptime = || -> Result<f64> {
        value(
            &fs::read_to_string(file)?,
            "minivmm_uptime_seconds{vm=\"test\"}",
        )
    };
    let first = uptime()?;
    let deadline = Instant::now() + PATIENCE;
    while uptime()? == first {
        if Instant::now() > deadline {
            bail!("the file of process {} is not written again", running.pid());
        }
        thread::sleep(Duration::from_millis(20));
    }
    let text = fs::read_to_string(file)?;
    ensure!(
        text.contains("\n# TYPE minivmm_exits_total counter\n"),
        "{text}"
    );
    ensure!(!text.contains("# EOF"), "{text}");
    Ok(())
}

fn ask(socket: &Path) -> Result<String> {
    let output = Command::new(vm::program())
        .args(["metrics", "--socket"])
        .arg(socket)
        .output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{}: {said}", output.status);
    Ok(String::from_utf8(output.stdout)?)
}

fn value(text: &str, sample: &str) -> Result<f64> {
    let mut lines = text.lines();
    let found = lines.find_map(|line| line.strip_prefix(sample)?.strip_prefix(' '));
    let found = found.with_context(|| format!("no {sample} in:\n{text}"))?;
    Ok(found.parse()?)
}
