//! VMs as services of systemd: the units, readiness, the watchdog, stops and crashes.

mod debian;
mod host;

use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};

use crate::{
    Test,
    guest::Guest,
    vm::{self, run},
};
use host::Host;

pub const TESTS: &[Test] = &[
    Test {
        name: "systemd::a_vm_that_was_killed_or_hangs_is_started_again_clean_and_stops_in_order",
        run: crashes,
    },
    Test {
        name: "systemd::a_start_fails_when_the_guest_never_speaks_and_a_users_unit_runs_without_a_capability",
        run: silent_and_unprivileged,
    },
    Test {
        name: "systemd::a_start_lasts_until_debian_is_up_whatever_the_guest_says_beside_and_a_stop_shuts_it_down",
        run: debian::readiness,
    },
];

/// Each boots it three times.
pub const LONG: &[Test] = &[
    Test {
        name: "systemd::a_booted_debian_powers_off_in_order_2_to_4",
        run: debian::three_stops,
    },
    Test {
        name: "systemd::a_booted_debian_powers_off_in_order_5_to_7",
        run: debian::three_stops,
    },
    Test {
        name: "systemd::a_booted_debian_powers_off_in_order_8_to_10",
        run: debian::three_stops,
    },
];

/// A VM with a share and a made tap, whose guest listens to the power button.
fn service(host: &Host, name: &str, tail: &str) -> Result<()> {
    let guest = std::env::var_os("MINIVMM_GUEST").unwrap_or_default();
    let guest = Guest::new(guest.as_ref());
    let data = host.data(name)?;
    host.configure(
        name,
        &format!(
            "name = \"{name}\"\nvcpu = 2\nmem = 256\n{}\
             [[shares]]\ntag = \"data\"\nsource = {data:?}\nmount_point = \"/data\"\n\
             [[interfaces]]\ntype = \"tap\"\nid = \"vm-{name}\"\nmac = \"02:00:00:00:00:01\"\ncreate = true\n{tail}",
            guest.toml("quiet cryptomgr.notests")
        ),
    )
}

fn crashes() -> Result<()> {
    let host = Host::boot()?;
    service(&host, "a", "")?;
    host.drop_in("minivmm@a", "watchdog", "[Service]\nWatchdogSec=10s\n")?;
    verb(&host, "start a", "start of minivmm@a.service is done")?;
    ensure!(host.show("a", "StatusText")? == "the guest runs");
    host.wait_for_output("a", "minivmm-guest: dns ready", 1)?;
    let again = verb(&host, "start a", "");
    ensure!(
        again.is_err_and(|error| error
            .to_string()
            .contains("`a` runs already: minivmm@a.service has it")),
        "it was started twice"
    );

    let first = host.processes("a")?;
    signal(first[0], Signal::KILL)?;
    vm::wait_gone(&first)?;
    host.wait_for_property("a", "NRestarts", "1")?;
    host.wait_for_output("a", "minivmm-guest: dns ready", 2)?;
    let second = host.processes("a")?;
    ensure!(
        second.len() == first.len() && second.iter().all(|pid| !first.contains(pid)),
        "{first:?} became {second:?}"
    );
    let files = run(["ls", &host.file("/run/minivmm/a").display().to_string()])?;
    ensure!(
        files == "control\nlock\n",
        "the runtime directory has {files:?}"
    );
    ensure!(
        run(["ip", "link", "show", "vm-a"])?.contains("LOWER_UP"),
        "the tap is in use"
    );
    ensure!(
        host.show("a", "WatchdogTimestampMonotonic")? != "0",
        "the watchdog is fed"
    );

    signal(second[0], Signal::STOP)?;
    host.wait_for_property("a", "NRestarts", "2")?;
    vm::wait_gone(&second)?;
    ensure!(host.log().contains("Watchdog timeout"), "{}", host.log());
    host.wait_for_output("a", "minivmm-guest: dns ready", 3)?;

    let third = host.processes("a")?;
    verb(&host, "restart a", "restart of minivmm@a.service is done")?;
    vm::wait_gone(&third)?;
    host.wait_for_output("a", "minivmm-guest: dns ready", 4)?;
    verb(&host, "stop a", "stop of minivmm@a.service is done")?;
    let console = host.console("a");
    ensure!(
        console.matches("stopping for poweroff").count() == 2,
        "no orderly stops in {console:?}"
    );
    for (property, value) in [
        ("ActiveState", "inactive"),
        ("Result", "success"),
        ("ExecMainStatus", "0"),
    ] {
        let is = host.show("a", property)?;
        ensure!(is == value, "{property} is {is}; {}\n{console}", host.log());
    }
    let status = host.show("a", "StatusText")?;
    ensure!(
        status.starts_with("the guest powered off, "),
        "the last status is {status:?}"
    );
    ensure!(!host.file("/run/minivmm/a").exists(), "a runtime directory");
    ensure!(run(["ip", "link", "show", "vm-a"]).is_err(), "a tap");
    Ok(())
}

/// Runs a verb of minivmm there, which has systemd do it.
fn verb(host: &Host, words: &str, said: &str) -> Result<()> {
    let program = vm::program().canonicalize()?;
    let mut command = host.command(&program.display().to_string());
    let output = command
        .args(words.split(' '))
        .env_remove("MINIVMM_RUNTIME_ROOT")
        .output()?;
    let text = host::text(&output);
    ensure!(
        output.status.success() && text.contains(said),
        "minivmm {words}: {text}\n{}",
        host.log()
    );
    Ok(())
}

/// A VM whose guest runs `script` and powers off.
fn scripted(host: &Host, name: &str, script: &str, data: &Path, tail: &str) -> Result<()> {
    fs::write(data.join("test.sh"), script)?;
    let guest = std::env::var_os("MINIVMM_GUEST").unwrap_or_default();
    let guest = Guest::new(guest.as_ref());
    host.configure(
        name,
        &format!(
            "name = \"{name}\"\nvcpu = 1\nmem = 256\n{}\
             [[shares]]\ntag = \"data\"\nsource = \"data\"\nmount_point = \"/data\"\n{tail}",
            guest.toml("quiet cryptomgr.notests rdinit=/test-init")
        ),
    )
}

/// Two units of one host: a boot of it takes longer than they do.
fn silent_and_unprivileged() -> Result<()> {
    let host = Host::boot()?;
    silent(&host)?;
    unprivileged(&host)
}

fn silent(host: &Host) -> Result<()> {
    let directory = host.file("/var/lib/minivmm/n/data");
    fs::create_dir_all(&directory)?;
    let script = "echo written >/data/written\necho minivmm-guest: standing still\nsleep 100000\n";
    let tail = "[lifecycle]\nready = \"guest\"\nready_timeout = \"20s\"\nstop_timeout = \"1s\"\n";
    scripted(host, "n", script, &directory, tail)?;
    // An orderly end of the start is minivmm's own: systemd would have given up long before.
    let own = "[Service]\nTimeoutStartSec=5s\nTimeoutStopSec=1s\nRestart=no\n";
    host.drop_in("minivmm@n", "limits", own)?;
    host.drop_in("minivmm@n", "strict", &shipped("strict.conf")?)?;
    let begun = Instant::now();
    let started = host.systemctl(&["start", "minivmm@n"]);
    ensure!(started.is_err(), "it was started: {}", host.console("n"));
    let console = host.console("n");
    ensure!(
        begun.elapsed() >= Duration::from_secs(20),
        "too early: {started:?}\n{console}"
    );
    ensure!(console.contains("standing still"), "{console}");
    ensure!(
        fs::read_to_string(directory.join("written"))? == "written\n",
        "{console}"
    );
    ensure!(console.contains("the guest never spoke"), "{console}");
    for (property, value) in [("ExecMainStatus", "16"), ("Result", "exit-code")] {
        let is = host.show("n", property)?;
        ensure!(is == value, "{property} is {is}; {}\n{console}", host.log());
    }
    let status = host.show("n", "StatusText")?;
    ensure!(status.starts_with("the guest never spoke"), "{status}");
    Ok(())
}

/// A drop-in as it is shipped.
fn shipped(name: &str) -> Result<String> {
    let program = vm::program().display().to_string();
    run([&program, "install-units", "--print", name])
}

fn unprivileged(host: &Host) -> Result<()> {
    // Debian's udev would have made the group.
    let groups = host.file("/etc/group");
    let mut text = fs::read_to_string(&groups)?;
    if !text.lines().any(|line| line.starts_with("kvm:")) {
        text.push_str("kvm:x:993:\n");
        fs::write(&groups, text)?;
    }
    host.drop_in("minivmm@u", "unprivileged", &shipped("unprivileged.conf")?)?;
    // What the tests are made from may be where only root looks.
    let public = host.file("/run/test");
    fs::create_dir(&public)?;
    let guest = PathBuf::from(std::env::var_os("MINIVMM_GUEST").unwrap_or_default());
    let virtiofsd = std::env::var_os("MINIVMM_VIRTIOFSD").unwrap_or_default();
    for (from, to) in [
        (vm::program(), "minivmm"),
        (virtiofsd.into(), "virtiofsd"),
        (guest.join("vmlinuz"), "vmlinuz"),
        (guest.join("initrd"), "initrd"),
    ] {
        fs::copy(&from, public.join(to)).with_context(|| from.display().to_string())?;
    }
    let public = "[Service]\nExecStart=\nExecStart=/run/test/minivmm run --config /etc/minivmm/%i.toml\n\
         Environment=MINIVMM_VIRTIOFSD=/run/test/virtiofsd\n";
    host.drop_in("minivmm@u", "x-public", public)?;
    let made = [
        "tuntap", "add", "vm-u", "mode", "tap", "vnet_hdr", "group", "kvm",
    ];
    let made = host.command("ip").args(made).output()?;
    ensure!(made.status.success(), "{}", host::text(&made));
    let directory = host.file("/var/lib/private/minivmm/u/data");
    fs::create_dir_all(&directory)?;
    let script = "ls -n /data/test.sh | sed 's/^/owner=/'\necho done >/data/done\nsleep 5\n";
    let tail = "[[interfaces]]\ntype = \"tap\"\nid = \"vm-u\"\nmac = \"02:00:00:00:00:02\"\n";
    scripted(host, "u", script, &directory, tail)?;
    let configuration = host.file("/etc/minivmm/u.toml");
    let text = fs::read_to_string(&configuration)?;
    let guest = guest.canonicalize()?.display().to_string();
    fs::write(&configuration, text.replace(&guest, "/run/test"))?;
    host.systemctl(&["start", "minivmm@u"])?;
    host.wait_for_output("u", "owner=", 1)?;
    let processes = host.processes("u")?;
    for pid in processes {
        let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
        let field = |name| status.lines().find_map(|line| line.strip_prefix(name));
        // KVM has a thread of the kernel in the cgroup of who made the VM.
        if field("PPid:").is_some_and(|parent| parent.trim() == "2") {
            continue;
        }
        let user = field("Uid:").unwrap_or_default().trim();
        ensure!(!user.starts_with("0\t"), "a process of root's:\n{status}");
        ensure!(
            field("NoNewPrivs:").is_some_and(|n| n.trim() == "1"),
            "{status}"
        );
    }
    host.wait_for_property("u", "ActiveState", "inactive")?;
    ensure!(
        host.show("u", "Result")? == "success",
        "{}",
        host.console("u")
    );
    ensure!(fs::read_to_string(directory.join("done"))? == "done\n");
    let removed = host
        .command("ip")
        .args(["tuntap", "del", "vm-u", "mode", "tap"])
        .output()?;
    ensure!(removed.status.success(), "{}", host::text(&removed));
    Ok(())
}

fn signal(pid: u32, signal: Signal) -> Result<()> {
    let pid = Pid::from_raw(pid.cast_signed());
    Ok(kill_process(pid.expect("no process has the id 0"), signal)?)
}
