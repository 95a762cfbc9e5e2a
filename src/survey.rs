//! Asks all VMs at once: `minivmm list`, `top`, and which names there are.

use std::{
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use minivmm_vmm::BalloonReport;

use crate::{
    board::{State, Status},
    client::{Client, Error, Target},
    control::interface::BalloonParameters,
    runtime_dir::{self, Holder},
};

/// How long all VMs together may take for their answers.
pub const PATIENCE: Duration = Duration::from_secs(2);
/// How long to wait before a VM is asked again that has a lock and no socket, because it starts or ends.
const AGAIN: Duration = Duration::from_millis(20);
/// How long the answer of a VMM process may take, without which all else can be said.
const BALLOON: Duration = Duration::from_millis(500);
/// How long naming VMs may take.
const NAMES: Duration = Duration::from_millis(300);

/// A VM.
#[derive(Debug)]
pub struct Vm {
    /// Its name: that of its runtime directory.
    pub name: String,
    /// Its runtime directory.
    pub directory: PathBuf,
    /// What came of asking it.
    pub found: Found,
}

/// What came of asking a VM.
#[derive(Debug)]
pub enum Found {
    /// What it says, and what is known of its balloon.
    Status(Box<Status>, Option<BalloonReport>),
    /// It runs and does not say anything, or nothing that can be understood.
    NoAnswer {
        /// Its supervisor, as the lock says.
        pid: Option<u32>,
    },
    /// It is another user's, so nobody can say more.
    NotYours,
}

/// All VMs of this user, and root's, in the order of their names. None delays the others, and all together take no
/// longer than `patience`.
pub fn all(patience: Duration) -> Vec<Vm> {
    let deadline = Instant::now() + patience;
    let mut vms = each(runtime_dir::all(), |directory| {
        Some(Vm {
            name: name(directory),
            found: ask(directory, deadline)?,
            directory: directory.to_owned(),
        })
    });
    vms.sort_by(|a, b| a.name.cmp(&b.name));
    vms
}

/// The names of the VMs that somebody listens for.
pub fn names() -> Vec<String> {
    let mut names = each(runtime_dir::all(), |directory| {
        let socket = Target::Socket(runtime_dir::control_socket(directory));
        match Client::connect_within(&socket, NAMES) {
            Err(Error::NotRunning | Error::NoPermission(_)) => None,
            _ => Some(name(directory)),
        }
    });
    names.sort_unstable();
    names.dedup();
    names
}

/// What `of` says of each directory, all at the same time.
fn each<T: Send>(directories: Vec<PathBuf>, of: impl Fn(&Path) -> Option<T> + Sync) -> Vec<T> {
    let of = &of;
    thread::scope(|scope| {
        let asked: Vec<_> = directories
            .iter()
            .map(|directory| {
                let mine = move || of(directory);
                // Where there are no more threads, one after the other.
                thread::Builder::new()
                    .spawn_scoped(scope, mine)
                    .map_err(|_| directory)
            })
            .collect();
        let answers = asked.into_iter().map(|asked| match asked {
            Ok(thread) => thread.join().ok().flatten(),
            Err(directory) => of(directory),
        });
        answers.flatten().collect()
    })
}

/// What the VM says whose directory that is; `None` if none runs there.
fn ask(directory: &Path, deadline: Instant) -> Option<Found> {
    let socket = Target::Socket(runtime_dir::control_socket(directory));
    let left = || deadline.saturating_duration_since(Instant::now());
    let least = Duration::from_millis(1);
    loop {
        let said = Client::connect_within(&socket, left().max(least)).and_then(|mut client| {
            let status = client.status(left().max(least))?;
            let runs = matches!(status.state, State::Running | State::Paused);
            // One that starts or ends has other things to do.
            let balloon = runs.then(|| balloon(&mut client, left().max(least)));
            Ok((status, balloon.flatten()))
        });
        match said {
            Ok((status, balloon)) => return Some(Found::Status(Box::new(status), balloon)),
            Err(Error::NoPermission(_)) => return Some(Found::NotYours),
            Err(Error::NoAnswer | Error::Refused(_) | Error::Nonsense(_)) => {
                return Some(Found::NoAnswer {
                    pid: pid(runtime_dir::holder(directory)),
                });
            }
            // It starts, or it ends, or it was killed.
            Err(Error::NotRunning | Error::Gone) => match runtime_dir::holder(directory) {
                Holder::Nobody => return None,
                Holder::Unknown => return Some(Found::NotYours),
                holder if left().is_zero() => {
                    return Some(Found::NoAnswer { pid: pid(holder) });
                }
                Holder::Process(_) => thread::sleep(AGAIN.min(left())),
            },
        }
    }
}

/// What is known of the balloon of a VM that runs. Its guest is not asked.
pub fn balloon(client: &mut Client, patience: Duration) -> Option<BalloonReport> {
    let patience = patience.min(BALLOON);
    client.balloon(&BalloonParameters::default(), patience).ok()
}

fn pid(holder: Holder) -> Option<u32> {
    match holder {
        Holder::Process(pid @ 1..) => Some(pid),
        _ => None,
    }
}

fn name(directory: &Path) -> String {
    let name = directory.file_name().unwrap_or_default();
    name.to_string_lossy().into_owned()
}
