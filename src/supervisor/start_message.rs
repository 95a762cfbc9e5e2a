//! The message by which a VMM process learns what to run.

use std::{
    io,
    os::{
        fd::{AsFd, BorrowedFd},
        unix::net::UnixStream,
    },
};

use minivmm_vmm::{End, VmConfig};

use super::{opened::Opened, streams::Streams};
use crate::protocol::{Channel, Role, ToVmm, send_config};

/// Tells the VMM process at the other end of `channel` what to run, with a connection for each share; `last` is how the
/// run before this one ended.
pub fn send(
    channel: &Channel,
    config: &VmConfig,
    opened: &Opened,
    console: BorrowedFd<'_>,
    shares: &[UnixStream],
    last: Option<&End>,
) -> io::Result<()> {
    let config = send_config(config)?;
    let mut roles = vec![
        Role::Config,
        Role::Kvm,
        Role::Kernel,
        Role::Entropy,
        Role::Console,
    ];
    let mut fds: Vec<BorrowedFd<'_>> = vec![
        config.as_fd(),
        opened.kvm.as_fd(),
        opened.kernel.as_fd(),
        opened.entropy.as_fd(),
        console,
    ];
    if let Some(initrd) = &opened.initrd {
        roles.push(Role::Initrd);
        fds.push(initrd.as_fd());
    }
    for (interface, tap) in (0..).zip(&opened.taps) {
        for queue in tap.fds() {
            roles.push(Role::Tap(interface));
            fds.push(queue);
        }
    }
    for image in &opened.volumes {
        roles.push(Role::Volume);
        fds.push(image.as_fd());
    }
    let credentials = opened.credentials.to_send()?;
    if let Some(credentials) = &credentials {
        roles.push(Role::Credentials);
        fds.push(credentials.as_fd());
    }
    if let Some(listener) = opened.streams.as_ref().and_then(Streams::listener) {
        roles.push(Role::Vsock);
        fds.push(listener);
    }
    for share in shares {
        roles.push(Role::Share);
        fds.push(share.as_fd());
    }
    let start = ToVmm::Start {
        roles,
        after_watchdog: last == Some(&End::Watchdog),
    };
    channel.send(&start, &fds)
}
