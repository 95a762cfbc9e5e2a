//! A VM under test: its directory, its configuration and the running `minivmm run`.

use std::{
    ffi::OsString,
    fs,
    io::{BufRead, BufReader, Read},
    os::unix::{
        fs::{FileTypeExt, chown},
        process::ExitStatusExt,
    },
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Output, Stdio},
    sync::mpsc::{self, Receiver, RecvTimeoutError},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use tempfile::TempDir;

use crate::{guest::Guest, tiny, watchdog};

/// How long anything in a guest may take: a limit against hanging. The lab is slow.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// The environment variable that replaces `/run/minivmm`.
const RUNTIME_ROOT: &str = "MINIVMM_RUNTIME_ROOT";

/// The program under test.
pub fn program() -> PathBuf {
    std::env::var_os("MINIVMM_BIN")
        .map_or_else(|| env!("CARGO_BIN_EXE_minivmm").into(), PathBuf::from)
}

/// A temporary directory where file systems are real.
pub fn directory() -> Result<TempDir> {
    let base = std::env::var_os("MINIVMM_SCRATCH").map_or_else(std::env::temp_dir, PathBuf::from);
    tempfile::Builder::new()
        .prefix("minivmm-test-")
        .tempdir_in(&base)
        .with_context(|| format!("cannot make a directory in {}", base.display()))
}

/// A VM's files.
pub struct Vm {
    directory: TempDir,
    head: String,
    cmdline: String,
    tail: String,
    prefix: Vec<OsString>,
    program: PathBuf,
    guest: Guest,
    virtiofsd: Option<PathBuf>,
    before: Vec<PathBuf>,
}

impl Vm {
    /// One vCPU, 256 MiB, a share on /data that the host has in [`data`](Self::data).
    pub fn new() -> Result<Self> {
        let directory = directory()?;
        fs::create_dir(directory.path().join("data"))?;
        let guest = std::env::var_os("MINIVMM_GUEST").unwrap_or_default();
        Ok(Self {
            program: program(),
            guest: Guest::new(Path::new(&guest)),
            virtiofsd: None,
            before: runtime_files()?,
            directory,
            head: "name = \"test\"\nvcpu = 1\nmem = 256\n".to_owned(),
            cmdline: "quiet cryptomgr.notests".to_owned(),
            tail: "[[shares]]\ntag = \"test-data\"\nsource = \"data\"\nmount_point = \"/data\"\n"
                .to_owned(),
            prefix: Vec::new(),
        })
    }

    /// A VM without a share, whose guest waits for the power button and does nothing else: the one that boots soonest.
    pub fn with_button() -> Result<Self> {
        let mut vm = Self::new()?
            .guest(Guest::of_kernel("6.1-cloud")?.elf("linux64"))
            .memory(128)
            .cmdline("rdinit=/button-init");
        vm.tail.clear();
        Ok(vm)
    }

    /// A VM without a share: all its memory is its own.
    pub fn without_share() -> Result<Self> {
        let mut vm = Self::new()?;
        vm.tail.clear();
        Ok(vm)
    }

    /// A VM without a share that runs a kernel of our own.
    pub fn with_tiny(last: tiny::Last) -> Result<Self> {
        let mut vm = Self::new()?;
        let kernel = vm.directory().join("tiny");
        fs::write(&kernel, tiny::kernel(last)?)?;
        vm.guest = Guest {
            kernel,
            initrd: None,
            entry: None,
        };
        vm.tail.clear();
        Ok(vm)
    }

    /// A VM that runs a shell script as its only work and then powers off.
    pub fn with_script(script: &str) -> Result<Self> {
        let vm = Self::new()?.cmdline("rdinit=/test-init");
        fs::write(vm.data().join("test.sh"), script)?;
        Ok(vm)
    }

    /// Replaces what is booted.
    pub fn guest(mut self, guest: Guest) -> Self {
        self.guest = guest;
        self
    }

    /// Replaces the memory's size in MiB.
    pub fn memory(mut self, size: u32) -> Self {
        self.head = self.head.replace("mem = 256", &format!("mem = {size}"));
        self
    }

    /// Replaces the number of vCPUs.
    pub fn vcpus(mut self, count: u8) -> Self {
        self.head = self.head.replace("vcpu = 1", &format!("vcpu = {count}"));
        self
    }

    /// Adds words to the kernel's command line.
    pub fn cmdline(mut self, words: &str) -> Self {
        self.cmdline = format!("{} {words}", self.cmdline);
        self
    }

    /// Adds TOML at the beginning of the configuration, where keys of no section are.
    pub fn top(mut self, text: &str) -> Self {
        self.head.push_str(text);
        self
    }

    /// Adds TOML at the end of the configuration.
    pub fn toml(mut self, text: &str) -> Self {
        self.tail.push_str(text);
        self
    }

    /// Runs `minivmm` by another program, as `ip netns exec NAME`.
    pub fn by<const N: usize>(mut self, prefix: [&str; N]) -> Self {
        self.prefix = prefix.iter().map(OsString::from).collect();
        self
    }

    /// Gives everything to an ordinary user: the files, and copies of the programs and the guest, which may
    /// be where only root looks.
    pub fn owned_by(mut self, user: u32) -> Result<Self> {
        let directory = self.directory.path().to_owned();
        let virtiofsd =
            std::env::var_os("MINIVMM_VIRTIOFSD").context("MINIVMM_VIRTIOFSD names none")?;
        let initrd = self.guest.initrd.iter();
        for (from, name) in [
            (self.program.clone(), "minivmm"),
            (self.guest.kernel.clone(), "vmlinuz"),
            (virtiofsd.into(), "virtiofsd"),
        ]
        .into_iter()
        .chain(initrd.map(|initrd| (initrd.clone(), "initrd")))
        {
            fs::copy(&from, directory.join(name)).with_context(|| from.display().to_string())?;
        }
        self.program = directory.join("minivmm");
        self.virtiofsd = Some(directory.join("virtiofsd"));
        self.guest = Guest::new(&directory);
        for base in [&directory, &self.data()] {
            for entry in fs::read_dir(base)? {
                chown(entry?.path(), Some(user), Some(user))?;
            }
        }
        chown(&directory, Some(user), Some(user))?;
        Ok(self)
    }

    /// Fails if a file is in a directory for sockets that was not there before, or a socket in the VM's.
    pub fn nothing_left(&self) -> Result<()> {
        let mut left = runtime_files()?;
        left.retain(|path| !self.before.contains(path));
        for entry in fs::read_dir(self.directory.path())? {
            let entry = entry?;
            if entry.file_type()?.is_socket() {
                left.push(entry.path());
            }
        }
        ensure!(left.is_empty(), "left behind: {left:?}");
        Ok(())
    }

    /// The share's directory on the host.
    pub fn data(&self) -> PathBuf {
        self.directory.path().join("data")
    }

    /// What replaces `/run/minivmm` for this VM, which is `test` there.
    pub fn runtime_root(&self) -> PathBuf {
        self.directory.path().join("run")
    }

    /// Runs `minivmm` with `words`, as those who ask a VM that runs: `["status", "test"]`.
    pub fn ask<const N: usize>(&self, words: [&str; N]) -> Result<Output> {
        let mut command = self.command(words);
        command.output().context("cannot start minivmm")
    }

    /// The same, to be started.
    pub fn command<const N: usize>(&self, words: [&str; N]) -> Command {
        let mut command = Command::new(&self.program);
        command
            .args(words)
            .current_dir(self.directory.path())
            .env(RUNTIME_ROOT, self.runtime_root())
            .stdin(Stdio::null());
        command
    }

    /// The directory in which `minivmm` runs.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// The configuration.
    pub fn config(&self) -> Result<String> {
        Ok(format!(
            "{}{}{}",
            self.head,
            self.guest.toml(&self.cmdline),
            self.tail
        ))
    }

    /// Starts the VM.
    pub fn start(&self) -> Result<Running> {
        fs::write(self.directory.path().join("test.toml"), self.config()?)?;
        let mut words = self.prefix.clone();
        words.extend([
            self.program.clone().into(),
            "run".into(),
            "--config".into(),
            "test.toml".into(),
        ]);
        let mut command = Command::new(&words[0]);
        command
            .args(&words[1..])
            .current_dir(self.directory.path())
            .env(RUNTIME_ROOT, self.runtime_root())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .envs(
                self.virtiofsd
                    .iter()
                    .map(|path| ("MINIVMM_VIRTIOFSD", path)),
            );
        let mut child = command.spawn().context("cannot start minivmm")?;
        let (sender, lines) = mpsc::channel();
        let outputs: [Option<Box<dyn Read + Send>>; 2] = [
            child.stdout.take().map(|o| Box::new(o) as _),
            child.stderr.take().map(|o| Box::new(o) as _),
        ];
        for output in outputs.into_iter().flatten() {
            let sender = sender.clone();
            thread::spawn(move || {
                for line in BufReader::new(output).split(b'\n').map_while(|l| l.ok()) {
                    let line = String::from_utf8_lossy(&line).trim_end().to_owned();
                    if sender.send(line).is_err() {
                        return;
                    }
                }
            });
        }
        Ok(Running {
            child,
            lines,
            seen: Vec::new(),
        })
    }

    /// Runs the VM to its end and gives its exit code and what it printed.
    pub fn run(&self) -> Result<(i32, String)> {
        self.start()?.wait()
    }
}

/// What is in the directories where sockets may be made; `mount` is util-linux' own.
fn runtime_files() -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    let user = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
    for directory in [Some("/run".into()), Some(std::env::temp_dir()), user]
        .into_iter()
        .flatten()
    {
        for entry in fs::read_dir(directory)? {
            let path = entry?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            if name != "mount" && name != "minivmm" && !name.starts_with("minivmm-test-") {
                files.push(path);
            }
        }
    }
    Ok(files)
}

/// A running VM; ended when it is dropped.
pub struct Running {
    child: Child,
    lines: Receiver<String>,
    seen: Vec<String>,
}

impl Running {
    /// The process id of the supervisor (or of what it was started by).
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits until a line of the console or the log has `text`, and gives the line.
    pub fn wait_for(&mut self, text: &str) -> Result<String> {
        self.wait_for_nth(text, 1)
    }

    /// How many of the lines that were waited for, or came before one that was, have `text`.
    pub fn count(&self, text: &str) -> usize {
        self.seen.iter().filter(|line| line.contains(text)).count()
    }

    /// Waits until `n` lines of the console or the log have `text`, and gives the last of them.
    pub fn wait_for_nth(&mut self, text: &str, n: usize) -> Result<String> {
        let mut found = self.seen.iter().filter(|line| line.contains(text));
        if let Some(line) = found.nth(n - 1) {
            return Ok(line.clone());
        }
        let mut left_over = n - self.count(text);
        let deadline = Instant::now() + PATIENCE;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.lines.recv_timeout(left) {
                Ok(line) => {
                    self.seen.push(line.clone());
                    if line.contains(text) {
                        left_over -= 1;
                        if left_over == 0 {
                            return Ok(line);
                        }
                    }
                }
                Err(RecvTimeoutError::Timeout) => {
                    bail!(
                        "no `{text}` within {PATIENCE:?}; {}seen:\n{}",
                        watchdog::processes(),
                        self.seen.join("\n")
                    )
                }
                Err(RecvTimeoutError::Disconnected) => {
                    bail!("ended without `{text}`; seen:\n{}", self.seen.join("\n"))
                }
            }
        }
    }

    /// All that was printed so far.
    pub fn seen(&mut self) -> String {
        self.seen.extend(self.lines.try_iter());
        self.seen.join("\n")
    }

    /// Whether it runs no longer.
    pub fn has_ended(&mut self) -> Result<bool> {
        Ok(self.child.try_wait()?.is_some())
    }

    /// Sends a signal to the supervisor.
    pub fn signal(&self, signal: rustix::process::Signal) -> Result<()> {
        let pid = rustix::process::Pid::from_child(&self.child);
        Ok(rustix::process::kill_process(pid, signal)?)
    }

    /// Waits for the end; exit code (or 128 plus the signal's number) and everything that was printed.
    pub fn wait(mut self) -> Result<(i32, String)> {
        let deadline = Instant::now() + PATIENCE;
        let status = loop {
            match self.child.try_wait()? {
                Some(status) => break status,
                None if Instant::now() > deadline => {
                    let seen: Vec<String> = self.lines.try_iter().collect();
                    self.seen.extend(seen);
                    bail!(
                        "not ended within {PATIENCE:?}; {}seen:\n{}",
                        watchdog::processes(),
                        self.seen.join("\n")
                    );
                }
                None => thread::sleep(Duration::from_millis(10)),
            }
        };
        // Ends when the last process that holds the outputs is gone.
        loop {
            match self.lines.recv_timeout(PATIENCE) {
                Ok(line) => self.seen.push(line),
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => {
                    bail!(
                        "ended, but something holds its outputs; {}",
                        watchdog::processes()
                    )
                }
            }
        }
        Ok((code(status), self.seen.join("\n")))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Already ended in most cases; the supervisor's end is the end of all that it started.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn code(status: ExitStatus) -> i32 {
    status
        .code()
        .unwrap_or_else(|| 128 + status.signal().unwrap_or(0))
}

/// Every process of which `pid` is an ancestor.
pub fn descendants(pid: u32) -> Result<Vec<u32>> {
    let mut found = Vec::new();
    let children = format!("/proc/{pid}/task/{pid}/children");
    let children = fs::read_to_string(&children).with_context(|| children)?;
    for child in children.split_ascii_whitespace() {
        let child = child.parse()?;
        found.push(child);
        found.extend(descendants(child).unwrap_or_default());
    }
    Ok(found)
}

/// Waits until none of `pids` runs any more.
pub fn wait_gone(pids: &[u32]) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    for pid in pids {
        while is_running(*pid) {
            ensure!(Instant::now() < deadline, "process {pid} still runs");
            thread::sleep(Duration::from_millis(10));
        }
    }
    Ok(())
}

/// Whether a process runs: it exists and is no zombie that nobody has waited for.
fn is_running(pid: u32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|stat| !stat.rsplit(')').next().is_some_and(|s| s.starts_with(" Z")))
}

/// What is in an output that begins with a word, without the word.
pub fn value<'a>(output: &'a str, word: &str) -> Result<&'a str> {
    output
        .lines()
        .find_map(|line| line.trim().strip_prefix(word))
        .map(str::trim)
        .with_context(|| format!("no line begins with `{word}` in:\n{output}"))
}

/// Runs a program to its end and gives its standard output; an error with what it said if it failed.
pub fn run<const N: usize>(words: [&str; N]) -> Result<String> {
    let output = Command::new(words[0])
        .args(&words[1..])
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot run {}", words[0]))?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(
        output.status.success(),
        "{}: {}\n{said}{}",
        words.join(" "),
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(said)
}

/// The SHA-256 of a file, as hexadecimal digits.
pub fn checksum(path: impl AsRef<Path>) -> Result<String> {
    let line = run(["sha256sum", &path.as_ref().to_string_lossy()])?;
    let digits = line.split_whitespace().next();
    Ok(digits.unwrap_or_default().to_owned())
}

/// Runs a Python program in `directory`; fails, with all that it said, if it does. Gives its standard output and its
/// standard error.
pub fn python(script: &str, directory: &Path) -> Result<[String; 2]> {
    let output = Command::new("python3")
        .args(["-c", script])
        .current_dir(directory)
        .output()?;
    let [said, log] =
        [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes).into_owned());
    ensure!(output.status.success(), "{}:\n{said}{log}", output.status);
    Ok([said, log])
}
