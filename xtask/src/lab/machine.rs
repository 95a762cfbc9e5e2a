//! The lab machine: QEMU's software CPU with SVM.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::path::Path;
use std::process::{ChildStderr, ChildStdout, Command, Stdio};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};
use std::{env, process};

use anyhow::{Context, Result, bail};

use super::console::{Console, Piece, Report};
use super::l1::{self, Session};
use super::{Job, NO_OUTCOME, terminal_size};
use crate::command::{Tied, program, run as run_program};
use crate::workspace;

/// The machine's RAM in MiB: guests of 4 GiB have room in it.
const MEMORY: u32 = 8192;

/// The machine gives a sign of life every ten seconds of its own time. After this long without one it stands still.
const STANDSTILL: Duration = Duration::from_secs(180);

/// Runs `job` in a lab machine of its own.
pub fn run(job: &Job, to: Option<&mut dyn Write>) -> Result<u8> {
    let mut stdout = io::stdout();
    let to = to.unwrap_or(&mut stdout);
    let image = l1::image()?;
    let token = token()?;
    let mut environment = l1::inherited(env::vars_os());
    environment.extend(
        [
            ("MINIVMM_LAB", "1"),
            ("MINIVMM_SCRATCH", "/scratch"),
            // Unlike the overlay, ext4 has user.* attributes, O_TMPFILE and the rest.
            ("TMPDIR", "/scratch/tmp"),
        ]
        .map(|(name, value)| (name.to_owned(), value.into())),
    );
    if job.out.is_some() {
        environment.push(("MINIVMM_OUT".to_owned(), "/out".into()));
    }
    let debian = super::debian(job);
    if debian.is_some() {
        environment.push(("MINIVMM_GUEST_DEBIAN".to_owned(), "/guest/debian".into()));
    }
    environment.extend(job.environment.iter().cloned());
    let initramfs = image.initramfs(&Session {
        token: &token,
        terminal: terminal_size(),
        program: &env::current_exe()?,
        out: job.out.is_some(),
        debian: debian.is_some(),
        command: &job.command,
        directory: &env::current_dir()?,
        environment: &environment,
    })?;
    let scratch = scratch_disk(job.disk)?;

    let mut command = qemu(&image.kernel, &initramfs)?;
    // In this order: they are /dev/vda and /dev/vdb there.
    add_disk(&mut command, "scratch", &nameless(&scratch), false)?;
    if let Some(debian) = &debian {
        add_disk(&mut command, "debian", &debian.display().to_string(), true)?;
    }
    if let Some(out) = &job.out {
        add_out(&mut command, out)?;
    }
    let mut qemu = Tied::start(&mut command)?;
    let (sender, events) = channel();
    if let (Some(stdout), Some(stderr)) = (qemu.0.stdout.take(), qemu.0.stderr.take()) {
        forward_console(stdout, sender.clone());
        forward_warnings(stderr);
    }
    drop(sender);

    let deadline = Instant::now() + job.timeout;
    let mut console = Console::new(&token);
    let mut progress = Progress::default();
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        match events.recv_timeout(left.min(STANDSTILL)) {
            Ok(bytes) => {
                let exit = progress.take(&mut console, &bytes, to)?;
                if let Some(code) = exit {
                    return Ok(code);
                }
            }
            Err(RecvTimeoutError::Timeout) if left > STANDSTILL => {
                return Ok(progress.failed(&format!(
                    "the lab machine stands still: no sign of life for {} s",
                    STANDSTILL.as_secs()
                )));
            }
            Err(RecvTimeoutError::Timeout) => {
                return Ok(progress.failed(&format!(
                    "the lab was ended after its time limit of {} minutes",
                    job.timeout.as_secs().div_ceil(60)
                )));
            }
            Err(RecvTimeoutError::Disconnected) => {
                let status = qemu.0.wait()?;
                return Ok(progress.failed(&format!(
                    "the lab machine ended ({status}) before it said how the command had ended"
                )));
            }
        }
    }
}

/// How far a run has come.
#[derive(Debug, Default)]
struct Progress {
    started: bool,
    /// What the machine said before the command was started: of interest only if it never is.
    boot: Vec<u8>,
}

impl Progress {
    /// Passes on what the console said; returns the command's exit code when that is known.
    fn take(
        &mut self,
        console: &mut Console,
        bytes: &[u8],
        to: &mut dyn Write,
    ) -> io::Result<Option<u8>> {
        let (mut output, mut exit) = (Vec::new(), None);
        console.feed(bytes, |piece| match piece {
            Piece::Output(bytes) if self.started => output.extend_from_slice(bytes),
            Piece::Output(bytes) => self.boot.extend_from_slice(bytes),
            Piece::Report(Report::Started) => self.started = true,
            Piece::Report(Report::Alive) => {}
            Piece::Report(Report::Exit(code)) => exit = Some(code),
        });
        if !output.is_empty() {
            to.write_all(&output)?;
            to.flush()?;
        }
        Ok(exit)
    }

    /// Says why there is no exit code.
    fn failed(&self, why: &str) -> u8 {
        if !self.started {
            eprint!("{}", String::from_utf8_lossy(&self.boot));
        }
        eprintln!("lab: {why}");
        NO_OUTCOME
    }
}

fn qemu(kernel: &Path, initramfs: &File) -> Result<Command> {
    let mut qemu = super::qemu::qemu()?;
    qemu.args(["-no-user-config", "-nodefaults", "-display", "none"])
        .args(["-machine", "q35,hpet=off", "-cpu", "EPYC,+svm"])
        // One CPU: with two, QEMU's software CPU can miss on one that the other has changed code (docs/lab.md).
        .args(["-accel", "tcg,tb-size=1024"])
        .args(["-smp", "1", "-m", &MEMORY.to_string()])
        .args(["-no-reboot", "-chardev", "stdio,id=console,signal=off"])
        .args(["-serial", "chardev:console"])
        .arg("-kernel")
        .arg(kernel)
        .args(["-initrd", &nameless(initramfs)])
        .args([
            "-append",
            "console=ttyS0 quiet panic=-1 mitigations=off tsc=reliable no_timer_check",
        ])
        .args([
            "-fsdev",
            "local,id=machine,path=/,security_model=none,readonly=on,multidevs=remap",
            "-device",
            "virtio-9p-pci,fsdev=machine,mount_tag=machine",
        ]);
    qemu.stdout(Stdio::piped()).stderr(Stdio::piped());
    Ok(qemu)
}

/// Adds the file at `path` as a virtio-blk disk.
fn add_disk(qemu: &mut Command, name: &str, path: &str, read_only: bool) -> Result<()> {
    let read_only = if read_only { "on" } else { "off" };
    qemu.args([
        "-blockdev",
        &format!(
            "raw,node-name={name},read-only={read_only},discard=unmap,file.driver=file,file.locking=off,file.filename={}",
            exportable(Path::new(path))?
        ),
        "-device",
        &format!("virtio-blk-pci,drive={name}"),
    ]);
    Ok(())
}

/// Adds a directory that the machine may write to.
fn add_out(qemu: &mut Command, out: &Path) -> Result<()> {
    let out =
        fs::canonicalize(out).with_context(|| format!("cannot use {} as /out", out.display()))?;
    qemu.args([
        "-fsdev",
        &format!(
            "local,id=out,path={},security_model=none,multidevs=remap",
            exportable(&out)?
        ),
        "-device",
        "virtio-9p-pci,fsdev=out,mount_tag=out",
    ]);
    Ok(())
}

/// `path` as QEMU's options can have it.
fn exportable(path: &Path) -> Result<&str> {
    match path.to_str() {
        Some(path) if !path.contains(',') => Ok(path),
        _ => bail!("QEMU cannot export {}: rename it", path.display()),
    }
}

/// A path by which another process of this user opens a file that has no name: nothing is left of such a file when
/// both processes are gone, however they end.
fn nameless(file: &File) -> String {
    format!("/proc/{}/fd/{}", process::id(), file.as_raw_fd())
}

/// An ext4 file system of `size` MiB in a sparse file without a name.
fn scratch_disk(size: u64) -> Result<File> {
    let file = tempfile::tempfile_in(workspace::cache())
        .and_then(|file| file.set_len(size << 20).map(|()| file))
        .context("cannot make the scratch disk")?;
    run_program(program("mkfs.ext4").args(["-q", "-F"]).arg(nameless(&file)))
        .context("cannot make the scratch disk")?;
    Ok(file)
}

/// What no command can guess.
fn token() -> Result<String> {
    let mut bytes = [0; 8];
    File::open("/dev/urandom")
        .and_then(|mut random| random.read_exact(&mut bytes))
        .context("cannot read /dev/urandom")?;
    Ok(format!("{:016x}", u64::from_le_bytes(bytes)))
}

fn forward_console(mut console: ChildStdout, to: Sender<Vec<u8>>) {
    thread::spawn(move || {
        let mut bytes = [0; 4096];
        while let Ok(count @ 1..) = console.read(&mut bytes) {
            if to.send(bytes[..count].to_vec()).is_err() {
                return;
            }
        }
    });
}

/// Passes on what QEMU says, but for the features that its software CPU lacks: a line for each and each CPU.
fn forward_warnings(stderr: ChildStderr) {
    thread::spawn(move || {
        for line in io::BufRead::lines(io::BufReader::new(stderr)).map_while(Result::ok) {
            if !line.contains("TCG doesn't support requested feature") {
                eprintln!("lab: {line}");
            }
        }
    });
}
