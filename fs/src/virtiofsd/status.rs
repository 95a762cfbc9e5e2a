//! How a virtiofsd is doing: that it was stopped, and how it ended.

use std::{fs, os::unix::process::ExitStatusExt, process::ExitStatus};

use rustix::process::{WaitId, WaitIdOptions, waitid};

use super::Virtiofsd;

/// What happened to a virtiofsd that has not ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StateChange {
    /// A signal stopped it: it serves nobody until it is continued.
    Stopped {
        /// The signal's number.
        signal: i32,
    },
    /// It was continued.
    Continued,
}

impl Virtiofsd {
    /// The next change, if there is one; to be asked after each SIGCHLD. Never waits.
    ///
    /// It is about the process that we started. The one in its sandbox, which does the work, is no child
    /// of ours: see [`stopped_processes`](Self::stopped_processes).
    pub fn state_change(&self) -> Option<StateChange> {
        let options = WaitIdOptions::STOPPED | WaitIdOptions::CONTINUED | WaitIdOptions::NOHANG;
        let status = waitid(WaitId::PidFd(self.pidfd()), options).ok()??;
        match status.stopping_signal() {
            Some(signal) => Some(StateChange::Stopped { signal }),
            None => status.continued().then_some(StateChange::Continued),
        }
    }

    /// The process ids of those of its processes that are stopped at the moment.
    pub fn stopped_processes(&self) -> Vec<u32> {
        let children = format!("/proc/{0}/task/{0}/children", self.pid());
        let children = fs::read_to_string(children).unwrap_or_default();
        let children = children
            .split_whitespace()
            .filter_map(|pid| pid.parse().ok());
        std::iter::once(self.pid())
            .chain(children)
            .filter(|pid| is_stopped(*pid))
            .collect()
    }
}

fn is_stopped(pid: u32) -> bool {
    // The state is the first field behind the name, which may have anything in it (proc_pid_stat(5)).
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ")
        .is_some_and(|(_, fields)| fields.starts_with('T'))
}

/// A virtiofsd's end in words.
pub fn describe(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (_, Some(signal)) => format!("ended by signal {}", signal_name(signal)),
        // It waits for the process in its sandbox and passes on the signal that ended that, negated.
        (Some(code @ 192..=255), _) => {
            format!(
                "its sandboxed process was ended by signal {}",
                signal_name(256 - code)
            )
        }
        (Some(code), _) => format!("ended with exit code {code}"),
        _ => status.to_string(),
    }
}

/// A signal's number and name.
pub fn signal_name(signal: i32) -> String {
    let name = match signal {
        libc::SIGABRT => "SIGABRT",
        libc::SIGBUS => "SIGBUS",
        libc::SIGHUP => "SIGHUP",
        libc::SIGILL => "SIGILL",
        libc::SIGINT => "SIGINT",
        libc::SIGKILL => "SIGKILL",
        libc::SIGSEGV => "SIGSEGV",
        libc::SIGSTOP => "SIGSTOP",
        libc::SIGSYS => "SIGSYS",
        libc::SIGTERM => "SIGTERM",
        libc::SIGTSTP => "SIGTSTP",
        _ => return signal.to_string(),
    };
    format!("{signal} ({name})")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_is_said_with_its_signal_wherever_that_struck() {
        // As wait(2) codes them: an exit code is in the second byte.
        for (raw, words) in [
            (9, "ended by signal 9 (SIGKILL)"),
            (
                247 << 8,
                "its sandboxed process was ended by signal 9 (SIGKILL)",
            ),
            (
                225 << 8,
                "its sandboxed process was ended by signal 31 (SIGSYS)",
            ),
            (1 << 8, "ended with exit code 1"),
        ] {
            assert_eq!(describe(ExitStatus::from_raw(raw)), words);
        }
    }
}
