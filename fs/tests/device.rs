//! The device with the real virtiofsd behind it, and with back ends that are not to be trusted.
#![allow(missing_docs, clippy::unwrap_used, clippy::panic)]

mod common;

use std::{
    io::{Read, Write},
    os::unix::net::UnixStream,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use common::{Guest, SOON, Served, back_end::*, needs_reset, tag};
use minivmm_devices::{
    GuestMemory,
    test_utils::readable,
    virtio::{DeviceType, VirtioDevice},
};
use minivmm_fs::{FsDevice, backend::Error};
use vm_memory::GuestAddress;
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

fn connect(socket: UnixStream) -> (Box<FsDevice>, EventFd) {
    let lost = EventFd::new(EFD_NONBLOCK).unwrap();
    let signal = lost.try_clone().unwrap();
    let on_lost = Box::new(move || signal.write(1).unwrap());
    let device = FsDevice::connect(socket, &tag(), on_lost).unwrap();
    (Box::new(device), lost)
}

#[test]
fn the_device_shows_its_tag_and_one_request_queue() {
    let mut served = Served::new();
    let (device, _) = connect(served.socket.take().unwrap());
    assert_eq!(device.device_type(), DeviceType::FileSystem);
    assert_eq!(device.queue_sizes(), [1024, 1024]);
    assert_eq!(device.features(), 1 << 28 | 1 << 29);
    let mut config = [0xff; 44];
    device.config().read(0, &mut config);
    assert_eq!(config[..5], *b"data\0");
    assert_eq!(config[36..], [1, 0, 0, 0, 0, 0, 0, 0]);
}

#[test]
fn virtiofsd_answers_a_guest() {
    let mut served = Served::new();
    let (device, lost) = connect(served.socket.take().unwrap());
    let mut guest = Guest::activate(device);
    assert_eq!(guest.init().0, 7);
    guest.mkdir("made", 0).unwrap();
    assert!(served.share.path().join("made").is_dir());
    assert_eq!(guest.mkdir("made", 0), Err(libc::EEXIST));
    assert!(!needs_reset(&guest.status()));
    drop(guest.deactivate());
    assert!(served.virtiofsd.stop(SOON).unwrap().success());
    assert!(lost.read().is_err(), "an orderly end is no loss");
}

#[test]
fn virtiofsd_answers_again_after_the_driver_reset_the_device() {
    let mut served = Served::new();
    let (device, lost) = connect(served.socket.take().unwrap());
    let mut guest = Guest::activate(device);
    for name in ["first", "second", "third"] {
        guest.init();
        guest.mkdir(name, 0).unwrap();
        assert!(served.share.path().join(name).is_dir());
        guest = guest.reset();
    }
    assert!(lost.read().is_err());
}

#[test]
fn a_killed_virtiofsd_is_a_loss_that_is_told_once() {
    let mut served = Served::new();
    let (device, lost) = connect(served.socket.take().unwrap());
    let mut guest = Guest::activate(device);
    guest.init();
    drop(served.virtiofsd);
    assert!(readable(&lost, SOON));
    assert_eq!(lost.read().unwrap(), 1);
    let guest = Guest::activate(guest.deactivate());
    // The worker has gone through its start when it has gone through its stop.
    let status = guest.status();
    drop(guest.deactivate());
    assert!(needs_reset(&status), "nobody serves it any more");
    assert!(lost.read().is_err());
}

#[test]
fn a_lost_device_needs_a_reset() {
    let mut served = Served::new();
    let (device, lost) = connect(served.socket.take().unwrap());
    let guest = Guest::activate(device);
    drop(served.virtiofsd);
    assert!(readable(&lost, SOON));
    let status = guest.status();
    drop(guest.deactivate());
    assert!(needs_reset(&status));
}

#[test]
fn private_guest_memory_is_refused_before_virtiofsd_sees_it() {
    let mut served = Served::new();
    let (device, lost) = connect(served.socket.take().unwrap());
    let memory = GuestMemory::from_ranges(&[(GuestAddress(0), 1 << 20)]).unwrap();
    let guest = Guest::activate_with(device, Arc::new(memory));
    assert!(readable(&lost, SOON));
    let status = guest.status();
    drop(guest.deactivate());
    assert!(needs_reset(&status));
}

/// Connects to a back end that `behaves`; gives the error and the time it took.
fn refused(behaves: impl FnOnce(UnixStream) + Send) -> (Error, Duration) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let begin = Instant::now();
    let result = thread::scope(|scope| {
        scope.spawn(|| behaves(theirs));
        FsDevice::connect(ours, &tag(), Box::new(|| {}))
    });
    match result {
        Ok(_) => panic!("a bad back end was accepted"),
        Err(error) => {
            assert!(error.to_string().starts_with("share `data`: virtiofsd "));
            (error.source, begin.elapsed())
        }
    }
}

#[test]
fn queues_are_handed_over_and_taken_back_in_the_order_of_the_protocol() {
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    let back_end = thread::spawn(move || {
        let mut seen = Vec::new();
        while let Some(request) = next_request(&mut theirs) {
            seen.push((request.code, request.first));
            answer_well(&mut theirs, request);
        }
        seen
    });
    let (device, lost) = connect(ours);
    assert_eq!(device.features(), 0, "only what the back end offers");
    drop(Guest::activate(device).deactivate());
    assert!(lost.read().is_err());

    let seen = back_end.join().unwrap();
    let begin = seen.iter().position(|request| request.0 == SET_FEATURES);
    let queue = |index| {
        [
            (SET_VRING_NUM, index),
            (SET_VRING_ADDR, index),
            (SET_VRING_BASE, index),
            (SET_VRING_CALL, index),
            (SET_VRING_KICK, index),
        ]
    };
    let mut expected = vec![(SET_FEATURES, 1 << 30), (SET_MEM_TABLE, 1)];
    expected.extend(queue(0));
    expected.extend(queue(1));
    expected.extend([0, 1].map(|index| (SET_VRING_ENABLE, index)));
    for index in [0, 1] {
        expected.extend([(SET_VRING_ENABLE, index), (GET_VRING_BASE, index)]);
    }
    expected.push((RESET_DEVICE, 0));
    assert_eq!(seen[begin.unwrap()..], expected);
}

#[test]
fn a_silent_back_end_is_given_up_after_five_seconds() {
    let (error, took) = refused(|mut socket| {
        // Until the connection is shut down.
        let _ = socket.read_to_end(&mut Vec::new());
    });
    assert!(matches!(error, Error::Silent { .. }), "{error}");
    assert!((5..6).contains(&took.as_secs()), "{took:?}");
}

#[test]
fn a_back_end_that_stops_in_the_middle_of_an_answer_is_given_up() {
    let (error, took) = refused(|mut socket| {
        wait_for(&mut socket, GET_FEATURES);
        socket.write_all(&[1, 0, 0, 0]).unwrap();
        let _ = socket.read_to_end(&mut Vec::new());
    });
    assert!(matches!(error, Error::Silent { .. }), "{error}");
    assert!((5..6).contains(&took.as_secs()), "{took:?}");
}

#[test]
fn an_answer_to_another_question_is_an_error() {
    let (error, _) = refused(|mut socket| {
        wait_for(&mut socket, GET_FEATURES);
        answer(&mut socket, GET_PROTOCOL_FEATURES, u64::MAX);
    });
    assert!(matches!(error, Error::Message { .. }), "{error}");
}

#[test]
fn noise_is_an_error() {
    let (error, _) = refused(|mut socket| {
        wait_for(&mut socket, GET_FEATURES);
        socket.write_all(&[0xff; 4096]).unwrap();
    });
    assert!(matches!(error, Error::Message { .. }), "{error}");
}

#[test]
fn a_back_end_that_hangs_up_is_an_error() {
    let (error, _) = refused(drop);
    assert!(matches!(error, Error::Message { .. }), "{error}");
}

#[test]
fn a_back_end_without_what_is_needed_is_refused() {
    let (error, _) = refused(|mut socket| {
        wait_for(&mut socket, GET_FEATURES);
        answer(&mut socket, GET_FEATURES, 1 << 30);
    });
    assert!(matches!(
        error,
        Error::Lacks {
            what: "VIRTIO_F_VERSION_1"
        }
    ));
    let (error, _) = refused(|mut socket| {
        wait_for(&mut socket, GET_FEATURES);
        answer(&mut socket, GET_FEATURES, 1 << 30 | 1 << 32);
        wait_for(&mut socket, GET_PROTOCOL_FEATURES);
        answer(&mut socket, GET_PROTOCOL_FEATURES, 0);
    });
    assert!(matches!(error, Error::Lacks { .. }), "{error}");
}
