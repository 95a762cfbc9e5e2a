//! Whose a share's files are, and virtiofsds that somebody else starts.

use std::{
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt, chown},
    path::Path,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};

use crate::{
    Test,
    vm::{self, Vm, value},
};

pub const TESTS: &[Test] = &[
    Test {
        name: "shares::the_guests_root_gives_files_away_as_far_as_its_ids_go",
        run: ids,
    },
    Test {
        name: "shares::a_virtiofsd_of_somebody_else_may_come_late_and_come_again",
        run: late_socket,
    },
    Test {
        name: "shares::a_socket_that_never_comes_is_an_error_and_a_signal_ends_the_wait",
        run: no_socket,
    },
];

const BASE: u32 = 1_000_000_000;

fn ids() -> Result<()> {
    let mut vm = Vm::with_script(
        "for s in host shifted squash; do\n\
             mkdir /tmp/$s && mount -t virtiofs $s /tmp/$s && cd /tmp/$s\n\
             touch own given beyond\n\
             chown 1000:1001 given; echo $s-given=$? $(stat -c %u:%g given)\n\
             chown 70000:70000 beyond 2>/dev/null; echo $s-beyond=$? $(stat -c %u:%g beyond)\n\
             cd / && umount /tmp/$s\n\
         done\n",
    )?;
    for (tag, keys) in [
        ("host", "ids = \"host\""),
        ("shifted", "ids = \"shifted\"\nids_base = 1000000000"),
        ("squash", "ids = \"squash\""),
    ] {
        fs::create_dir(vm.directory().join(tag))?;
        vm = vm.toml(&format!(
            "[[shares]]\ntag = \"{tag}\"\nsource = \"{tag}\"\n{keys}\n"
        ));
    }
    let shifted = vm.directory().join("shifted");
    // Neither its own nor on a way that it can go: each is said with the command that mends it.
    let refused = |words: &str| -> Result<()> {
        let (code, output) = vm.run()?;
        ensure!(
            code == 78 && output.contains(words),
            "{words}: {code}: {output}"
        );
        Ok(())
    };
    refused("chown 1000000000:1000000000")?;
    chown(&shifted, Some(BASE), Some(BASE))?;
    fs::set_permissions(vm.directory(), fs::Permissions::from_mode(0o700))?;
    refused("chmod o+x")?;
    fs::set_permissions(vm.directory(), fs::Permissions::from_mode(0o711))?;

    let (code, output) = vm.run()?;
    ensure!(code == 0, "exit code {code}:\n{output}");
    for (name, expected) in [
        ("host-given=", "0 1000:1001"),
        ("host-beyond=", "0 70000:70000"),
        ("shifted-given=", "0 1000:1001"),
        ("shifted-beyond=", "1 0:0"),
        ("squash-given=", "0 0:0"),
        ("squash-beyond=", "0 0:0"),
    ] {
        ensure!(
            value(&output, name)? == expected,
            "{name} is not {expected}:\n{output}"
        );
    }
    let owner = |path: &str| -> Result<(u32, u32)> {
        let metadata = fs::metadata(vm.directory().join(path))?;
        Ok((metadata.uid(), metadata.gid()))
    };
    for (path, expected) in [
        ("host/own", (0, 0)),
        ("host/given", (1000, 1001)),
        ("shifted/own", (BASE, BASE)),
        ("shifted/given", (BASE + 1000, BASE + 1001)),
        ("squash/own", (0, 0)),
        ("squash/given", (0, 0)),
    ] {
        ensure!(owner(path)? == expected, "{path}: {:?}", owner(path)?);
    }
    ensure!(
        output.contains("belongs to uid 0, whatever the guest says"),
        "{output}"
    );
    vm.nothing_left()
}

/// A virtiofsd on a socket, with the process in its sandbox; ended when this is dropped.
struct Elsewhere(Child);

impl Elsewhere {
    fn start(socket: &Path, directory: &Path) -> Result<Self> {
        let program = std::env::var_os("MINIVMM_VIRTIOFSD").context("MINIVMM_VIRTIOFSD")?;
        let child = Command::new(program)
            .arg("--socket-path")
            .arg(socket)
            .arg("--shared-dir")
            .arg(directory)
            .stderr(Stdio::null())
            .spawn()?;
        Ok(Self(child))
    }

    /// The same, with its socket there; started again where it has ended, as its service manager would.
    fn listening(socket: &Path, directory: &Path) -> Result<Self> {
        let deadline = Instant::now() + vm::PATIENCE;
        while Instant::now() < deadline {
            let mut started = Self::start(socket, directory)?;
            while started.0.try_wait()?.is_none() && Instant::now() < deadline {
                if socket.exists() {
                    return Ok(started);
                }
                thread::sleep(Duration::from_millis(10));
            }
        }
        bail!("virtiofsd does not listen on {}", socket.display())
    }

    /// Sends a signal to its processes: the one that does the work, and the one that waits for it.
    fn signal(&self, signal: Signal) -> Result<()> {
        for pid in vm::descendants(self.0.id())?
            .into_iter()
            .chain([self.0.id()])
        {
            let pid = Pid::from_raw(pid.try_into()?).context("no process id")?;
            kill_process(pid, signal)?;
        }
        Ok(())
    }
}

impl Drop for Elsewhere {
    fn drop(&mut self) {
        // Already ended in most cases. The worker outlives its parent if it is stopped, and until it is gone it holds the
        // socket's lock, without which the next one does not start.
        let workers = vm::descendants(self.0.id()).unwrap_or_default();
        let _ = self.signal(Signal::KILL);
        let _ = self.0.wait();
        if let Err(error) = vm::wait_gone(&workers) {
            eprintln!("{error:#}");
        }
    }
}

fn with_socket(script: &str) -> Result<Vm> {
    Ok(Vm::with_script(script)?.toml("[[shares]]\ntag = \"elsewhere\"\nsocket = \"fs.sock\"\n"))
}

fn late_socket() -> Result<()> {
    let vm = with_socket(
        "mkdir /tmp/e && mount -t virtiofs elsewhere /tmp/e\n\
         if [ -e /tmp/e/here ]; then echo again >/tmp/e/here; umount /tmp/e; exit; fi\n\
         echo once >/tmp/e/here; sync\n\
         echo minivmm-guest: written once\n\
         while :; do dd if=/dev/zero of=/tmp/e/file bs=4096 count=16 conv=fsync 2>/dev/null; done\n",
    )?;
    let (socket, directory) = (
        vm.directory().join("fs.sock"),
        vm.directory().join("shared"),
    );
    fs::create_dir(&directory)?;
    let mut running = vm.start()?;
    let said = running.wait_for("for a virtiofsd on \"fs.sock\"")?;
    ensure!(
        said.contains("waiting up to 60 s") && said.contains("no such file"),
        "{said}"
    );
    let first = Elsewhere::start(&socket, &directory)?;
    running.wait_for("minivmm-guest: written once")?;

    // It is no child of minivmm's: that it is stopped can be seen only by what it does not do.
    fs::remove_file(&socket)?;
    first.signal(Signal::STOP)?;
    running.wait_for("the share is lost")?;
    running.wait_for("starting the VM again: 1 of at most 5")?;
    running.wait_for_nth("waiting up to 60 s for a virtiofsd", 2)?;
    // As whoever runs it would: it holds a lock as long as it lives.
    drop(first);
    let _second = Elsewhere::listening(&socket, &directory)?;
    let (code, output) = running.wait()?;
    ensure!(code == 0, "exit code {code}:\n{output}");
    ensure!(
        fs::read_to_string(directory.join("here"))? == "again\n",
        "{output}"
    );
    Ok(())
}

fn no_socket() -> Result<()> {
    let (patient, asked) = (with_socket("")?, with_socket("")?);
    let begin = Instant::now();
    let mut waits = patient.start()?;
    waits.wait_for("waiting up to 60 s for a virtiofsd")?;

    let mut ended = asked.start()?;
    ended.wait_for("waiting up to 60 s for a virtiofsd")?;
    let signal = Instant::now();
    ended.signal(Signal::TERM)?;
    let (code, output) = ended.wait()?;
    ensure!(code == 13, "exit code {code}:\n{output}");
    ensure!(
        signal.elapsed() < Duration::from_secs(5),
        "{:?}",
        signal.elapsed()
    );
    asked.nothing_left()?;

    waits.wait_for("waiting up to 10 s for a virtiofsd")?;
    let (code, output) = waits.wait()?;
    ensure!(code == 78, "exit code {code}:\n{output}");
    let last = output.lines().last().unwrap_or_default();
    for words in [
        "minivmm: ",
        "share `elsewhere`: no virtiofsd was there for 60 seconds on \"fs.sock\"",
        "virtiofsd --socket-path fs.sock",
    ] {
        ensure!(last.contains(words), "{words}:\n{output}");
    }
    ensure!(
        (60..75).contains(&begin.elapsed().as_secs()),
        "{:?}",
        begin.elapsed()
    );
    patient.nothing_left()
}
