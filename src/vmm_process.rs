//! The VMM process: runs the guest on the descriptors that the supervisor sent, and opens nothing itself.

mod streams;

use std::{
    collections::BTreeMap,
    fs::File,
    io,
    os::{
        fd::{FromRawFd, OwnedFd},
        unix::net::UnixStream,
    },
    process::ExitCode,
    sync::Arc,
};

use minivmm_block::Image;
use minivmm_net::Tap;
use minivmm_vmm::{
    BalloonReport, Blame, End, Handle, Progress, Resources, Vm, VmConfig, WaitingWriter,
    machine::{OnShareLost, OnVolumeFull},
};
use minivmm_vsock::Answers;
use rustix::event::{PollFd, PollFlags, poll};

use crate::{
    dumps,
    failure::{self, Failure, with_causes},
    log,
    protocol::{Channel, FromVmm, Role, ToVmm, receive_config},
    secrets,
};

/// The name (argument 0) that makes this program a VMM process.
pub const NAME: &str = "minivmm-vmm";
/// The descriptor on which it finds the supervisor.
pub const CHANNEL_FD: i32 = 3;

/// Runs one VM. Its exit code matters only where no message could be sent any more.
pub fn main() -> ExitCode {
    log::init(&std::env::var(log::LEVEL).unwrap_or_default());
    let Some(channel) = inherited_channel() else {
        return Failure::vmm("a VMM process is started by `minivmm run` alone").report();
    };
    dumps::forbid();
    match serve(&Arc::new(channel)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("the supervisor is gone: {error}");
            ExitCode::from(failure::code::VMM)
        }
    }
}

/// The connection to the supervisor, if there is one.
#[allow(unsafe_code)]
fn inherited_channel() -> Option<Channel> {
    // SAFETY: it only asks, and nothing is done with a descriptor that is not open.
    let open = unsafe { libc::fcntl(CHANNEL_FD, libc::F_GETFD) } >= 0;
    // SAFETY: it is open, and nothing else in this process has opened anything yet.
    open.then(|| Channel::from_fd(unsafe { OwnedFd::from_raw_fd(CHANNEL_FD) }))
}

fn serve(channel: &Arc<Channel>) -> io::Result<()> {
    let Some((message, fds)) = channel.receive::<ToVmm>()? else {
        return Err(io::ErrorKind::UnexpectedEof.into());
    };
    let ToVmm::Start {
        roles,
        after_watchdog,
    } = message
    else {
        return Err(io::Error::other("the first message was not a start"));
    };
    let started = resources(roles, fds, channel).and_then(|(config, mut resources)| {
        resources.after_watchdog = after_watchdog;
        let answers = resources.vsock.as_ref().map(|vsock| vsock.answers.clone());
        let handle = start(&config, resources).map_err(|e| (e.blame(), with_causes(&e)))?;
        Ok((handle, answers))
    });
    let (handle, answers) = match started {
        Ok(started) => started,
        Err((blame, message)) => return channel.send(&FromVmm::Failed { blame, message }, &[]),
    };
    channel.send(&FromVmm::Running, &[])?;
    let end = obey(channel, &handle, answers.as_deref());
    // Said first: what the end of its devices does to virtiofsds is no loss then.
    let said = channel.send(&FromVmm::Ended(end), &[]);
    handle.wait();
    said
}

fn start(config: &VmConfig, resources: Resources) -> Result<Handle, minivmm_vmm::Error> {
    Vm::new(config, resources)?.start()
}

/// Does what the supervisor says until the VM has ended, and says how it did. `answers` is for connections that the guest
/// wants.
fn obey(channel: &Arc<Channel>, handle: &Handle, answers: Option<&Answers>) -> End {
    loop {
        let progress = handle.progress_fd();
        let mut fds = [
            PollFd::new(channel, PollFlags::IN),
            PollFd::new(handle, PollFlags::IN),
            PollFd::new(&progress, PollFlags::IN),
        ];
        if poll(&mut fds, None).is_err() {
            continue; // interrupted
        }
        let [message, end, progress] = fds.map(|fd| !fd.revents().is_empty());
        if end && let Some(end) = handle.end() {
            return end;
        }
        if progress {
            for progress in handle.take_progress() {
                tell_progress(channel, progress);
            }
        }
        if message {
            match channel.receive::<ToVmm>() {
                Ok(Some((ToVmm::PowerButton, _))) => handle.press_power_button(),
                Ok(Some((ToVmm::Kill, _))) => handle.kill(),
                Ok(Some((ToVmm::EndForShare { tag }, _))) => handle.lose_share(tag),
                Ok(Some((ToVmm::Connected { id }, fds))) => {
                    if let Some(answers) = answers {
                        answers.answer(id, fds.into_iter().next().map(UnixStream::from));
                    }
                }
                Ok(Some((ToVmm::Pause, _))) => handle.pause(),
                Ok(Some((ToVmm::Resume, _))) => handle.resume(),
                Ok(Some((ToVmm::Ping { id }, _))) => handle.ping(id),
                Ok(Some((
                    ToVmm::Balloon {
                        id,
                        size_bytes,
                        statistics,
                    },
                    _,
                ))) => {
                    if let Some(bytes) = size_bytes {
                        handle.set_balloon(bytes);
                    }
                    match statistics {
                        true => {
                            let channel = channel.clone();
                            handle.ask_balloon(move |report| tell_balloon(&channel, id, report));
                        }
                        false => tell_balloon(channel, id, handle.balloon()),
                    }
                }
                Ok(Some((ToVmm::Metrics { id }, _))) => {
                    let metrics = handle.metrics();
                    if let Err(error) = channel.send(&FromVmm::Metrics { id, metrics }, &[]) {
                        tracing::warn!("the supervisor cannot be told what was counted: {error}");
                    }
                }
                Ok(Some((ToVmm::Start { .. }, _))) => tracing::error!("started twice"),
                Ok(None) | Err(_) => {
                    // Nobody is left who owns this VM.
                    tracing::error!("the supervisor is gone");
                    handle.kill();
                }
            }
        }
    }
}

fn tell_balloon(channel: &Channel, id: u64, report: Option<BalloonReport>) {
    if let Err(error) = channel.send(&FromVmm::Balloon { id, report }, &[]) {
        tracing::warn!("the supervisor cannot be told of the balloon: {error}");
    }
}

fn tell_progress(channel: &Channel, progress: Progress) {
    let message = match progress {
        Progress::Paused => FromVmm::Paused,
        Progress::Resumed => FromVmm::Resumed,
        Progress::Alive { id } => FromVmm::Pong { id },
    };
    if let Err(error) = channel.send(&message, &[]) {
        tracing::error!("the supervisor cannot be answered: {error}");
    }
}

/// Sorts the descriptors by what they are, and reads the configuration.
fn resources(
    roles: Vec<Role>,
    fds: Vec<OwnedFd>,
    channel: &Arc<Channel>,
) -> Result<(VmConfig, Resources), (Blame, String)> {
    let wrong = |what: &str| (Blame::Vmm, format!("the start message lacks {what}"));
    if roles.len() != fds.len() {
        return Err(wrong("descriptors"));
    }
    let (mut config, mut kvm, mut kernel, mut initrd) = (None, None, None, None);
    let mut listener = None;
    let (mut entropy, mut console, mut credentials) = (None, None, None);
    let (mut taps, mut shares) = (BTreeMap::<u8, Vec<OwnedFd>>::new(), Vec::new());
    let mut images = Vec::new();
    for (role, fd) in roles.into_iter().zip(fds) {
        match role {
            Role::Config => {
                let received = receive_config(fd).map_err(|error| {
                    let why = format!("the configuration did not arrive: {error}");
                    (Blame::Vmm, why)
                })?;
                config = Some(received);
            }
            Role::Kvm => kvm = Some(fd),
            Role::Kernel => kernel = Some(File::from(fd)),
            Role::Initrd => initrd = Some(File::from(fd)),
            Role::Entropy => entropy = Some(File::from(fd)),
            Role::Console => console = Some(File::from(fd)),
            Role::Tap(interface) => taps.entry(interface).or_default().push(fd),
            Role::Credentials => credentials = Some(fd),
            Role::Volume => images.push(File::from(fd)),
            Role::Vsock => listener = Some(fd),
            Role::Share => shares.push(UnixStream::from(fd)),
        }
    }
    let config = config.ok_or_else(|| wrong("a configuration"))?;
    let credentials = match credentials {
        Some(fd) => secrets::receive(fd, &config.credentials)
            .map_err(|error| (Blame::Vmm, format!("cannot read the credentials: {error}")))?,
        None => Vec::new(),
    };
    let taps = taps.into_iter().map(|(interface, queues)| {
        Tap::from_fds(queues).map_err(|error| {
            let id = config.interfaces.get(usize::from(interface));
            let id = id.map_or("?", |interface| &interface.id);
            // It was in order when the supervisor opened it, so somebody has removed it, before a restart perhaps.
            let why = format!("interfaces.id: the tap of `{id}` is gone: {error}");
            (Blame::Config, why)
        })
    });
    let taps = taps.collect::<Result<_, _>>()?;
    let volumes = config.volumes.iter().zip(images).map(|(volume, file)| {
        // It was in order when the supervisor opened it, so somebody has changed it, before a restart perhaps.
        Image::from_file(file, &volume.image, volume.options())
            .map_err(|error| (Blame::Config, format!("volumes.{}: {error}", error.key())))
    });
    let volumes = volumes.collect::<Result<_, _>>()?;
    let vsock = config
        .needs_vsock()
        .then(|| streams::resources(channel, listener));
    let vsock = vsock.transpose().map_err(|error| {
        let why = format!("cannot make what the socket device works on: {error}");
        (Blame::Host, why)
    })?;
    let console = console.ok_or_else(|| wrong("a console"))?;
    let console_input = console.try_clone().map_err(|error| {
        let why = format!("the console cannot be read: {error}");
        (Blame::Vmm, why)
    })?;
    let resources = Resources {
        kvm: kvm.ok_or_else(|| wrong("KVM"))?,
        kernel: kernel.ok_or_else(|| wrong("a kernel"))?,
        initrd,
        entropy: entropy.ok_or_else(|| wrong("a source of entropy"))?,
        taps,
        shares,
        volumes,
        on_volume_full: tell_of_room(channel.clone()),
        vsock,
        credentials,
        after_watchdog: false,
        on_share_lost: tell_of_loss(channel.clone()),
        console: Box::new(WaitingWriter(console)),
        console_input: Some(console_input.into()),
    };
    Ok((config, resources))
}

/// Says whether there is room for what is written, without waiting for anybody.
fn tell_of_room(channel: Arc<Channel>) -> OnVolumeFull {
    Arc::new(move |disk, full| {
        let disk = disk.to_owned();
        if let Err(error) = channel.send(&FromVmm::VolumeFull { disk, full }, &[]) {
            tracing::warn!("the supervisor cannot be told of a full volume: {error}");
        }
    })
}

/// Says that a share is lost, without waiting for anybody.
fn tell_of_loss(channel: Arc<Channel>) -> OnShareLost {
    Arc::new(move |tag| {
        let tag = tag.to_string();
        if let Err(error) = channel.send(&FromVmm::ShareLost { tag }, &[]) {
            tracing::error!("the supervisor cannot be told of a lost share: {error}");
        }
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::protocol::send_config;

    #[test]
    fn a_tap_that_was_removed_before_a_restart_is_named() {
        let config = VmConfig::from_toml(
            "name = \"a\"\n[kernel]\npath = \"k\"\n\
             [[interfaces]]\ntype = \"tap\"\nid = \"vm-a\"\nmac = \"02:00:00:00:00:01\"\n",
        );
        let config = send_config(&config.unwrap()).unwrap();
        // What is left of a descriptor whose tap is gone: it is attached to nothing.
        let gone = File::options().read(true).write(true).open("/dev/net/tun");
        let fds = vec![gone.unwrap().into(), config];
        let (channel, _theirs) = Channel::pair().unwrap();
        let outcome = resources(vec![Role::Tap(0), Role::Config], fds, &Arc::new(channel));
        let (blame, why) = outcome.map(|_| ()).unwrap_err();
        assert_eq!(blame, Blame::Config);
        assert!(
            why.starts_with("interfaces.id: the tap of `vm-a` is gone: "),
            "{why}"
        );
    }
}
