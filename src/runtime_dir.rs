//! Where a VM that runs is found: its runtime directory, and the lock that keeps it from running twice.
//!
//! `DIR/lock` is locked (flock(2)) while the VM's supervisor lives and says its process id; `DIR/control` is its control
//! socket, or a symbolic link to it. Nothing else is kept: what is there without a lock is left by a supervisor that was
//! killed, and the next one cleans it up.

mod lock;

use std::{
    fs::{self, DirBuilder, File, Permissions},
    io::{self, ErrorKind},
    os::unix::{
        fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt, symlink},
        net::{UnixListener, UnixStream},
    },
    path::{Path, PathBuf},
    time::Duration,
};

use minivmm_vmm::config::Limits;
use rustix::process::geteuid;

pub use lock::Holder;

use crate::failure::Failure;

/// The environment variable that replaces `/run/minivmm`, under which root's VMs are.
const ROOT_VARIABLE: &str = "MINIVMM_RUNTIME_ROOT";
/// The name of the control socket in a VM's directory.
const CONTROL: &str = "control";
/// How long a socket that may be somebody's is given to accept a connection.
const PATIENCE: Duration = Duration::from_secs(1);
/// The name of the lock.
const LOCK: &str = "lock";

/// The directories under which VMs may be, this user's own first.
pub fn roots() -> Vec<PathBuf> {
    let system = system_root();
    let mut roots: Vec<PathBuf> = own_root().into_iter().collect();
    if !roots.contains(&system) {
        roots.push(system);
    }
    roots
}

/// The directories of all VMs that may run here, also of those whose supervisor was killed, in the order of [`roots`] and
/// their names.
pub fn all() -> Vec<PathBuf> {
    let in_root = |root: PathBuf| {
        let entries = fs::read_dir(root).into_iter().flatten().flatten();
        let directories = entries.filter(|e| e.file_type().is_ok_and(|kind| kind.is_dir()));
        let mut paths: Vec<PathBuf> = directories.map(|entry| entry.path()).collect();
        paths.sort_unstable();
        paths
    };
    roots().into_iter().flat_map(in_root).collect()
}

/// Who has the lock of the VM whose directory is `directory`.
pub fn holder(directory: &Path) -> Holder {
    lock::holder(&directory.join(LOCK))
}

/// The name of the VM whose supervisor is the process `pid`.
pub fn vm_of(pid: u32) -> Option<String> {
    let directory = all().into_iter();
    let mut of_it = directory.filter(|directory| holder(directory) == Holder::Process(pid));
    let name = of_it.next()?.file_name()?.to_string_lossy().into_owned();
    Some(name)
}

/// Connects to the socket at `path`; an error of the kind `WouldBlock` if that takes longer than `patience`, because as
/// many wait there as may.
pub fn connect(path: &Path, patience: Duration) -> io::Result<UnixStream> {
    use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, sockopt};
    let (family, kind) = (AddressFamily::UNIX, SocketType::STREAM);
    let socket = rustix::net::socket_with(family, kind, SocketFlags::CLOEXEC, None)?;
    // Linux lets connect(2) of a unix socket wait as long as a write.
    sockopt::set_socket_timeout(&socket, sockopt::Timeout::Send, Some(patience))?;
    connect(&socket, &SocketAddrUnix::new(path)?)?;
    Ok(socket.into())
}

/// The control socket of a VM whose directory is `directory`.
pub fn control_socket(directory: &Path) -> PathBuf {
    directory.join(CONTROL)
}

fn system_root() -> PathBuf {
    std::env::var_os(ROOT_VARIABLE).map_or_else(|| "/run/minivmm".into(), PathBuf::from)
}

/// Where this user's VMs are put, if there is such a place.
fn own_root() -> Option<PathBuf> {
    if geteuid().is_root() || std::env::var_os(ROOT_VARIABLE).is_some() {
        return Some(system_root());
    }
    let base = PathBuf::from(std::env::var_os("XDG_RUNTIME_DIR")?);
    base.is_absolute().then(|| base.join("minivmm"))
}

/// The runtime directory that a VM of this user has, if there is a place for one.
pub fn own(name: &str) -> Option<PathBuf> {
    Some(own_root()?.join(name))
}

/// A VM's runtime directory, locked. Dropped, it is cleaned up.
#[derive(Debug)]
pub struct RuntimeDir {
    /// None for a VM whose socket is elsewhere, where there is no place for runtime directories.
    path: Option<PathBuf>,
    /// It goes with the VM; systemd's is systemd's to remove.
    removable: bool,
    lock: PathBuf,
    _locked: File,
    socket: PathBuf,
    /// The socket's inode, once it is ours.
    bound: Option<(u64, u64)>,
}

impl RuntimeDir {
    /// Makes and locks the directory of the VM called `name`; `socket` replaces the place of its control socket.
    pub fn take(name: &str, socket: Option<&Path>) -> Result<Self, Failure> {
        let given = given_directory();
        let removable = given.is_none();
        let path = match (given.or_else(|| own(name)), socket) {
            (Some(path), _) => {
                make(&path)?;
                Some(path)
            }
            (None, Some(_)) => None,
            (None, None) => {
                return Err(Failure::host(
                    "there is no place for the VM's control socket: set XDG_RUNTIME_DIR to a directory of yours \
                     (as /run/user/1000, which a login makes), or say `socket` in [control]",
                ));
            }
        };
        let socket = match (&path, socket) {
            (_, Some(socket)) => std::path::absolute(socket)
                .map_err(|error| failed("control.socket", socket, &error))?,
            (Some(path), None) => control_socket(path),
            (None, None) => PathBuf::new(),
        };
        let lock = match &path {
            Some(path) => path.join(LOCK),
            None => beside(&socket, ".lock"),
        };
        let locked = match lock::take(&lock) {
            Ok(Ok(locked)) => locked,
            Ok(Err(pid)) => return Err(runs_already(name, pid)),
            Err(error) => return Err(failed("the VM's lock", &lock, &error)),
        };
        Ok(Self {
            path,
            removable,
            lock,
            _locked: locked,
            socket,
            bound: None,
        })
    }

    /// The directory, for further sockets of the VM; `None` where there is no place for one.
    pub fn path(&self) -> Option<&Path> {
        self.path.as_deref()
    }

    /// The control socket, listening. One that a supervisor left which was killed is replaced.
    pub fn listen(&mut self) -> Result<UnixListener, Failure> {
        if let Some(path) = &self.path {
            let link = control_socket(path);
            if fs::symlink_metadata(&link).is_ok_and(|found| found.is_symlink()) {
                // Of a VM that was killed: we have its lock, so nobody needs it.
                fs::remove_file(&link)
                    .map_err(|error| failed("runtime directory", &link, &error))?;
            }
        }
        let (listener, id) = listen(&self.socket, 0o600).map_err(|error| error.of("control"))?;
        self.bound = Some(id);
        if let Some(path) = &self.path {
            let link = control_socket(path);
            if link != self.socket {
                // A socket of a VM that was killed, as above.
                let _ = fs::remove_file(&link);
                symlink(&self.socket, &link)
                    .map_err(|error| failed("runtime directory", &link, &error))?;
            }
        }
        Ok(listener)
    }
}

impl Drop for RuntimeDir {
    fn drop(&mut self) {
        if let Some(id) = self.bound {
            remove_socket(&self.socket, id);
        }
        if let Some(path) = &self.path {
            let link = control_socket(path);
            if link != self.socket {
                let _ = fs::remove_file(link);
            }
        }
        // Still locked: who opens it now fails to lock it, or finds that it is no longer there.
        let _ = fs::remove_file(&self.lock);
        if let (Some(path), true) = (&self.path, self.removable) {
            // Somebody's files in it keep it.
            let _ = fs::remove_dir(path);
        }
    }
}

/// The runtime directory that systemd has made for this process, for the user of the unit (RuntimeDirectory=,
/// systemd.exec(5)).
fn given_directory() -> Option<PathBuf> {
    let given = std::env::var_os("RUNTIME_DIRECTORY").map(PathBuf::from);
    given.filter(|path| {
        path.is_absolute() && path.parent().is_some_and(|parent| parent == system_root())
    })
}

/// Makes `path` and the directory that it is in, or makes sure that they are ours.
fn make(path: &Path) -> Result<(), Failure> {
    let failed = |path: &Path, error: io::Error| failed("runtime directory", path, &error);
    if let Some(root) = path.parent() {
        match DirBuilder::new().mode(0o755).create(root) {
            Err(error) if error.kind() != ErrorKind::AlreadyExists => {
                return Err(failed(root, error));
            }
            _ => is_ours(root)?,
        }
    }
    match DirBuilder::new().mode(0o700).create(path) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => is_ours(path),
        Err(error) => Err(failed(path, error)),
    }
}

/// A directory that others can write to could be anybody's trap.
fn is_ours(path: &Path) -> Result<(), Failure> {
    let found =
        fs::symlink_metadata(path).map_err(|error| failed("runtime directory", path, &error))?;
    let us = geteuid().as_raw();
    let why = if !found.is_dir() {
        "it is no directory".to_owned()
    } else if found.uid() != us && found.uid() != 0 {
        format!("it belongs to user {}, and this is user {us}", found.uid())
    } else if found.mode() & 0o022 != 0 {
        format!("others can write to it (mode {:o})", found.mode() & 0o7777)
    } else {
        return Ok(());
    };
    let place = match us {
        0 => "remove it",
        _ => "remove it, or set XDG_RUNTIME_DIR to a directory of yours",
    };
    Err(Failure::host(format!(
        "runtime directory {}: {why}: {place}",
        path.display()
    )))
}

/// That the VM called `name` runs, which the process `pid` does (0 if that is not known).
pub fn runs_already(name: &str, pid: u32) -> Failure {
    let command = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let command = String::from_utf8_lossy(&command).replace('\0', " ");
    let owner = fs::metadata(format!("/proc/{pid}")).map(|found| found.uid());
    let who = match (pid, owner) {
        (1.., Ok(uid)) => format!("process {pid} of user {uid} (`{}`)", command.trim()),
        _ => "another process".to_owned(),
    };
    Failure::host(format!(
        "`{name}` runs already: {who} has it; `minivmm stop {name}` ends it"
    ))
}

/// Why a socket cannot be listened on.
pub struct ListenError {
    path: PathBuf,
    why: String,
}

impl ListenError {
    /// As a failure of the socket called `what`.
    pub fn of(self, what: &str) -> Failure {
        Failure::host(format!(
            "{what} socket {}: {}",
            self.path.display(),
            self.why
        ))
    }
}

/// A socket that listens at `path`, and its inode. One that nobody listens on is replaced; anything else is not.
pub fn listen(path: &Path, mode: u32) -> Result<(UnixListener, (u64, u64)), ListenError> {
    let failed = |why: String| ListenError {
        path: path.to_owned(),
        why,
    };
    let len = path.as_os_str().len();
    if len > Limits::SOCKET_PATH {
        let most = Limits::SOCKET_PATH;
        return Err(failed(format!(
            "its path has {len} bytes, and {most} are possible"
        )));
    }
    match fs::symlink_metadata(path) {
        Ok(found) if !found.file_type().is_socket() => {
            return Err(failed(
                "there is a file that is no socket: remove it".to_owned(),
            ));
        }
        Ok(_) => match connect(path, PATIENCE) {
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => {
                fs::remove_file(path).map_err(|error| failed(error.to_string()))?;
            }
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Ok(_) => return Err(failed("another process listens there".to_owned())),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                return Err(failed("another process listens there".to_owned()));
            }
            Err(error) => return Err(failed(error.to_string())),
        },
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) => return Err(failed(error.to_string())),
    }
    let listener = UnixListener::bind(path).map_err(|error| failed(error.to_string()))?;
    let made = fs::set_permissions(path, Permissions::from_mode(mode))
        .and_then(|()| fs::symlink_metadata(path))
        .map_err(|error| failed(error.to_string()))?;
    Ok((listener, id(&made)))
}

/// Removes the socket at `path` if it is still the one whose inode [`listen`] gave.
pub fn remove_socket(path: &Path, inode: (u64, u64)) {
    if fs::symlink_metadata(path).is_ok_and(|found| id(&found) == inode) {
        let _ = fs::remove_file(path);
    }
}

fn id(found: &fs::Metadata) -> (u64, u64) {
    (found.dev(), found.ino())
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

fn failed(what: &str, path: &Path, error: &io::Error) -> Failure {
    Failure::host(format!("{what} {}: {error}", path.display()))
}
