//! A `minivmm console` that runs beside its VM.

use std::{
    fs::File,
    io::{Read, Write},
    process::{Child, ChildStdin, Command, Stdio},
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use rustix::{
    process::{Pid, Signal, kill_process},
    pty::{OpenptFlags, grantpt, ioctl_tiocgptpeer, openpt, unlockpt},
    termios::{LocalModes, Termios, tcgetattr},
};

use crate::vm::{PATIENCE, Vm};

/// Somebody at a console.
pub struct Attached {
    child: Child,
    input: Option<ChildStdin>,
    output: Arc<Mutex<Vec<u8>>>,
}

impl Attached {
    /// `minivmm console test` with `options` and pipes.
    pub fn new(vm: &Vm, options: &[&str]) -> Result<Self> {
        let mut command = vm.command(["console", "test"]);
        command.args(options);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().context("cannot start minivmm console")?;
        let output = Arc::default();
        if let Some(stdout) = child.stdout.take() {
            collect(stdout, &output);
        }
        Ok(Self {
            input: child.stdin.take(),
            output,
            child,
        })
    }

    /// Types a line.
    pub fn line(&mut self, line: &str) -> Result<()> {
        let input = self.input.as_mut().context("it was left")?;
        Ok(writeln!(input, "{line}")?)
    }

    /// Waits until it has shown `text`, and gives everything that it has shown so far.
    pub fn wait_for(&self, text: &str) -> Result<String> {
        wait_for(&self.output, text)
    }

    /// Ends its standard input, and waits for its end; gives everything that it has shown.
    pub fn leave(mut self) -> Result<String> {
        self.input = None;
        ensure!(wait(&mut self.child)? == Some(0), "it did not leave well");
        Ok(text(&self.output))
    }

    /// Waits for its end, which is the VM's.
    pub fn end(mut self) -> Result<String> {
        ensure!(wait(&mut self.child)? == Some(0), "it did not end well");
        Ok(text(&self.output))
    }
}

impl Drop for Attached {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Somebody at a console on a terminal.
pub struct OnTerminal {
    child: Child,
    terminal: File,
    before: Termios,
    output: Arc<Mutex<Vec<u8>>>,
}

impl OnTerminal {
    /// `minivmm console test` with `options` on a terminal of its own.
    pub fn new(vm: &Vm, options: &[&str]) -> Result<Self> {
        // Or it would be the tests' own terminal, whose end ends them.
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let terminal = openpt(flags)?;
        grantpt(&terminal)?;
        unlockpt(&terminal)?;
        let theirs = ioctl_tiocgptpeer(&terminal, flags)?;
        let before = tcgetattr(&terminal)?;
        let end = || theirs.try_clone();
        let mut command = vm.command(["console", "test"]);
        command.args(options);
        command.stdin(end()?).stdout(end()?).stderr(end()?);
        let child = command.spawn().context("cannot start minivmm console")?;
        let output = Arc::default();
        collect(File::from(terminal.try_clone()?), &output);
        Ok(Self {
            child,
            terminal: terminal.into(),
            before,
            output,
        })
    }

    /// Presses keys.
    pub fn keys(&mut self, keys: &[u8]) -> Result<()> {
        Ok(self.terminal.write_all(keys)?)
    }

    /// Waits until it has shown `text`.
    pub fn wait_for(&self, text: &str) -> Result<String> {
        wait_for(&self.output, text)
    }

    /// Sends a signal to it.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        Ok(kill_process(Pid::from_child(&self.child), signal)?)
    }

    /// Fails if keys are shown by the terminal itself, or make signals.
    pub fn is_raw(&self) -> Result<()> {
        let modes = tcgetattr(&self.terminal)?.local_modes;
        let cooked = LocalModes::ECHO | LocalModes::ICANON | LocalModes::ISIG;
        ensure!(
            !modes.intersects(cooked),
            "the terminal is not raw: {modes:?}"
        );
        Ok(())
    }

    /// Waits for its end, and fails if the terminal is not as it was before.
    pub fn end(mut self) -> Result<String> {
        ensure!(wait(&mut self.child)? == Some(0), "it did not end well");
        let modes = tcgetattr(&self.terminal)?;
        ensure!(
            modes.local_modes == self.before.local_modes
                && modes.input_modes == self.before.input_modes
                && modes.output_modes == self.before.output_modes,
            "the terminal was not restored"
        );
        Ok(text(&self.output))
    }
}

impl Drop for OnTerminal {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs `command` to its end, and gives its exit code with both outputs.
pub fn outcome(mut command: Command) -> Result<(Option<i32>, String)> {
    let output = command.stdin(Stdio::null()).output()?;
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said).into_owned();
    Ok((output.status.code(), said))
}

fn collect(mut from: impl Read + Send + 'static, output: &Arc<Mutex<Vec<u8>>>) {
    let output = output.clone();
    thread::spawn(move || {
        let mut bytes = vec![0; 1 << 16];
        while let Ok(n @ 1..) = from.read(&mut bytes) {
            let mut output = output.lock().unwrap_or_else(PoisonError::into_inner);
            output.extend_from_slice(&bytes[..n]);
        }
    });
}

fn text(output: &Mutex<Vec<u8>>) -> String {
    let output = output.lock().unwrap_or_else(PoisonError::into_inner);
    String::from_utf8_lossy(&output).into_owned()
}

fn wait_for(output: &Mutex<Vec<u8>>, wanted: &str) -> Result<String> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let seen = text(output);
        if seen.contains(wanted) {
            return Ok(seen);
        }
        if Instant::now() > deadline {
            let last: Vec<&str> = seen.lines().rev().take(50).collect();
            bail!("no `{wanted}` within {PATIENCE:?}; seen, the last line first: {last:#?}");
        }
        thread::sleep(Duration::from_millis(50));
    }
}

fn wait(child: &mut Child) -> Result<Option<i32>> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(status) = child.try_wait()? {
            // What it said last is collected by another thread.
            thread::sleep(Duration::from_millis(100));
            return Ok(status.code());
        }
        ensure!(Instant::now() < deadline, "it does not end");
        thread::sleep(Duration::from_millis(10));
    }
}
