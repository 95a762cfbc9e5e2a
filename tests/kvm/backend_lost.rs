//! A virtiofsd is killed or stopped under a guest, at every moment and with every policy: the log says so at once, no vCPU
//! waits, and what follows is what `on_failure` says.

use std::{fs, thread, time::Duration};

use anyhow::{Context, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};

use crate::{
    Test,
    vm::{self, Running, Vm},
};

pub const TESTS: &[Test] = &[
    Test {
        name: "backend_lost::killed_while_writing_the_vm_restarts_and_writes_again",
        run: || lose(Moment::KilledWhileWriting, Policy::RestartVm),
    },
    Test {
        name: "backend_lost::stopped_before_activation_the_guest_is_asked_to_stop",
        run: || lose(Moment::StoppedBeforeActivation, Policy::Stop),
    },
    Test {
        name: "backend_lost::stopped_while_writing_the_guest_goes_on_without_it",
        run: || lose(Moment::StoppedWhileWriting, Policy::Ignore),
    },
    Test {
        name: "backend_lost::stopped_at_reset_the_vm_restarts_and_writes_again",
        run: || lose(Moment::StoppedAtReset, Policy::RestartVm),
    },
    Test {
        name: "backend_lost::after_five_restarts_the_vm_ends_with_14",
        run: five_restarts,
    },
    Test {
        name: "backend_lost::a_continued_virtiofsd_is_not_lost",
        run: continued,
    },
];

/// The lab takes a minute and a half for each of its eight.
pub const LONG: &[Test] = &[Test {
    name: "backend_lost::every_other_moment_with_every_other_policy",
    run: the_rest,
}];

#[derive(Clone, Copy, Debug, PartialEq)]
enum Moment {
    KilledWhileWriting,
    StoppedBeforeActivation,
    StoppedWhileWriting,
    StoppedAtReset,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Policy {
    RestartVm,
    Stop,
    Ignore,
}

use Moment::*;

const SHORTLY_TESTED: [(Moment, Policy); 4] = [
    (KilledWhileWriting, Policy::RestartVm),
    (StoppedBeforeActivation, Policy::Stop),
    (StoppedWhileWriting, Policy::Ignore),
    (StoppedAtReset, Policy::RestartVm),
];

/// What the other tests leave of the matrix.
fn the_rest() -> Result<()> {
    for moment in [
        KilledWhileWriting,
        StoppedBeforeActivation,
        StoppedWhileWriting,
        StoppedAtReset,
    ] {
        for policy in [Policy::RestartVm, Policy::Stop, Policy::Ignore] {
            if !SHORTLY_TESTED.contains(&(moment, policy)) {
                lose(moment, policy).with_context(|| format!("{moment:?}, {policy:?}"))?;
            }
        }
    }
    Ok(())
}

/// The guest uses a second share, `victim`, in another process, and answers questions that come by the first one. When it
/// is told that it was restarted, it writes a file there and is done.
const SCRIPT: &str = r#"
mkdir /tmp/victim
use() {
    mount -t virtiofs victim /tmp/victim || exit
    echo minivmm-guest: the victim is mounted
    while dd if=/dev/zero of=/tmp/victim/file bs=65536 count=16 conv=fsync 2>/dev/null; do
        written=$((written + 1))
        [ $((written % 20)) = 1 ] && echo minivmm-guest: written
    done
}
case $(cat /data/moment) in
StoppedAtReset)
    echo minivmm-guest: ready for the reset
    until [ -e /data/reset ]; do usleep 100000; done
    cd /sys/bus/pci/devices/0000:00:0f.0
    (
        set -- virtio*
        cd /sys/bus/virtio/drivers/virtiofs
        echo $1 >unbind
        echo minivmm-guest: reset is done
        echo $1 >bind
    ) &
    ;;
Restarted)
    mount -t virtiofs victim /tmp/victim
    echo later >/tmp/victim/later
    sync
    umount /tmp/victim
    exit
    ;;
*)
    use &
    ;;
esac
while :; do
    if [ -e /data/question ]; then
        echo minivmm-guest: answer $(cat /data/question)
        rm /data/question
    fi
    usleep 100000
done
"#;

fn prepare(moment: &str, toml: &str) -> Result<Vm> {
    let vm = Vm::with_script(SCRIPT)?.toml(&format!(
        "[[shares]]\ntag = \"victim\"\nsource = \"victim\"\n{toml}"
    ));
    fs::create_dir(vm.directory().join("victim"))?;
    fs::write(vm.data().join("moment"), moment)?;
    Ok(vm)
}

fn lose(moment: Moment, policy: Policy) -> Result<()> {
    let word = match policy {
        Policy::RestartVm => "restart-vm",
        Policy::Stop => "stop",
        Policy::Ignore => "ignore",
    };
    let vm = prepare(
        &format!("{moment:?}"),
        &format!("on_failure = \"{word}\"\n[lifecycle]\nstop_timeout = \"5s\"\n"),
    )?;
    let mut running = vm.start()?;
    running.wait_for("the VM runs")?;
    let log = strike(moment, &vm, &mut running)?;
    match policy {
        Policy::RestartVm => {
            running.wait_for("virtiofsd of share `victim` was lost")?;
            running.wait_for("starting the VM again: 1 of at most 5 restarts in 10 minutes")?;
            // The new guest has its kernel to boot before it reads this.
            fs::write(vm.data().join("moment"), "Restarted")?;
            let (code, output) = running.wait()?;
            ensure!(code == 0, "exit code {code}:\n{output}");
            ensure!(output.contains(&log), "no `{log}`:\n{output}");
            let later = fs::read_to_string(vm.directory().join("victim/later"));
            ensure!(later.is_ok_and(|text| text == "later\n"), "{output}");
        }
        Policy::Stop => {
            running.wait_for("asking the guest to shut down")?;
            running.wait_for("the guest has not shut down within 5s")?;
            let (code, output) = running.wait()?;
            ensure!(code == 14, "exit code {code}:\n{output}");
            ensure!(output.contains(&log), "no `{log}`:\n{output}");
        }
        Policy::Ignore => {
            running.wait_for("the guest goes on without the share")?;
            // At the latest when the driver wants it again.
            running.wait_for("the device needs a reset by its driver")?;
            fs::write(vm.data().join("question"), "alive\n")?;
            running.wait_for("minivmm-guest: answer alive")?;
            running.signal(Signal::TERM)?;
            let (code, output) = running.wait()?;
            ensure!(code == 13, "exit code {code}:\n{output}");
            ensure!(output.contains(&log), "no `{log}`:\n{output}");
        }
    }
    vm.nothing_left()
}

/// Kills or stops the victim's virtiofsd at `moment`; gives what the log is to say of it.
fn strike(moment: Moment, vm: &Vm, running: &mut Running) -> Result<String> {
    let [outer, worker] = victims(running)?;
    Ok(match moment {
        KilledWhileWriting => {
            running.wait_for("minivmm-guest: written")?;
            kill(outer, Signal::KILL)?;
            // Whichever of the two ends first takes the other along.
            format!("virtiofsd ended by signal 9 (SIGKILL) share=victim pid={outer}")
        }
        StoppedBeforeActivation => {
            kill(worker, Signal::STOP)?;
            kill(outer, Signal::STOP)?;
            let said = running.wait_for("virtiofsd was stopped by signal 19 (SIGSTOP)")?;
            ensure!(
                said.contains(&format!("share=victim pid={outer}")),
                "{said}"
            );
            said
        }
        StoppedWhileWriting => {
            running.wait_for("minivmm-guest: written")?;
            // The one that does the work is no child of minivmm's: that it is stopped shows in its silence.
            kill(worker, Signal::STOP)?;
            format!("virtiofsd is stopped, as by signal 19 (SIGSTOP) share=victim pid={worker}")
        }
        StoppedAtReset => {
            running.wait_for("minivmm-guest: ready for the reset")?;
            kill(worker, Signal::STOP)?;
            fs::write(vm.data().join("reset"), "")?;
            format!("virtiofsd is stopped, as by signal 19 (SIGSTOP) share=victim pid={worker}")
        }
    })
}

/// The victim's virtiofsd: the process that minivmm started, and the one in its sandbox.
fn victims(running: &Running) -> Result<[u32; 2]> {
    let mut found = Vec::new();
    for pid in vm::descendants(running.pid())? {
        let line = fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        if line.contains("--shared-dir") && line.contains("/victim\0") {
            found.push(pid);
        }
    }
    let found = found.as_slice().try_into();
    found.with_context(|| format!("not two processes serve the victim: {found:?}"))
}

fn kill(pid: u32, signal: Signal) -> Result<()> {
    let pid = Pid::from_raw(pid.try_into()?).context("no process id")?;
    Ok(kill_process(pid, signal)?)
}

fn five_restarts() -> Result<()> {
    let vm = prepare("KilledWhileWriting", "")?;
    let mut running = vm.start()?;
    for run in 1..=6 {
        running.wait_for_nth("the VM runs", run)?;
        kill(victims(&running)?[0], Signal::KILL)?;
        if run <= 5 {
            running.wait_for(&format!("starting the VM again: {run} of at most 5"))?;
        }
    }
    running.wait_for("the VM is not started again: it was 5 times in 10 minutes")?;
    let (code, output) = running.wait()?;
    ensure!(code == 14, "exit code {code}:\n{output}");
    vm.nothing_left()
}

/// A debugger's stop, say. Neither the process that minivmm sees nor the one that works is given up too early.
fn continued() -> Result<()> {
    let vm = prepare("StoppedWhileWriting", "on_failure = \"stop\"\n")?;
    let mut running = vm.start()?;
    running.wait_for("minivmm-guest: written")?;
    let both = victims(&running)?;
    for pid in both {
        kill(pid, Signal::STOP)?;
    }
    running.wait_for("virtiofsd was stopped by signal 19 (SIGSTOP)")?;
    // Long enough for the silence to be noticed, and short of what counts as lost: this is about the time itself.
    thread::sleep(Duration::from_secs(3));
    for pid in both {
        kill(pid, Signal::CONT)?;
    }
    running.wait_for("virtiofsd was continued")?;
    let seen = running.count("minivmm-guest: written");
    running.wait_for_nth("minivmm-guest: written", seen + 2)?;
    running.signal(Signal::TERM)?;
    running.wait_for("asking the guest to shut down")?;
    running.signal(Signal::TERM)?;
    let (code, output) = running.wait()?;
    ensure!(code == 13, "exit code {code}:\n{output}");
    ensure!(!output.contains("the share is lost"), "{output}");
    Ok(())
}
