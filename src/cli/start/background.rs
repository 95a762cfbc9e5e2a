//! `minivmm run` in the background, and what comes of it.

use std::{
    io,
    os::unix::process::{CommandExt, ExitStatusExt},
    path::Path,
    process::{Child, Command, ExitCode, ExitStatus, Stdio},
    time::Duration,
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    process::{Pid, PidfdFlags, pidfd_open, setsid},
};

use super::{
    super::{places, unit::Wait},
    log_file::{LogFile, Opened},
};
use crate::{
    board::{State, Status},
    client::{Client, Target},
    config_file::ConfigFile,
    failure::{Failure, code},
    runtime_dir,
};

/// Between two looks at a VM that starts.
const BETWEEN: Duration = Duration::from_millis(50);
/// What a service manager tells its own child, which the VM is not.
const OTHERS: [&str; 12] = [
    "NOTIFY_SOCKET",
    "WATCHDOG_USEC",
    "WATCHDOG_PID",
    "LISTEN_FDS",
    "LISTEN_PID",
    "LISTEN_FDNAMES",
    "INVOCATION_ID",
    "JOURNAL_STREAM",
    "RUNTIME_DIRECTORY",
    "STATE_DIRECTORY",
    "LOGS_DIRECTORY",
    "CREDENTIALS_DIRECTORY",
];

/// Starts the VM of `file` and waits until it runs, or has failed: then with its message and its exit code.
pub fn start(file: &ConfigFile, wait: Wait, log_level: &str) -> Result<ExitCode, Failure> {
    let name = &file.config.name;
    let log = match LogFile::open(&places::logs(name)?, name)? {
        Opened::Log(log) => Some(log),
        Opened::NoRoom(why) => {
            tracing::warn!("{why}: the VM runs without one");
            None
        }
    };
    let path = std::path::absolute(&file.path)
        .map_err(|error| Failure::config(format!("{}: {error}", file.path.display())))?;
    let mut child = spawn(&path, log.as_ref(), log_level)
        .map_err(|error| Failure::host(format!("cannot start minivmm: {error}")))?;
    let pid = child.id();
    let place = log
        .as_ref()
        .map(|log| format!("; log: {}", log.path.display()));
    let place = place.unwrap_or_default();
    if wait == Wait::No {
        super::super::say(format_args!(
            "{name}: is being started, process {pid}{place}"
        ));
        return Ok(ExitCode::SUCCESS);
    }
    match until_ready(&mut child, file) {
        Ok(None) => {
            super::super::say(format_args!("{name}: runs, process {pid}{place}"));
            Ok(ExitCode::SUCCESS)
        }
        Ok(Some(status)) => Err(failed(name, status, log.as_ref())),
        Err(error) => Err(Failure::vmm(format!(
            "cannot wait for process {pid}: {error}"
        ))),
    }
}

fn spawn(config: &Path, log: Option<&LogFile>, log_level: &str) -> io::Result<Child> {
    let output = || match log {
        Some(log) => Ok::<_, io::Error>(Stdio::from(log.file.try_clone()?)),
        None => Ok(Stdio::null()),
    };
    let mut command = Command::new(std::env::current_exe()?);
    command
        .arg0("minivmm")
        .args(["--log", log_level, "run", "--config"]);
    command.arg(config);
    command
        .stdin(Stdio::null())
        .stdout(output()?)
        .stderr(output()?);
    for variable in OTHERS {
        command.env_remove(variable);
    }
    // SAFETY: setsid(2) is async-signal-safe, and nothing else is done between fork and exec.
    unsafe {
        command.pre_exec(|| Ok(setsid().map(drop)?));
    }
    command.spawn()
}

/// Waits until the VM is ready, or has ended: then with its status.
fn until_ready(child: &mut Child, file: &ConfigFile) -> io::Result<Option<ExitStatus>> {
    let pidfd = pidfd_open(Pid::from_child(child), PidfdFlags::empty())?;
    let socket = match &file.config.control.socket {
        Some(socket) => Some(socket.clone()),
        None => runtime_dir::own(&file.config.name).map(|own| runtime_dir::control_socket(&own)),
    };
    let between = Timespec::try_from(BETWEEN).unwrap_or_default();
    loop {
        // Interrupted it is just shorter.
        let _ = poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Some(&between));
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        let status = socket.as_ref().and_then(|socket| {
            let mut client = Client::connect(&Target::Socket(socket.clone())).ok()?;
            client.status(BETWEEN * 4).ok()
        });
        let is_up = |status: Status| {
            status.pid == child.id() && status.ready && status.state == State::Running
        };
        if status.is_some_and(is_up) {
            return Ok(None);
        }
    }
}

/// What a VM that was to start has ended with.
fn failed(name: &str, status: ExitStatus, log: Option<&LogFile>) -> Failure {
    let code = match (status.code(), status.signal()) {
        (Some(code), _) => u8::try_from(code).unwrap_or(code::VMM),
        (None, signal) => 128 + u8::try_from(signal.unwrap_or(0)).unwrap_or(0),
    };
    if let Some(why) = log.and_then(LogFile::failure) {
        return Failure::with_code(code, why);
    }
    let Some(log) = log else {
        return Failure::with_code(
            code,
            format!("`{name}` ended before it was ready: {status}"),
        );
    };
    for line in log.last_lines() {
        say_error(&line);
    }
    let path = log.path.display();
    Failure::with_code(
        code,
        format!("`{name}` ended before it was ready: {status}; these are the last lines of {path}"),
    )
}

/// Where nobody listens nothing is missed.
fn say_error(line: &str) {
    use std::io::Write;
    let _ = writeln!(io::stderr(), "{line}");
}
