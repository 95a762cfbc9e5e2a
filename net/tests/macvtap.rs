//! Macvtaps that are handed in, with the real device.
#![allow(missing_docs, clippy::unwrap_used, clippy::panic)]

mod common;

use std::{
    fs::File,
    os::fd::{AsFd, OwnedFd},
};

use common::{in_namespace, ip};
use minivmm_net::{Tap, TapError, TapOptions};

/// Makes the macvtap `mv-a` and gives the path of its device. That is named after the interface's index in all network
/// namespaces alike, and removed some time after the namespace has gone: so each test has an index of its own.
fn make(index: u32) -> String {
    ip("link add low-a type veth peer name low-b");
    ip(&format!(
        "link add link low-a name mv-a index {index} type macvtap mode bridge"
    ));
    ip("link set mv-a up");
    format!("/dev/tap{index}")
}

/// Opens a device so many times.
fn open(device: &str, times: usize) -> Vec<OwnedFd> {
    let open = || File::options().read(true).write(true).open(device).unwrap();
    (0..times).map(|_| open().into()).collect()
}

#[test]
fn each_open_of_its_device_is_a_queue() {
    in_namespace(|| {
        let device = make(6001);
        for queues in [1, 2, 8] {
            let tap = Tap::from_fds(open(&device, queues)).unwrap();
            assert_eq!((tap.name(), tap.queue_count()), ("mv-a", queues));
            assert!(!tap.is_made());
            // As the VMM has it from the supervisor.
            let tap = Tap::from_fds(tap.into()).unwrap();
            assert_eq!((tap.name(), tap.queue_count()), ("mv-a", queues));
        }
    });
}

#[test]
fn the_same_queue_twice_is_refused() {
    in_namespace(|| {
        let device = make(6002);
        let refused = |fds: Vec<OwnedFd>| match Tap::from_fds(fds) {
            Ok(tap) => panic!("{tap:?}"),
            Err(error) => {
                assert!(!error.is_host_unable() && error.key() == "fd");
                error
            }
        };
        let copied = |mut fds: Vec<OwnedFd>| {
            let copy = fds.first().unwrap().as_fd().try_clone_to_owned();
            fds.push(copy.unwrap());
            fds
        };
        let error = refused(copied(open(&device, 2)));
        assert!(matches!(error, TapError::Copy { .. }), "{error}");
        let error = refused(copied(open(&device, 1)));
        assert!(matches!(error, TapError::Copy { .. }), "{error}");
        // A tap's, too.
        ip("tuntap add dev vm-a mode tap multi_queue");
        let options = TapOptions {
            queues: 2,
            ..Default::default()
        };
        let tap = Tap::open("vm-a", &options).unwrap();
        let error = refused(copied(tap.into()));
        assert!(matches!(error, TapError::Copy { .. }), "{error}");
    });
}

#[test]
fn one_that_was_removed_and_one_among_taps_are_refused() {
    in_namespace(|| {
        let device = make(6003);
        ip("tuntap add dev vm-a mode tap multi_queue");
        let mut fds = Vec::from(Tap::open("vm-a", &TapOptions::default()).unwrap());
        fds.extend(open(&device, 1));
        let error = Tap::from_fds(fds).map(drop).unwrap_err();
        assert!(matches!(error, TapError::Mixed { .. }), "{error}");

        let fds = open(&device, 1);
        ip("link del mv-a");
        let error = Tap::from_fds(fds).map(drop).unwrap_err().to_string();
        assert!(error.contains("its macvtap was removed"), "{error}");
    });
}
