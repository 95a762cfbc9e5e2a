//! A network namespace for one test, with real taps in it.
#![allow(dead_code, missing_docs, clippy::unwrap_used, clippy::panic)]

pub mod card;

use std::{
    fs,
    process::Command,
    sync::{Mutex, PoisonError},
    thread,
};

use rustix::{
    mount::{MountFlags, MountPropagationFlags, mount, mount_change},
    process::geteuid,
    thread::UnshareFlags,
};

/// One test at a time: a child that another one forks has a copy of every descriptor until it runs its program, and a
/// tap that is held by such a copy is busy.
static ONE: Mutex<()> = Mutex::new(());

/// Runs `test` on a thread with a network and a mount namespace of its own.
///
/// Its children and threads have them too; they end with the last of these.
pub fn in_namespace(test: impl FnOnce() + Send) {
    assert!(
        geteuid().is_root(),
        "this test makes a network namespace with taps: run it as root"
    );
    let _alone = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    thread::scope(|scope| {
        let thread = scope.spawn(|| {
            unshare(UnshareFlags::NEWNET | UnshareFlags::NEWNS);
            mount_change(
                "/",
                MountPropagationFlags::PRIVATE | MountPropagationFlags::REC,
            )
            .unwrap();
            // The sysfs of this network namespace.
            mount("sysfs", "/sys", "sysfs", MountFlags::empty(), None).unwrap();
            // Without the kernel's own IPv6 traffic, frames are the test's.
            let _ = fs::write("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1");
            test();
        });
        if let Err(panic) = thread.join() {
            std::panic::resume_unwind(panic);
        }
    });
}

#[allow(unsafe_code)]
fn unshare(flags: UnshareFlags) {
    // SAFETY: descriptors stay shared.
    unsafe { rustix::thread::unshare_unsafe(flags) }.unwrap();
}

/// `ip` with `arguments`, which are split at spaces.
pub fn ip(arguments: &str) {
    let output = Command::new("ip")
        .args(arguments.split(' '))
        .output()
        .unwrap_or_else(|error| panic!("cannot run ip of iproute2: {error}"));
    assert!(
        output.status.success(),
        "ip {arguments}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}
