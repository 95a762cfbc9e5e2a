//! Starting virtiofsd so that it dies with us and, as root, is root of its own user namespace only.

use std::{
    fs,
    io::{self, Read, Write},
    os::{
        fd::AsFd,
        unix::net::{UnixListener, UnixStream},
        unix::process::CommandExt,
    },
    process::{Child, Command},
    thread,
};

use rustix::{
    io::{FdFlags, fcntl_setfd},
    process::{Gid, Pid, Resource, Rlimit, Signal, Uid, getpid, getppid, setrlimit},
    thread::UnshareFlags,
};

use super::{Error, Ids};

/// The verdict on a new user namespace, one byte to the child.
const MAPPED: u8 = 1;

/// The user namespace of a virtiofsd.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Namespace {
    /// Ours.
    Inherited,
    /// A new one in which every id is what it is here.
    Identity,
    /// A new one whose ids from 0 on are the host's from `base` on, and whose root it is.
    Shifted {
        /// The host's id of its root.
        base: u32,
    },
}

/// Starts `command`, which inherits `listener`, under its own number.
///
/// It gets SIGKILL when the calling *thread* ends (prctl(2), PR_SET_PDEATHSIG), no new privileges, an
/// empty signal mask, and `namespace`.
pub(super) fn confined(
    mut command: Command,
    listener: UnixListener,
    namespace: Namespace,
) -> Result<Child, Error> {
    let maps = match namespace {
        Namespace::Inherited => {
            prepare(&mut command, listener, None);
            return command
                .spawn()
                .map_err(|source| exec_error(&command, source));
        }
        Namespace::Identity => IdMaps::identity().map_err(Error::IdMap)?,
        Namespace::Shifted { base } => IdMaps::shifted(base),
    };
    let (ours, childs) = UnixStream::pair().map_err(Error::Start)?;
    let nofile = files_wanted();
    let own = OwnNamespace {
        writer: childs,
        nofile,
        becomes_root: namespace != Namespace::Identity,
    };
    prepare(&mut command, listener, Some(own));
    // Only the parent namespace can write the maps, and spawn() returns only when the program runs:
    // so they are written by another thread meanwhile.
    thread::scope(|scope| {
        let writer = thread::Builder::new()
            .spawn_scoped(scope, move || maps.write_when_asked(ours))
            .map_err(Error::Start)?;
        let spawned = command.spawn();
        let program = command.get_program().to_owned();
        // The child's end of the socket pair goes with the command: without a child to ask it, the
        // writer ends.
        drop(command);
        match (spawned, writer.join()) {
            (Ok(child), _) => Ok(child),
            (Err(_), Ok(Err(source))) => Err(Error::IdMap(source)),
            (Err(source), Ok(Ok(false))) => Err(Error::UserNamespace(source)),
            (Err(source), _) => Err(Error::Exec {
                program: program.into(),
                source,
            }),
        }
    })
}

fn exec_error(command: &Command, source: io::Error) -> Error {
    Error::Exec {
        program: command.get_program().into(),
        source,
    }
}

/// The limit of open files that virtiofsd asks for itself, which root of a namespace of its own may not:
/// 1000000, or what the kernel allows.
fn files_wanted() -> u64 {
    const WANTED: u64 = 1_000_000;
    fs::read_to_string("/proc/sys/fs/nr_open")
        .ok()
        .and_then(|most| most.trim().parse::<u64>().ok())
        .map_or(WANTED, |most| most.min(WANTED))
}

/// What the child needs to get a user namespace of its own.
struct OwnNamespace {
    /// To whoever writes its maps.
    writer: UnixStream,
    /// Its limit of open files.
    nofile: u64,
    /// Whether it is not root in it anyway.
    becomes_root: bool,
}

#[allow(unsafe_code)]
fn prepare(command: &mut Command, listener: UnixListener, namespace: Option<OwnNamespace>) {
    let parent = getpid();
    let in_child = move || before_exec(parent, &listener, namespace.as_ref());
    // SAFETY: `before_exec` makes system calls only; it neither allocates nor takes a lock, so it can
    // run between fork and exec of a process with threads.
    unsafe { command.pre_exec(in_child) };
}

/// Runs in the child.
fn before_exec(
    parent: Pid,
    listener: &UnixListener,
    namespace: Option<&OwnNamespace>,
) -> io::Result<()> {
    die_with(parent)?;
    unblock_signals()?;
    rustix::thread::set_no_new_privs(true)?;
    // Of all descriptors only this one, and only here, is inherited: not what we were started with either.
    close_others_on_exec()?;
    fcntl_setfd(listener, FdFlags::empty())?;
    if let Some(own) = namespace {
        let limit = Rlimit {
            current: Some(own.nofile),
            maximum: Some(own.nofile),
        };
        // Without CAP_SYS_RESOURCE it stays as it is, and virtiofsd says so.
        let _ = setrlimit(Resource::Nofile, limit);
        own_user_namespace(&own.writer)?;
        if own.becomes_root {
            become_root()?;
            // A change of ids takes the signal away (prctl(2), PR_SET_PDEATHSIG).
            die_with(parent)?;
        }
    }
    Ok(())
}

fn die_with(parent: Pid) -> io::Result<()> {
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
    if getppid() != Some(parent) {
        // It died before the signal was asked for.
        return Err(io::ErrorKind::BrokenPipe.into());
    }
    Ok(())
}

/// Our ids are nobody's in the new namespace, and such a process would lose its capabilities at exec.
fn become_root() -> io::Result<()> {
    rustix::thread::set_thread_groups(&[])?;
    let (uid, gid) = (Uid::ROOT, Gid::ROOT);
    rustix::thread::set_thread_res_gid(gid, gid, gid)?;
    Ok(rustix::thread::set_thread_res_uid(uid, uid, uid)?)
}

#[allow(unsafe_code)]
fn own_user_namespace(socket: &UnixStream) -> io::Result<()> {
    // SAFETY: a new user namespace leaves the descriptor table shared as it is, which is what the
    // function's contract is about.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWUSER) }?;
    let pid = getpid().as_raw_nonzero().get().to_ne_bytes();
    // Four bytes always fit into an empty socket.
    rustix::io::write(socket.as_fd(), &pid)?;
    let mut verdict = [0];
    rustix::io::read(socket.as_fd(), &mut verdict)?;
    if verdict == [MAPPED] {
        Ok(())
    } else {
        Err(io::ErrorKind::PermissionDenied.into())
    }
}

/// Marks every descriptor behind standard error.
#[allow(unsafe_code)]
fn close_others_on_exec() -> io::Result<()> {
    // SAFETY: the flag takes effect at exec only, so no descriptor that is in use here is lost.
    let result = unsafe {
        libc::syscall(
            libc::SYS_close_range,
            libc::STDERR_FILENO + 1,
            u32::MAX,
            libc::CLOSE_RANGE_CLOEXEC,
        )
    };
    match result {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// A supervisor that waits for its signals by a signalfd blocks them, and a mask is inherited.
#[allow(unsafe_code)]
fn unblock_signals() -> io::Result<()> {
    // SAFETY: an all-zero sigset_t is a valid value, and sigemptyset makes it the empty set; both
    // pointers are to a local variable or null, as sigprocmask allows.
    let result = unsafe {
        let mut none = std::mem::zeroed::<libc::sigset_t>();
        libc::sigemptyset(&mut none);
        libc::sigprocmask(libc::SIG_SETMASK, &none, std::ptr::null_mut())
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// The ids of a user namespace, in the form of user_namespaces(7).
struct IdMaps {
    uid: String,
    gid: String,
}

impl IdMaps {
    /// Every id that there is in our own namespace, as itself.
    fn identity() -> io::Result<Self> {
        let read = |path| fs::read_to_string(path).map(|map| identity(&map));
        Ok(Self {
            uid: read("/proc/self/uid_map")?,
            gid: read("/proc/self/gid_map")?,
        })
    }

    /// The namespace's first ids are ours from `base` on.
    fn shifted(base: u32) -> Self {
        let map = format!("0 {base} {}\n", Ids::SHIFTED);
        Self {
            uid: map.clone(),
            gid: map,
        }
    }

    /// Waits for the child in its new namespace, writes its maps and tells it; says whether it asked.
    fn write_when_asked(&self, mut socket: UnixStream) -> io::Result<bool> {
        let mut pid = [0; 4];
        if socket.read_exact(&mut pid).is_err() {
            return Ok(false);
        }
        let pid = i32::from_ne_bytes(pid);
        let written = fs::write(format!("/proc/{pid}/uid_map"), &self.uid)
            .and_then(|()| fs::write(format!("/proc/{pid}/gid_map"), &self.gid));
        // A child that has died meanwhile needs no answer.
        let _ = socket.write_all(&[if written.is_ok() { MAPPED } else { 0 }]);
        written.map(|()| true)
    }
}

/// Lines of "inside outside count" become "inside inside count".
fn identity(map: &str) -> String {
    map.lines()
        .filter_map(|line| {
            let mut fields = line.split_whitespace();
            let (inside, _outside, count) = (fields.next()?, fields.next()?, fields.next()?);
            Some(format!("{inside} {inside} {count}\n"))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ids_of_this_namespace_map_to_themselves() {
        assert_eq!(
            identity("         0          0 4294967295\n"),
            "0 0 4294967295\n"
        );
        assert_eq!(
            identity("0 100000 65536\n65536 1000 1\n"),
            "0 0 65536\n65536 65536 1\n"
        );
        assert_eq!(identity(""), "");
    }
}
