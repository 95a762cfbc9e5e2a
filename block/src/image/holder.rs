//! Who works on an image that is locked, as /proc says.

use std::{
    fmt,
    fs::{self, Metadata},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

/// Bytes of a command line that are said.
const SAID: usize = 100;

/// A process that works on an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    /// Its id.
    pub pid: u32,
    /// Its command line, if that can be read, shortened.
    pub command: String,
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "process {}", self.pid)?;
        match self.command.as_str() {
            "" => Ok(()),
            command => write!(f, " (`{command}`)"),
        }
    }
}

impl Holder {
    /// Who has a lock on `file`, or has it open. Nobody if that cannot be seen from here: an ordinary user sees of others'
    /// processes only who took a lock by flock(2).
    pub(super) fn of(file: &Metadata) -> Option<Self> {
        let locks = fs::read_to_string("/proc/locks").unwrap_or_default();
        let pid = locked_by(&locks, file).or_else(|| opened_by(file))?;
        Some(Self {
            pid,
            command: command(pid),
        })
    }
}

impl Holder {
    /// Whether it has not ended, as far as can be seen: a zombie has.
    pub(super) fn is_running(&self) -> bool {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid));
        stat.is_ok_and(|stat| {
            let state = stat.rsplit(')').next().unwrap_or_default().trim_start();
            !state.starts_with(['Z', 'X'])
        })
    }
}

/// From lines of `/proc/locks` as `1: FLOCK  ADVISORY  WRITE 708 08:02:393 0 EOF` (proc_locks(5)): the device's numbers are
/// hexadecimal. Locks of open file descriptions have no process, and say -1.
fn locked_by(locks: &str, file: &Metadata) -> Option<u32> {
    let device = file.dev();
    let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
    let wanted = format!("{major:02x}:{minor:02x}:{}", file.ino());
    locks.lines().find_map(|line| {
        // One that waits for a lock has `->` behind its number.
        let mut words = line.split_ascii_whitespace().skip(1);
        if words.next() == Some("->") {
            return None;
        }
        let pid = words.nth(2)?.parse().ok().filter(|pid| *pid > 0)?;
        (words.next()? == wanted).then_some(pid)
    })
}

/// A process other than this one that has it open.
fn opened_by(file: &Metadata) -> Option<u32> {
    let processes = fs::read_dir("/proc").ok()?.filter_map(Result::ok);
    let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let mut others = pids.filter(|pid| *pid != std::process::id());
    others.find(|pid| {
        let descriptors: PathBuf = format!("/proc/{pid}/fd").into();
        let Ok(descriptors) = fs::read_dir(descriptors) else {
            return false;
        };
        let mut descriptors = descriptors.filter_map(Result::ok);
        descriptors.any(|fd| fs::metadata(fd.path()).is_ok_and(|open| same(&open, file)))
    })
}

/// Whether both are one file.
pub(super) fn same(one: &Metadata, other: &Metadata) -> bool {
    (one.dev(), one.ino()) == (other.dev(), other.ino())
}

fn command(pid: u32) -> String {
    let path = format!("/proc/{pid}/cmdline");
    let bytes = fs::read(Path::new(&path)).unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes).replace('\0', " ");
    let mut text: String = text.trim().chars().take(SAID + 1).collect();
    if text.chars().count() > SAID {
        text.pop();
        text.push('…');
    }
    text
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_process_that_has_a_lock_is_found_by_device_and_inode() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a");
        fs::write(&path, "x").unwrap();
        let file = fs::metadata(&path).unwrap();
        let (major, minor) = (rustix::fs::major(file.dev()), rustix::fs::minor(file.dev()));
        let at = format!("{major:02x}:{minor:02x}:{}", file.ino());
        let locks = format!(
            "1: POSIX  ADVISORY  WRITE 5 08:02:1 0 EOF\n\
             2: OFDLCK ADVISORY  WRITE -1 {at} 0 EOF\n\
             3: -> FLOCK  ADVISORY  WRITE 6 {at} 0 EOF\n\
             4: FLOCK  ADVISORY  WRITE 708 {at} 0 EOF\n"
        );
        assert_eq!(locked_by(&locks, &file), Some(708));
        assert_eq!(locked_by("", &file), None);
        assert_eq!(locked_by("4: FLOCK", &file), None);
    }

    #[test]
    fn a_process_that_has_it_open_is_found_where_no_lock_says_it() {
        let _alone = super::super::tests::alone();
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a");
        let open = fs::File::create(&path).unwrap();
        let mut child = std::process::Command::new("sleep")
            .arg("60")
            .stdin(open)
            .spawn()
            .unwrap();
        let holder = Holder::of(&fs::metadata(&path).unwrap());
        child.kill().unwrap();
        child.wait().unwrap();
        let holder = holder.unwrap();
        assert_eq!(holder.pid, child.id());
        assert_eq!(
            holder.to_string(),
            format!("process {} (`sleep 60`)", child.id())
        );
    }
}
