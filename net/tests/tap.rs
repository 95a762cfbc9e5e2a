//! Opening taps, with the real /dev/net/tun.
#![allow(missing_docs, clippy::unwrap_used, clippy::panic)]

mod common;

use std::{
    fs::{self, File},
    os::fd::OwnedFd,
    path::Path,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use common::{in_namespace, ip};
use minivmm_net::{Tap, TapError, TapOptions};
use rustix::{
    fs::{CWD, FileType, Mode, makedev, mknodat},
    mount::{MountFlags, mount},
    process::{Gid, Uid},
    thread::{set_thread_groups, set_thread_res_gid, set_thread_res_uid},
};

fn open(name: &str) -> Result<Tap, TapError> {
    Tap::open(name, &TapOptions::default())
}

fn refused(name: &str) -> TapError {
    refused_as(name, &TapOptions::default())
}

fn refused_as(name: &str, options: &TapOptions) -> TapError {
    match Tap::open(name, options) {
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
        let tap = open("vm-a").unwrap();
        assert_eq!(tap.name(), "vm-a");
        let tap = Tap::from_fds(tap.into()).unwrap();
        assert_eq!(tap.name(), "vm-a");
    });
}

#[test]
fn a_missing_tap_is_named_and_not_made() {
    in_namespace(|| {
        let error = refused("vm-adguard");
        assert_eq!(
            error.to_string(),
            "tap `vm-adguard` does not exist: \
             make it with `ip tuntap add dev vm-adguard mode tap`, or say create = true"
        );
        assert!(!error.is_host_unable());
        assert!(!Path::new("/sys/class/net/vm-adguard").exists());
    });
}

#[test]
fn a_tap_in_use_is_busy() {
    in_namespace(|| {
        ip("tuntap add dev vm-a mode tap");
        let tap = open("vm-a").unwrap();
        let error = refused("vm-a");
        assert!(matches!(error, TapError::Busy { .. }) && !error.is_host_unable());
        drop(tap);
        open("vm-a").unwrap();
    });
}

#[test]
fn a_tap_with_many_queues_is_opened_and_then_busy_too() {
    in_namespace(|| {
        ip("tuntap add dev vm-a mode tap multi_queue");
        let tap = open("vm-a").unwrap();
        assert!(matches!(refused("vm-a"), TapError::Busy { .. }));
        drop(tap);
        open("vm-a").unwrap();
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
        open("vm-b").unwrap();
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

/// What `ip` says of a link.
fn link(name: &str) -> String {
    let output = Command::new("ip")
        .args(["-d", "link", "show", name])
        .output();
    String::from_utf8(output.unwrap().stdout).unwrap()
}

fn wanted(create: bool, bridge: Option<&str>) -> TapOptions {
    TapOptions {
        create,
        bridge: bridge.map(str::to_owned),
        ..Default::default()
    }
}

#[test]
fn a_tap_is_made_put_into_its_bridge_and_goes_with_its_descriptors() {
    in_namespace(|| {
        ip("link add br-a mtu 9000 type bridge");
        for queues in [1, 3] {
            let options = TapOptions {
                queues,
                mtu: Some(9000),
                ..wanted(true, Some("br-a"))
            };
            let tap = Tap::open("vm-a", &options).unwrap();
            assert!(tap.is_made() && tap.queue_count() == queues);
            let text = link("vm-a");
            for word in ["mtu 9000", "master br-a", ",UP", "vnet_hdr on"] {
                assert!(text.contains(word), "no `{word}` in {text}");
            }
            assert_eq!(
                text.contains("multi_queue numqueues 3"),
                queues > 1,
                "{text}"
            );
            drop(tap);
            let deadline = Instant::now() + Duration::from_secs(10);
            while Path::new("/sys/class/net/vm-a").exists() {
                assert!(Instant::now() < deadline, "the tap stays");
                thread::yield_now();
            }
        }
    });
}

#[test]
fn a_bridge_stays_as_it_is_when_a_tap_comes_and_goes() {
    in_namespace(|| {
        ip("link add br-a type bridge");
        ip("link add veth-a address f2:00:00:00:00:01 mtu 4000 type veth peer name veth-b");
        ip("link set veth-a master br-a");
        let seen = || {
            let read = |file| fs::read_to_string(format!("/sys/class/net/br-a/{file}")).unwrap();
            (read("address"), read("mtu"))
        };
        let before = seen();
        assert_eq!(
            before,
            ("f2:00:00:00:00:01\n".to_owned(), "4000\n".to_owned())
        );
        let tap = Tap::open("vm-a", &wanted(true, Some("br-a"))).unwrap();
        assert_eq!(seen(), before);
        let text = link("vm-a");
        assert!(
            text.contains("link/ether fe:") && text.contains("mtu 4000"),
            "{text}"
        );
        drop(tap);
        assert_eq!(seen(), before);
    });
}

#[test]
fn an_existing_tap_is_put_into_its_bridge_once_and_into_no_other() {
    in_namespace(|| {
        ip("link add br-a type bridge");
        ip("link add br-b type bridge");
        ip("tuntap add dev vm-a mode tap");
        for _ in 0..2 {
            let tap = Tap::open("vm-a", &wanted(true, Some("br-a"))).unwrap();
            assert!(!tap.is_made() && link("vm-a").contains("master br-a"));
        }
        let error = refused_as("vm-a", &wanted(false, Some("br-b")));
        assert!(matches!(error, TapError::OtherBridge { .. }), "{error}");
        // It was let go of.
        open("vm-a").unwrap();
        assert!(link("vm-a").contains("master br-a"));
    });
}

#[test]
fn a_bridge_that_is_none_is_found_before_a_tap_is_made() {
    in_namespace(|| {
        let error = refused_as("vm-a", &wanted(true, Some("br-a")));
        assert!(matches!(error, TapError::NoBridge { .. }) && error.key() == "bridge");
        ip("link add veth-a type veth peer name veth-b");
        ip("tuntap add dev vm-b mode tap");
        for none in ["lo", "veth-a", "vm-b"] {
            let error = refused_as("vm-a", &wanted(true, Some(none)));
            assert!(matches!(error, TapError::NotABridge { .. }), "{error}");
        }
        assert!(link("vm-a").is_empty());
    });
}

#[test]
fn who_may_not_make_a_tap_is_told_the_command() {
    in_namespace(|| {
        ip("link add br-a type bridge");
        ip("tuntap add dev vm-b mode tap user 65534");
        make_tun(0o666);
        become_user();
        let options = TapOptions {
            queues: 2,
            ..wanted(true, None)
        };
        let text = refused_as("vm-a", &options).to_string();
        assert!(
            text.contains("`ip tuntap add dev vm-a mode tap multi_queue`"),
            "{text}"
        );
        let text = refused_as("vm-b", &wanted(false, Some("br-a"))).to_string();
        assert!(text.contains("`ip link set vm-b master br-a`"), "{text}");
    });
}

#[test]
fn a_tap_with_one_queue_is_not_taken_for_several() {
    in_namespace(|| {
        ip("tuntap add dev vm-a mode tap");
        let options = TapOptions {
            queues: 2,
            ..Default::default()
        };
        let error = refused_as("vm-a", &options);
        assert!(matches!(error, TapError::OneQueue { .. }) && error.key() == "queues");
        assert!(error.to_string().contains("multi_queue"), "{error}");
        ip("tuntap del dev vm-a mode tap");
        ip("tuntap add dev vm-a mode tap multi_queue");
        let tap = Tap::open("vm-a", &options).unwrap();
        assert_eq!(tap.queue_count(), 2);
        // Somebody else who has it open already.
        assert!(matches!(
            refused_as("vm-a", &options),
            TapError::Busy { .. }
        ));
    });
}

#[test]
fn descriptors_of_something_else_are_refused() {
    let refused = |fds: Vec<OwnedFd>| match Tap::from_fds(fds) {
        Ok(tap) => panic!("{tap:?}"),
        Err(error) => error.to_string(),
    };
    let file = |path| File::options().read(true).write(true).open(path).unwrap();
    let text = refused(vec![file("/dev/null").into()]);
    assert!(text.contains("another kind of file"), "{text}");
    in_namespace(|| {
        let text = refused(vec![file("/dev/net/tun").into()]);
        assert!(text.contains("attached to no interface"), "{text}");
        ip("tuntap add dev vm-a mode tap");
        let tap = open("vm-a").unwrap();
        let copies = tap.fds().chain(tap.fds());
        let copies = copies.map(|fd| fd.try_clone_to_owned().unwrap());
        let text = refused(copies.collect());
        assert!(text.contains("multi_queue"), "{text}");
        drop(tap);

        ip("tuntap add dev vm-c mode tap multi_queue");
        ip("tuntap add dev vm-d mode tap multi_queue");
        let both = [open("vm-c").unwrap(), open("vm-d").unwrap()];
        let text = refused(both.into_iter().flat_map(Vec::<OwnedFd>::from).collect());
        assert!(text.contains("`vm-c`") && text.contains("`vm-d`"), "{text}");
    });
}
