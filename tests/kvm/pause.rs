//! A guest that is kept from running for a while, and what it and others notice of it.

use std::{
    fs,
    process::{Child, Command},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use rustix::process::Signal;

use crate::{
    Test, depth,
    network::Network,
    tiny::{self, Last},
    vm::{self, PATIENCE, Running, Vm, value},
};

pub const TESTS: &[Test] = &[
    Test {
        name: "pause::clock_and_tcp_transfer_go_on_and_no_lockup_is_seen",
        run: transfer,
    },
    Test {
        name: "pause::busy_idle_and_sleeping_vcpus_stand_still_and_go_on",
        run: || {
            [Last::Busy, Last::Idle]
                .into_iter()
                .try_for_each(stands_still)
        },
    },
    Test {
        name: "pause::a_guest_that_is_paused_while_it_boots_or_lives_shuts_down_in_order",
        run: stopped,
    },
];

/// Longer than what the guest below takes for a lockup.
const PAUSE: Duration = Duration::from_secs(6);

/// One process counts, and is as fast as it can; a lockup is 4 s without a turn.
const SCRIPT: &str = r#"
echo 2 >/proc/sys/kernel/watchdog_thresh
echo minivmm-guest: threshold $(cat /proc/sys/kernel/watchdog_thresh)
{
    n=0
    while :; do
        n=$((n + 1))
        echo $n
    done | nc 192.168.83.3 5000
} &
while :; do
    if [ -e /data/question ]; then
        rm /data/question
        read up rest </proc/uptime
        echo minivmm-guest: uptime $up
    fi
    if [ -e /data/end ]; then
        echo "minivmm-guest: complaints $(dmesg | grep -c -i 'lockup\|stall\|hung')"
        exit
    fi
    usleep 20000
done
"#;

/// Takes what the guest counts, and leaves how far it has come in a file.
const RECEIVER: &str = r#"
import os, socket
listener = socket.create_server(("192.168.83.3", 5000))
print("listening", flush=True)
stream = listener.accept()[0].makefile("rb")
out = os.open("count", os.O_WRONLY | os.O_CREAT, 0o644)
n = 0
for line in stream:
    n += 1
    if not line.endswith(b"\n"):
        break
    assert int(line) == n, (line, n)
    if n % 10 == 0:
        os.pwrite(out, b"%12d" % n, 0)
"#;

fn transfer() -> Result<()> {
    let network = Network::new("pause")?;
    let vm = Vm::with_script(SCRIPT)?
        .vcpus(2)
        .toml(&Network::toml())
        .by(["ip", "netns", "exec", &network.host]);
    let _receiver = Receiver::start(&network, &vm)?;
    let mut running = vm.start()?;
    let threshold = running.wait_for("minivmm-guest: threshold")?;
    ensure!(threshold.ends_with(" 2"), "no lockup detector: {threshold}");
    wait_until("the transfer begins", || Ok(count(&vm) > 0))?;
    let (before, start) = uptime(&vm, &mut running, 1)?;
    for _ in 0..depth(2, 5) {
        say(&vm, ["pause", "test"], "test: paused")?;
        // What was on its way has come by then.
        thread::sleep(Duration::from_secs(1));
        let stood = count(&vm);
        thread::sleep(PAUSE);
        ensure!(count(&vm) == stood, "it went on while it was paused");
        say(&vm, ["resume", "test"], "test: runs")?;
        wait_until("the transfer goes on", || Ok(count(&vm) > stood))?;
    }
    let (after, end) = uptime(&vm, &mut running, 2)?;
    let (guest, host) = (after - before, (end - start).as_secs_f64());
    ensure!(
        (guest - host).abs() < 3.0,
        "{guest} s in the guest, {host} s outside"
    );
    fs::write(vm.data().join("end"), "")?;
    let (code, output) = running.wait()?;
    ensure!(code == 0, "exit code {code}:\n{output}");
    ensure!(
        value(&output, "minivmm-guest: complaints")? == "0",
        "{output}"
    );
    ensure!(!output.contains("soft lockup"), "{output}");
    vm.nothing_left()
}

/// The guest's uptime, and about when it was that.
fn uptime(vm: &Vm, running: &mut Running, n: usize) -> Result<(f64, Instant)> {
    fs::write(vm.data().join("question"), "")?;
    let line = running.wait_for_nth("minivmm-guest: uptime ", n)?;
    let seconds = line.rsplit(' ').next().unwrap_or_default();
    Ok((seconds.parse()?, Instant::now()))
}

/// How far the receiver has counted.
fn count(vm: &Vm) -> u64 {
    let text = fs::read_to_string(vm.directory().join("count")).unwrap_or_default();
    text.trim().parse().unwrap_or(0)
}

/// The process that takes what the guest sends; ended when it is dropped.
struct Receiver(Child);

impl Receiver {
    fn start(network: &Network, vm: &Vm) -> Result<Self> {
        let child = Command::new("ip")
            .args(["netns", "exec", &network.client, "python3", "-c", RECEIVER])
            .current_dir(vm.directory())
            .spawn()?;
        Ok(Self(child))
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        // It has ended already in most cases.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Two vCPUs, of which one has never been started.
fn stands_still(last: Last) -> Result<()> {
    let vm = Vm::with_tiny(last)?.vcpus(2);
    let mut running = vm.start()?;
    running.wait_for(tiny::LINE)?;
    let processes = vm::descendants(running.pid())?;
    let vmm = *processes.first().context("no VMM process")?;
    for _ in 0..depth(3, 20) {
        say(&vm, ["pause", "test"], "test: paused")?;
        say(&vm, ["pause", "test"], "test: paused")?;
        ensure!(state(&vm)? == "paused");
        let ticks = cpu_ticks(vmm)?;
        thread::sleep(Duration::from_millis(300));
        ensure!(cpu_ticks(vmm)? <= ticks + 2, "it works while it is paused");
        say(&vm, ["resume", "test"], "test: runs")?;
        say(&vm, ["resume", "test"], "test: runs")?;
        ensure!(state(&vm)? == "running");
        if matches!(last, Last::Busy) {
            wait_until("it goes on", || Ok(cpu_ticks(vmm)? > ticks + 5))?;
        }
    }
    // It does not listen to its button: the deadline passes for a VM that is paused as for any other.
    say(&vm, ["pause", "test"], "test: paused")?;
    let started = Instant::now();
    say(
        &vm,
        ["stop", "test", "--timeout", "1s"],
        "test: the VM was ended without the guest's doing: it had not shut down within 1s",
    )?;
    ensure!(started.elapsed() >= Duration::from_secs(1), "too soon");
    vm::wait_gone(&processes)?;
    let (code, output) = running.wait()?;
    ensure!(code == 13, "exit code {code}:\n{output}");

    // By force it is ended as it stands.
    let mut running = vm.start()?;
    running.wait_for(tiny::LINE)?;
    say(&vm, ["pause", "test"], "test: paused")?;
    say(
        &vm,
        ["stop", "test", "--force"],
        "test: the VM was ended without the guest's doing: somebody asked for that",
    )?;
    let (code, output) = running.wait()?;
    ensure!(code == 13, "exit code {code}:\n{output}");
    vm.nothing_left()
}

fn stopped() -> Result<()> {
    let vm = Vm::with_button()?;
    let mut running = vm.start()?;
    running.wait_for("the VM runs")?;
    for n in 0..3 {
        thread::sleep(Duration::from_millis(200 + 300 * n));
        say(&vm, ["pause", "test"], "test: paused")?;
        thread::sleep(Duration::from_millis(300));
        say(&vm, ["resume", "test"], "test: runs")?;
    }
    running.wait_for("minivmm-guest: waiting for the power button")?;
    say(&vm, ["pause", "test"], "test: paused")?;
    running.signal(Signal::TERM)?;
    let (code, output) = running.wait()?;
    ensure!(code == 0, "exit code {code}:\n{output}");
    ensure!(output.contains("minivmm-guest: powering off"), "{output}");
    vm.nothing_left()
}

/// Runs a verb, which is to succeed and say this.
pub fn say<const N: usize>(vm: &Vm, words: [&str; N], beginning: &str) -> Result<()> {
    let said = vm.ask(words)?;
    let text = String::from_utf8_lossy(&said.stdout);
    ensure!(
        said.status.success() && text.starts_with(beginning),
        "{}: {said:?}",
        words.join(" ")
    );
    Ok(())
}

/// One value of the VM's status.
pub fn status(vm: &Vm) -> Result<serde_json::Value> {
    let said = vm.ask(["status", "test", "--json"])?;
    ensure!(said.status.success(), "{said:?}");
    Ok(serde_json::from_slice(&said.stdout)?)
}

fn state(vm: &Vm) -> Result<String> {
    Ok(status(vm)?["state"].as_str().unwrap_or_default().to_owned())
}

/// The time that a process has worked, in ticks of 10 ms.
fn cpu_ticks(pid: u32) -> Result<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let behind = stat.rsplit(')').next().unwrap_or_default();
    let fields: Vec<&str> = behind.split_whitespace().collect();
    let tick = |n: usize| -> Result<u64> { Ok(fields.get(n).context("a short stat")?.parse()?) };
    Ok(tick(11)? + tick(12)?)
}

fn wait_until(what: &str, mut done: impl FnMut() -> Result<bool>) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    while !done()? {
        ensure!(Instant::now() < deadline, "{what}: not within {PATIENCE:?}");
        thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}
