//! A card with several pairs of queues, and the control queue that says how many of them are used.
#![allow(missing_docs, clippy::unwrap_used, clippy::panic)]

mod common;

use std::{os::fd::OwnedFd, sync::Arc, thread, time::Instant};

use common::{
    card::{Guest, Host, RX_BUFFERS, SOON, plain},
    in_namespace,
};
use minivmm_devices::virtio::VirtioDevice;
use minivmm_net::{Counters, NetDevice, Tap};

const CTRL_VQ: u64 = 1 << 17;
const MQ: u64 = 1 << 22;
const OK: u8 = 0;
const ERR: u8 = 1;

fn with_pairs(
    pairs: usize,
    features: u64,
    test: impl FnOnce(Host, Guest, Arc<Counters>, Vec<OwnedFd>) + Send,
) {
    in_namespace(|| {
        let (host, tap) = Host::with_queues(pairs);
        let copy = tap
            .fds()
            .map(|fd| fd.try_clone_to_owned().unwrap())
            .collect();
        let device = NetDevice::new(tap, plain());
        let counters = device.counters();
        let guest = Guest::with_features(Box::new(device), features);
        test(host, guest, counters, copy);
    });
}

/// Sends a frame on a pair's transmit queue, from where the host remembers the way back.
fn speak(host: &Host, guest: &mut Guest, pair: usize) {
    let buffers = guest.lay(&host.frame(b"hello"), &[]);
    let side = match pair {
        0 => &mut guest.tx,
        pair => &mut guest.more[2 * pair - 1],
    };
    side.driver.add(&buffers, &[]);
    side.kick();
    assert_eq!(host.receive(), b"hello");
    side.used();
}

/// Gives every pair a buffer; the host sends one frame; says which pair it came to.
fn answered_on(host: &Host, guest: &mut Guest, pairs: usize) -> usize {
    host.send(b"answer");
    let deadline = Instant::now() + SOON;
    loop {
        for pair in 0..pairs {
            let side = match pair {
                0 => &mut guest.rx,
                pair => &mut guest.more[2 * pair - 2],
            };
            if side.driver.take_used().is_some() {
                return pair;
            }
        }
        assert!(Instant::now() < deadline, "nobody got it");
        thread::yield_now();
    }
}

fn offer(guest: &mut Guest, pairs: usize) {
    for pair in 0..pairs {
        let side = match pair {
            0 => &mut guest.rx,
            pair => &mut guest.more[2 * pair - 2],
        };
        for i in 0..16 {
            let at = RX_BUFFERS + (pair as u64 * 16 + i) * 2048;
            side.driver.add(&[], &[(at, 2048)]);
        }
        side.kick();
    }
}

#[test]
fn a_card_with_two_pairs_says_so() {
    in_namespace(|| {
        let (_, tap) = Host::with_queues(2);
        let device = NetDevice::new(tap, plain());
        assert_eq!(device.queue_sizes(), [256, 256, 256, 256, 64]);
        assert_eq!(device.features() & (MQ | CTRL_VQ), MQ | CTRL_VQ);
        let mut pairs = [0; 2];
        device.config().read(8, &mut pairs);
        assert_eq!(pairs, [2, 0]);
    });
}

#[test]
fn a_flow_comes_back_on_the_pair_that_it_went_out_on() {
    with_pairs(2, MQ | CTRL_VQ, |host, mut guest, counters, _| {
        offer(&mut guest, 2);
        speak(&host, &mut guest, 0);
        assert_eq!(answered_on(&host, &mut guest, 2), 0, "one is used at first");
        assert_eq!(guest.control(4, 0, &[2, 0]), OK);
        for pair in [1, 0, 1] {
            speak(&host, &mut guest, pair);
            assert_eq!(answered_on(&host, &mut guest, 2), pair);
        }
        assert_eq!(guest.control(4, 0, &[1, 0]), OK);
        assert_eq!(answered_on(&host, &mut guest, 2), 0);
        assert_eq!(counters.read().rx_frames, 5);
    });
}

#[test]
fn a_command_that_does_not_exist_or_asks_for_too_much_is_refused() {
    with_pairs(2, MQ | CTRL_VQ, |_, mut guest, _, _| {
        for (class, command, data) in [
            (4, 0, &[0, 0][..]),
            (4, 0, &[3, 0]),
            (4, 0, &[0, 0x80]),
            (4, 0, &[1]),
            (4, 0, &[]),
            (4, 1, &[1, 0]),
            (0, 0, &[1]),
            (255, 255, &[1, 0]),
        ] {
            let answer = guest.control(class, command, data);
            assert_eq!(answer, ERR, "{class} {command} {data:?}");
        }
        assert_eq!(guest.control(4, 0, &[2, 0]), OK);
    });
}

#[test]
fn a_driver_without_multi_queue_has_its_control_queue_after_the_first_pair() {
    with_pairs(2, CTRL_VQ, |host, mut guest, _, _| {
        offer(&mut guest, 1);
        guest.more.truncate(1);
        assert_eq!(guest.control(4, 0, &[2, 0]), ERR);
        assert_eq!(guest.control(4, 0, &[1, 0]), OK);
        speak(&host, &mut guest, 0);
        assert_eq!(answered_on(&host, &mut guest, 1), 0);
    });
}

#[test]
fn a_broken_ring_of_any_pair_breaks_the_card_and_a_reset_repairs_it() {
    with_pairs(3, MQ | CTRL_VQ, |host, mut guest, _, _| {
        assert_eq!(guest.control(4, 0, &[3, 0]), OK);
        let last = &guest.more[3];
        last.driver.publish(300);
        last.kick();
        guest.wait_until_broken();

        let guest = Guest::with_features(guest.deactivate(), MQ | CTRL_VQ);
        let control = guest.more.last().unwrap();
        control.driver.set_avail_idx(100);
        control.kick();
        guest.wait_until_broken();

        let mut guest = Guest::with_features(guest.deactivate(), MQ | CTRL_VQ);
        assert_eq!(guest.control(4, 0, &[3, 0]), OK);
        offer(&mut guest, 3);
        speak(&host, &mut guest, 2);
        assert_eq!(answered_on(&host, &mut guest, 3), 2);
    });
}

#[test]
fn a_tap_whose_queues_another_process_has_left_unused_is_whole_again() {
    with_pairs(2, 0, |host, mut guest, _, copy| {
        // The first card has done with the tap when it serves its queues.
        speak(&host, &mut guest, 0);
        // One pair is used, and the tap's second queue is not: so it stays when the process is killed.
        std::mem::forget(guest);
        let tap = Tap::from_fds(copy).unwrap();
        assert_eq!((tap.name(), tap.queue_count()), (host.name.as_str(), 2));
        let device = Box::new(NetDevice::new(tap, plain()));
        let mut guest = Guest::with_features(device, MQ | CTRL_VQ);
        assert_eq!(guest.control(4, 0, &[2, 0]), OK);
        offer(&mut guest, 2);
        speak(&host, &mut guest, 1);
        assert_eq!(answered_on(&host, &mut guest, 2), 1);
    });
}
