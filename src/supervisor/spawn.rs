//! Starts the VMM process: this same program, in a PID namespace of its own, with the channel as its only
//! descriptor beside the standard ones.
#![allow(unsafe_code)]

use std::{
    ffi::{CStr, CString, c_char},
    fs::File,
    io,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
    ptr,
};

use crate::{failure::Failure, log, protocol::Channel, vmm_process};

/// The VMM process.
#[derive(Debug)]
pub struct Child {
    /// Its process id.
    pub pid: u32,
    /// Refers to the process; readable once it has ended.
    pub pidfd: OwnedFd,
}

/// Half of Rust's default for a thread's stack. A stack that can hold a huge page gets one where the kernel hands
/// them out freely and the stack happens to lie right: 2 MiB for a few KiB that a thread needs.
const STACKS: &CStr = c"RUST_MIN_STACK=1048576";

/// Starts the VMM process with `channel` as its end of the connection.
///
/// The process is killed by the kernel when the calling thread ends, so this is called on the
/// supervisor's main thread. An ordinary user may make a PID namespace only inside a user namespace, so
/// theirs has both; no id is mapped in it, because the VMM uses descriptors alone.
pub fn spawn(channel: Channel, log_level: &str) -> io::Result<Child> {
    // Everything that allocates happens before the child exists: it may only make system calls.
    let program = File::open("/proc/self/exe")?;
    let null = File::options().read(true).write(true).open("/dev/null")?;
    let name = CString::new(vmm_process::NAME)?;
    let log = CString::new(format!("{}={log_level}", log::LEVEL))?;
    let argv = [name.as_ptr(), ptr::null()];
    let envp = [log.as_ptr(), STACKS.as_ptr(), ptr::null()];

    let mut flags = libc::CLONE_PIDFD | libc::CLONE_NEWPID;
    if !rustix::process::geteuid().is_root() {
        flags |= libc::CLONE_NEWUSER;
    }
    let mut pidfd: i32 = -1;
    // SAFETY: without CLONE_VM this is a fork: the child has a copy of everything, and does nothing there
    // but the system calls of `run_child`, none of which allocates or takes a lock. `pidfd` outlives the call.
    // It is clone(2) and not clone3(2), into whose arguments no system call filter can look: where a unit has
    // `RestrictNamespaces=`, that one fails.
    let pid = unsafe {
        libc::syscall(
            libc::SYS_clone,
            (flags | libc::SIGCHLD) as libc::c_ulong,
            ptr::null_mut::<libc::c_void>(),
            &raw mut pidfd,
            ptr::null_mut::<i32>(),
            0_usize,
        )
    };
    match pid {
        0 => run_child(&program, &null, &channel, &argv, &envp),
        pid if pid > 0 => Ok(Child {
            pid: pid as u32,
            // SAFETY: the kernel has just put a new descriptor of ours there.
            pidfd: unsafe { OwnedFd::from_raw_fd(pidfd) },
        }),
        _ => Err(io::Error::last_os_error()),
    }
}

/// What a person should know of an error of [`spawn`].
pub fn failure(error: &io::Error) -> Failure {
    let hint = match error.kind() {
        io::ErrorKind::PermissionDenied | io::ErrorKind::StorageFull => {
            ": let users make user namespaces (sysctl kernel.unprivileged_userns_clone=1, user.max_user_namespaces above 0), or run as root"
        }
        _ => "",
    };
    Failure::host(format!(
        "cannot start the VMM process in a PID namespace: {error}{hint}"
    ))
}

/// In the child: becomes the VMM.
fn run_child(
    program: &File,
    null: &File,
    channel: &Channel,
    argv: &[*const c_char; 2],
    envp: &[*const c_char; 3],
) -> ! {
    const EMPTY: &CStr = c"";
    let target = vmm_process::CHANNEL_FD;
    // SAFETY: system calls on descriptors and arrays that the parent made ready. A parent that dies before
    // the first call is seen by the end of the channel. The new session keeps the terminal's Ctrl-C from
    // this process: the supervisor alone decides what it means. dup3 leaves its target open on exec, and
    // refuses equal numbers, where the flag is taken away instead. What else this process was started
    // with stays behind: standard error, for the log, and the channel are all that go along.
    unsafe {
        libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
        libc::setsid();
        if channel.as_raw_fd() == target {
            libc::fcntl(target, libc::F_SETFD, 0);
        } else {
            libc::dup3(channel.as_raw_fd(), target, 0);
        }
        libc::dup2(null.as_raw_fd(), libc::STDIN_FILENO);
        libc::dup2(null.as_raw_fd(), libc::STDOUT_FILENO);
        libc::syscall(
            libc::SYS_close_range,
            target + 1,
            u32::MAX,
            libc::CLOSE_RANGE_CLOEXEC,
        );
        libc::syscall(
            libc::SYS_execveat,
            program.as_raw_fd(),
            EMPTY.as_ptr(),
            argv.as_ptr(),
            envp.as_ptr(),
            libc::AT_EMPTY_PATH,
        );
        libc::_exit(127)
    }
}
