//! Opening taps, with the real /dev/net/tun.
#![allow(missing_docs, clippy::unwrap_used, clippy::panic)]

mod common;

use std::{
    fs::File,
    os::fd::OwnedFd,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use common::{in_namespace, ip};
use minivmm_net::{Tap, TapError};
use rustix::{
    fs::{CWD, FileType, Mode, makedev, mknodat},
    mount::{MountFlags, mount},
    process::{Gid, Uid},
    thread::{set_thread_groups, set_thread_res_gid, set_thread_res_uid},
};

fn refused(name: &str) -> TapError {
    match Tap::open(name) {
        Ok(_) => panic!("{name} was opened"),
        Err(error) => {
            let text = error.to_string();
            assert!(
                text.contains(&format!("`{name}`")) && !text.contains('\n'),
                "{text}"
            );
            error
        }
    }
}

/// Whether a tap can be opened that was closed just now.
///
/// A child that another test's thread has forked meanwhile holds it until it runs its program.
fn is_free_soon(name: &str) -> bool {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        match Tap::open(name) {
            Ok(_) => return true,
            Err(TapError::Busy { .. }) if Instant::now() < deadline => thread::yield_now(),
            Err(error) => panic!("{error}"),
        }
    }
}

/// Puts an empty directory at /dev/net, in this mount namespace.
fn hide_tun() {
    mount("tmpfs", "/dev/net", "tmpfs", MountFlags::empty(), None).unwrap();
}

fn make_tun(mode: u32) {
    hide_tun();
    let mode = Mode::from_raw_mode(mode);
    mknodat(
        CWD,
        "/dev/net/tun",
        FileType::CharacterDevice,
        mode,
        makedev(10, 200),
    )
    .unwrap();
    // mknod(2) has applied the umask.
    rustix::fs::chmod("/dev/net/tun", mode).unwrap();
}

/// Makes this thread, and no other, one of a user without capabilities.
fn become_user() {
    let (uid, gid) = (Uid::from_raw(65534), Gid::from_raw(65534));
    set_thread_groups(&[]).unwrap();
    set_thread_res_gid(gid, gid, gid).unwrap();
    set_thread_res_uid(uid, uid, uid).unwrap();
}

#[test]
fn an_existing_tap_is_opened_and_handed_on() {
    in_namespace(|| {
        ip("tuntap add dev vm-a mode tap");
        let tap = Tap::open("vm-a").unwrap();
        assert_eq!(tap.name(), "vm-a");
        let tap = Tap::from_fd(OwnedFd::from(tap)).unwrap();
        assert_eq!(tap.name(), "vm-a");
    });
}

#[test]
fn a_missing_tap_is_named_and_not_made() {
    in_namespace(|| {
        let error = refused("vm-adguard");
        assert_eq!(
            error.to_string(),
            "tap `vm-adguard` does not exist: make it with `ip tuntap add dev vm-adguard mode tap`"
        );
        assert!(!error.is_host_unable());
        // The kernel would take this for a pattern.
        assert!(matches!(refused("vm%d"), TapError::Missing { .. }));
        assert!(!Path::new("/sys/class/net/vm-adguard").exists());
        assert!(!Path::new("/sys/class/net/vm0").exists());
    });
}

#[test]
fn a_tap_in_use_is_busy() {
    in_namespace(|| {
        ip("tuntap add dev vm-a mode tap");
        let tap = Tap::open("vm-a").unwrap();
        let error = refused("vm-a");
        assert!(matches!(error, TapError::Busy { .. }) && !error.is_host_unable());
        drop(tap);
        assert!(is_free_soon("vm-a"));
    });
}

#[test]
fn a_tap_with_many_queues_is_opened_and_then_busy_too() {
    in_namespace(|| {
        ip("tuntap add dev vm-a mode tap multi_queue");
        let tap = Tap::open("vm-a").unwrap();
        assert!(matches!(refused("vm-a"), TapError::Busy { .. }));
        drop(tap);
        assert!(is_free_soon("vm-a"));
    });
}

#[test]
fn a_tun_and_another_interface_are_no_taps() {
    in_namespace(|| {
        ip("tuntap add dev tun-a mode tun");
        for name in ["tun-a", "lo"] {
            let error = refused(name);
            assert!(matches!(error, TapError::NotATap { .. }), "{error}");
            assert!(!error.is_host_unable());
        }
    });
}

#[test]
fn somebody_elses_tap_says_how_to_make_ones_own() {
    in_namespace(|| {
        ip("tuntap add dev vm-a mode tap user 1234");
        ip("tuntap add dev vm-b mode tap user 65534");
        make_tun(0o666);
        become_user();
        let error = refused("vm-a");
        assert!(matches!(error, TapError::NotOwner { .. }) && !error.is_host_unable());
        Tap::open("vm-b").unwrap();
    });
}

#[test]
fn a_missing_or_forbidden_driver_is_the_hosts_matter() {
    in_namespace(|| {
        ip("tuntap add dev vm-a mode tap");
        hide_tun();
        let error = refused("vm-a");
        assert!(matches!(error, TapError::NoDriver { .. }) && error.is_host_unable());
        make_tun(0o600);
        become_user();
        let error = refused("vm-a");
        assert!(matches!(error, TapError::NotPermitted { .. }) && error.is_host_unable());
    });
}

#[test]
fn a_descriptor_of_something_else_is_refused() {
    let null = File::open("/dev/null").unwrap();
    assert!(Tap::from_fd(null.into()).is_err());
}
