//! Memory that the guest does not use goes back to the host, by itself or because the host asks for it.

use std::{
    fs,
    os::unix::fs::MetadataExt,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::{
    Test,
    guest::Guest,
    vm::{PATIENCE, Running, Vm},
};

pub const TESTS: &[Test] = &[
    Test {
        name: "balloon::what_the_guest_has_freed_goes_back_of_private_memory",
        run: || goes_back("6.12-cloud", false, ""),
    },
    Test {
        name: "balloon::what_a_hardened_guest_has_freed_goes_back_of_memory_that_virtiofsd_has_too",
        // As hardened guests have it: free memory is zero, and stays so.
        run: || goes_back("6.12-cloud", true, "init_on_free=1"),
    },
    Test {
        name: "balloon::it_takes_memory_and_gives_it_back_as_it_is_told_also_to_the_next_run",
        run: told,
    },
    Test {
        name: "balloon::without_it_nothing_goes_back_and_its_verb_says_so",
        run: without,
    },
];

pub const LONG: &[Test] = &[Test {
    name: "balloon::what_the_guest_has_freed_goes_back_with_every_kernel",
    run: || {
        for kernel in ["6.1", "6.1-cloud"] {
            for share in [false, true] {
                goes_back(kernel, share, "").with_context(|| kernel)?;
            }
        }
        Ok(())
    },
}];

const MIB: u64 = 1 << 20;
/// How long the guest does nothing, for its balloon's thread to show that it does nothing either.
const IDLE: Duration = Duration::from_secs(10);

/// A VM with `mem` MiB that uses 400 of them and frees them.
fn vm(kernel: &str, share: bool, mem: u32) -> Result<Vm> {
    let vm = match share {
        true => Vm::new()?,
        false => Vm::without_share()?,
    };
    Ok(vm
        .guest(Guest::of_kernel(kernel)?)
        .memory(mem)
        .cmdline("rdinit=/memory-init"))
}

fn goes_back(kernel: &str, share: bool, words: &str) -> Result<()> {
    let vm = vm(kernel, share, 512)?.cmdline(words);
    let mut running = vm.start()?;
    running.wait_for("minivmm-guest: uses 400 MiB")?;
    running.wait_for("minivmm-guest: has freed them")?;
    let freed = Instant::now();
    let vmm = vmm(&vm)?;
    let most = status_kib(vmm, "VmHWM:")? << 10;
    ensure!(most > 400 * MIB, "at most {} MiB were there", most / MIB);
    let now = wait_until("less than 200 MiB resident", || {
        let resident = resident(vmm, share)?;
        Ok((resident < 200 * MIB).then_some(resident))
    })?;
    println!(
        "{kernel}, share {share}: {} MiB at most, {} MiB {:.1} s after",
        most / MIB,
        now / MIB,
        freed.elapsed().as_secs_f64()
    );
    let report = report_now(&vm, &[])?;
    let reported = number(&report, "reported_bytes")?;
    ensure!(reported >= 300 * MIB, "{report}");
    ensure!(number(&report, "inflated_bytes")? == 0, "{report}");
    // Of private memory it is the process', which the tests of memory are about.
    ensure!(number(&report, "resident_bytes")? < 210 * MIB, "{report}");
    sees(&vm, reported)?;
    sleeps(vmm)?;
    end(running, &vm)
}

/// `status`, `list` and `metrics` say what went back.
fn sees(vm: &Vm, reported: u64) -> Result<()> {
    let status = json(vm, &["status", "test", "--json"])?;
    ensure!(
        number(&status["balloon"], "reported_bytes")? >= reported,
        "{status}"
    );
    let list = json(vm, &["list", "--json"])?;
    ensure!(number(&list[0], "given_back_bytes")? >= reported, "{list}");
    let metrics = say(vm, &["metrics", "test"])?;
    let sample = "minivmm_memory_given_back_bytes_total{vm=\"test\",way=\"reported\"} ";
    let counted = metrics.lines().find_map(|line| line.strip_prefix(sample));
    let counted: f64 = counted.context(metrics.clone())?.parse()?;
    ensure!(counted >= reported as f64, "{metrics}");
    Ok(())
}

/// Nothing wakes the balloon's thread as long as its guest has nothing to say.
fn sleeps(vmm: u32) -> Result<()> {
    let thread = thread_of(vmm, "balloon")?;
    let deadline = Instant::now() + PATIENCE;
    loop {
        let before = switches(&thread)?;
        thread::sleep(IDLE);
        let more = switches(&thread)? - before;
        if more == 0 {
            return Ok(());
        }
        ensure!(Instant::now() < deadline, "{more} wake-ups in {IDLE:?}");
    }
}

fn told() -> Result<()> {
    let vm =
        vm("6.12-cloud", true, 640)?.toml("[balloon]\nsize = 32\nfree_page_reporting = false\n");
    let mut running = vm.start()?;
    running.wait_for("minivmm-guest: has freed them")?;
    let first = vmm(&vm)?;
    reaches(&vm, 32)?;
    // Without reports all that the guest has used is there.
    let before = resident(first, true)?;
    ensure!(before > 350 * MIB, "{before}");

    let report = report_now(&vm, &["--size", "256"])?;
    ensure!(number(&report, "target_bytes")? == 256 * MIB, "{report}");
    let report = reaches(&vm, 256)?;
    ensure!(
        number(&report, "inflated_bytes")? >= 256 * MIB && number(&report, "reported_bytes")? == 0,
        "{report}"
    );
    // Some of what it takes the guest has never touched.
    let after = resident(first, true)?;
    ensure!(after + 100 * MIB < before, "{before} and {after}");
    let statistics = &report["statistics"];
    let total = number(statistics, "total_bytes")?;
    ensure!((500 * MIB..640 * MIB).contains(&total), "{report}");
    let free = number(statistics, "free_bytes")?;
    ensure!((64 * MIB..384 * MIB).contains(&free), "{report}");
    ensure!(number(&report, "statistics_age_msec")? < 10_000, "{report}");

    // A guest that stands still says nothing, and that is not waited for.
    say(&vm, &["pause", "test"])?;
    let report = report_now(&vm, &["--size", "64"])?;
    ensure!(number(&report, "size_bytes")? == 256 * MIB, "{report}");
    say(&vm, &["resume", "test"])?;
    let report = reaches(&vm, 64)?;
    let more = number(&report["statistics"], "free_bytes")?;
    ensure!(more > free + 100 * MIB, "{report}");

    let refused = vm.ask(["balloon", "test", "--size", "641"])?;
    ensure!(refused.status.code() == Some(6), "{refused:?}");
    let said = String::from_utf8_lossy(&refused.stderr);
    ensure!(
        said.contains("641 MiB are more than the 640 MiB of memory"),
        "{said}"
    );
    let lines = say(&vm, &["balloon", "test"])?;
    for words in ["   Balloon: 64.0M\n", "Given back: ", "     Guest: "] {
        ensure!(lines.contains(words), "no `{words}` in\n{lines}");
    }

    // Another run begins as the configuration has it.
    say(&vm, &["reboot", "test", "--force"])?;
    running.wait_for_nth("minivmm-guest: has freed them", 2)?;
    ensure!(vmm(&vm)? != first, "the same VMM");
    let report = reaches(&vm, 32)?;
    ensure!(number(&report, "inflated_bytes")? < 64 * MIB, "{report}");
    end(running, &vm)
}

fn without() -> Result<()> {
    let vm = vm("6.12-cloud", true, 640)?.toml("[balloon]\nenabled = false\n");
    let mut running = vm.start()?;
    running.wait_for("minivmm-guest: has freed them")?;
    let vmm = vmm(&vm)?;
    ensure!(
        thread_of(vmm, "balloon").is_err(),
        "there is a thread for it"
    );
    let refused = vm.ask(["balloon", "test"])?;
    ensure!(refused.status.code() == Some(6), "{refused:?}");
    let said = String::from_utf8_lossy(&refused.stderr);
    ensure!(said.contains("the VM has no balloon"), "{said}");
    let status = json(&vm, &["status", "test", "--json"])?;
    ensure!(status["balloon"].is_null(), "{status}");
    ensure!(resident(vmm, true)? > 400 * MIB);
    end(running, &vm)
}

/// Waits until so many MiB are in the balloon, and asks once more then.
fn reaches(vm: &Vm, mib: u64) -> Result<Value> {
    wait_until(&format!("{mib} MiB in the balloon"), || {
        let report = report_now(vm, &[])?;
        Ok((number(&report, "size_bytes")? == mib * MIB).then_some(()))
    })?;
    report_now(vm, &[])
}

/// What `minivmm balloon` says, with these words more.
fn report_now(vm: &Vm, words: &[&str]) -> Result<Value> {
    json(vm, &[&["balloon", "test", "--json"], words].concat())
}

fn json(vm: &Vm, words: &[&str]) -> Result<Value> {
    Ok(serde_json::from_str(&say(vm, words)?)?)
}

/// What minivmm prints if it is asked so.
fn say(vm: &Vm, words: &[&str]) -> Result<String> {
    let output = vm.command([]).args(words).output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.success(),
        "{words:?}: {}: {said}",
        output.status
    );
    Ok(String::from_utf8(output.stdout)?)
}

fn number(value: &Value, key: &str) -> Result<u64> {
    value[key]
        .as_u64()
        .with_context(|| format!("no `{key}` in {value}"))
}

fn vmm(vm: &Vm) -> Result<u32> {
    let status = json(vm, &["status", "test", "--json"])?;
    Ok(number(&status, "vmm_pid")?.try_into()?)
}

/// Bytes of the guest's memory that the host has given it. Shared memory is the memfd's, which virtiofsd maps as well; of
/// private memory, all that the VMM has.
fn resident(vmm: u32, shared: bool) -> Result<u64> {
    if !shared {
        return Ok(status_kib(vmm, "VmRSS:")? << 10);
    }
    for fd in fs::read_dir(format!("/proc/{vmm}/fd"))? {
        let fd = fd?.path();
        let target = fs::read_link(&fd).unwrap_or_default();
        if target.starts_with("/memfd:guest-memory (deleted)")
            || target == Path::new("/memfd:guest-memory")
        {
            return Ok(fs::metadata(&fd)?.blocks() * 512);
        }
    }
    bail!("the VMM has no memfd")
}

/// A line of a process' or a thread's `status` (proc(5)).
fn status_line(path: &str, key: &str) -> Result<u64> {
    let status = fs::read_to_string(path).context(path.to_owned())?;
    let line = status.lines().find_map(|line| line.strip_prefix(key));
    let value = line.and_then(|line| line.split_whitespace().next());
    Ok(value
        .with_context(|| format!("{path} has no {key}"))?
        .parse()?)
}

fn status_kib(pid: u32, key: &str) -> Result<u64> {
    status_line(&format!("/proc/{pid}/status"), key)
}

fn switches(thread: &str) -> Result<u64> {
    status_line(&format!("{thread}/status"), "voluntary_ctxt_switches:")
}

/// The directory in /proc of a thread of this name.
fn thread_of(pid: u32, name: &str) -> Result<String> {
    for thread in fs::read_dir(format!("/proc/{pid}/task"))? {
        let path = thread?.path();
        if fs::read_to_string(path.join("comm"))?.trim_end() == name {
            return Ok(path.to_string_lossy().into_owned());
        }
    }
    bail!("process {pid} has no thread `{name}`")
}

fn wait_until<T>(what: &str, mut done: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(done) = done()? {
            return Ok(done);
        }
        ensure!(Instant::now() < deadline, "not within {PATIENCE:?}: {what}");
        thread::sleep(Duration::from_millis(100));
    }
}

fn end(running: Running, vm: &Vm) -> Result<()> {
    say(vm, &["stop", "test", "--force"])?;
    let (code, output) = running.wait()?;
    ensure!(code == 13, "{code}: {output}");
    ensure!(
        !output.contains("balloon\" cannot") && !output.contains("needs a reset"),
        "{output}"
    );
    vm.nothing_left()
}
