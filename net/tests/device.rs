//! The card between a guest's queues and a real tap, with the host's UDP at the other end.
#![allow(missing_docs, clippy::unwrap_used, clippy::panic)]

mod common;

use std::{
    thread,
    time::{Duration, Instant},
};

use common::{
    card::{
        Guest, HEADER, HEADERS, Host, RX_BUFFERS, SOON, TABLE, TX_BUFFERS, idle_cost, plain,
        with_card,
    },
    in_namespace, ip,
};
use minivmm_devices::{
    test_utils::readable,
    virtio::{DeviceType, VirtioDevice},
};
use minivmm_net::{NetDevice, NetOptions};
use virtio_bindings::{
    virtio_config::VIRTIO_CONFIG_S_NEEDS_RESET, virtio_ring::VRING_DESC_F_INDIRECT,
};
use vm_memory::{Bytes, GuestAddress};

const IDLE: Duration = Duration::from_millis(30);

#[test]
fn the_card_shows_its_address_its_mtu_and_two_queues() {
    in_namespace(|| {
        let (_, tap) = Host::new();
        let device = NetDevice::new(
            tap,
            NetOptions {
                mtu: Some(9000),
                offload: false,
                ..plain()
            },
        );
        assert_eq!(device.device_type(), DeviceType::Net);
        assert_eq!(device.queue_sizes(), [256, 256]);
        let bits = [3, 5, 15, 16, 28, 29];
        assert_eq!(
            device.features(),
            bits.iter().fold(0, |sum, bit| sum | 1 << bit),
            "MTU, MAC, MRG_RXBUF, STATUS, INDIRECT_DESC, EVENT_IDX"
        );
        let mut config = [0xff; 14];
        device.config().read(0, &mut config);
        // The address, the link that is up, one pair, 9000.
        assert_eq!(config, [2, 0, 0, 0, 0, 1, 1, 0, 1, 0, 0x28, 0x23, 0, 0]);
    });
}

#[test]
fn a_frame_of_the_host_reaches_the_guest() {
    with_card(|host, mut guest, counters| {
        guest
            .memory
            .write_slice(&[0xff; 2048], GuestAddress(RX_BUFFERS))
            .unwrap();
        guest.offer(2048);
        host.send(b"hello, guest");
        let frame = guest.receive();
        assert_eq!(frame[..HEADER], [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0]);
        assert_eq!(frame[HEADER..HEADER + 6], [2, 0, 0, 0, 0, 1]);
        assert_eq!(frame.len(), HEADER + HEADERS + 12);
        assert_eq!(&frame[HEADER + HEADERS..], b"hello, guest");
        assert_eq!(counters.read().rx_frames, 1);
    });
}

#[test]
fn a_frame_is_spread_over_the_buffers_of_a_chain() {
    with_card(|host, mut guest, _| {
        let pieces: Vec<_> = (0..20).map(|i| (RX_BUFFERS + i * 7, 7)).collect();
        guest.rx.driver.add(&[], &pieces);
        guest.rx.kick();
        host.send(b"in pieces");
        assert!(guest.receive().ends_with(b"in pieces"));
    });
}

#[test]
fn a_frame_of_the_guest_reaches_the_host() {
    with_card(|host, mut guest, counters| {
        for (payload, sizes) in [
            (&b"at once"[..], &[][..]),
            (b"header apart", &[HEADER]),
            (b"header in two", &[5, 7]),
            (b"header with some", &[HEADER + 3, 1, 1, 1]),
        ] {
            guest.transmit(&host.frame(payload), sizes);
            assert_eq!(host.receive(), payload);
            assert_eq!(guest.tx.used().1, 0);
        }
        assert_eq!(counters.read().tx_frames, 4);
    });
}

#[test]
fn a_frame_in_an_indirect_table_reaches_the_host() {
    with_card(|host, guest, _| {
        let frame = host.frame(b"indirect");
        guest
            .memory
            .write_slice(&frame, GuestAddress(TX_BUFFERS))
            .unwrap();
        let len = u32::try_from(frame.len()).unwrap();
        let driver = &guest.tx.driver;
        driver.write_descriptor_at(TABLE, TX_BUFFERS, len, 0, 0);
        driver.write_descriptor(0, TABLE, 16, VRING_DESC_F_INDIRECT, 0);
        driver.publish(0);
        guest.tx.kick();
        assert_eq!(host.receive(), b"indirect");
    });
}

#[test]
fn malformed_frames_are_given_back_and_counted() {
    with_card(|host, mut guest, counters| {
        for len in [0_u32, 1, 11, 12, 25, 65563, 0x8_0000] {
            guest.tx.driver.add(&[(TX_BUFFERS, len)], &[]);
            guest.tx.kick();
            assert_eq!(guest.tx.used().1, 0);
        }
        assert_eq!(counters.read().tx_dropped, 7);
        // One that is to be written, not read, is an empty frame.
        guest.tx.driver.add(&[], &[(TX_BUFFERS, 100)]);
        guest.tx.kick();
        guest.tx.used();
        guest.transmit(&host.frame(b"good"), &[]);
        assert_eq!(host.receive(), b"good");
        assert_eq!(counters.read().tx_dropped, 8);
    });
}

#[test]
fn a_frame_larger_than_its_buffer_is_dropped_and_the_next_one_comes() {
    with_card(|host, mut guest, counters| {
        guest.offer(200);
        host.send(&[b'x'; 200 - HEADER - HEADERS + 1]);
        host.send(&[b'x'; 5000]);
        host.send(&[b'y'; 200 - HEADER - HEADERS]);
        let frame = guest.receive();
        assert_eq!(frame.len(), 200);
        assert_eq!(frame[199], b'y');
        assert_eq!(counters.read().rx_dropped, 2);
    });
}

#[test]
fn a_buffer_without_room_for_a_header_is_given_back_empty() {
    with_card(|host, mut guest, _| {
        let small = guest.rx.driver.add(&[], &[(RX_BUFFERS, 11)]);
        guest.offer(2048);
        host.send(b"for the next one");
        assert_eq!(guest.rx.used(), (small, 0));
        assert!(guest.receive().ends_with(b"for the next one"));
    });
}

#[test]
fn a_guest_without_buffers_costs_nothing_and_loses_nothing() {
    with_card(|host, mut guest, _| {
        guest.offer(2048);
        host.send(b"first");
        host.send(b"second");
        assert!(guest.receive().ends_with(b"first"));
        assert!(idle_cost(&host) < IDLE);
        assert!(
            !guest.rx.driver.no_notify(),
            "the driver must say when it has buffers"
        );
        guest.offer(2048);
        assert!(guest.receive().ends_with(b"second"));
    });
}

#[test]
fn a_queue_full_of_frames_is_an_interrupt_for_each_turn() {
    with_card(|host, mut guest, counters| {
        let frame = host.frame(b"one of many");
        guest
            .memory
            .write_slice(&frame, GuestAddress(TX_BUFFERS))
            .unwrap();
        let len = u32::try_from(frame.len()).unwrap();
        for _ in 0..256 {
            guest.tx.driver.add(&[(TX_BUFFERS, len)], &[]);
        }
        guest.tx.kick();
        // Its turn was used up while the driver was told not to notify: it takes another one by itself.
        let deadline = Instant::now() + SOON;
        while guest.tx.driver.no_notify() {
            assert!(Instant::now() < deadline, "the driver would never notify");
            thread::yield_now();
        }
        // The last one is raised after that.
        assert!(readable(&*guest.tx.call, SOON));
        assert!(idle_cost(&host) < IDLE);
        let interrupts = guest.tx.call.read().unwrap();
        assert!((1..=5).contains(&interrupts), "{interrupts}");
        for _ in 0..256 {
            assert!(guest.tx.driver.take_used().is_some());
        }
        assert_eq!(counters.read().tx_frames, 256);
    });
}

#[test]
fn a_driver_that_polls_is_not_interrupted() {
    with_card(|host, mut guest, counters| {
        guest.tx.driver.set_no_interrupt(true);
        guest.transmit(&host.frame(b"quiet"), &[]);
        assert_eq!(host.receive(), b"quiet");
        let call = guest.tx.call.clone();
        drop(guest.deactivate());
        assert_eq!(counters.read().tx_frames, 1);
        assert!(call.read().is_err());
    });
}

#[test]
fn a_broken_ring_needs_a_reset_which_repairs_it() {
    with_card(|host, guest, _| {
        guest.tx.driver.publish(256);
        guest.tx.kick();
        guest.wait_until_broken();
        assert!(idle_cost(&host) < IDLE);

        let guest = Guest::activate(guest.deactivate());
        guest.rx.driver.set_avail_idx(1000);
        host.send(b"to look at the ring");
        guest.rx.kick();
        guest.wait_until_broken();

        let mut guest = Guest::activate(guest.deactivate());
        guest.transmit(&host.frame(b"repaired"), &[]);
        assert_eq!(host.receive(), b"repaired");
        guest.offer(2048);
        assert!(guest.receive().ends_with(b"to look at the ring"));
    });
}

#[test]
fn a_tap_that_is_removed_leaves_a_card_without_a_link() {
    with_card(|host, mut guest, counters| {
        guest.offer(2048);
        let frame = host.frame(b"nobody");
        ip(&format!("link delete {}", host.name));
        let deadline = Instant::now() + SOON;
        // The removal ends some time after the command.
        while counters.read().tx_dropped < 2 && Instant::now() < deadline {
            guest.transmit(&frame, &[]);
            guest.tx.used();
        }
        assert!(counters.read().tx_dropped >= 2);
        assert!(idle_cost(&host) < IDLE);
        assert_eq!(guest.status.get() & VIRTIO_CONFIG_S_NEEDS_RESET as u8, 0);
        assert!(
            readable(&*guest.broken, SOON),
            "the configuration has changed"
        );
        let mut guest = Guest::activate(guest.deactivate());
        guest.offer(2048);
        guest.transmit(&frame, &[]);
        guest.tx.used();
        assert!(idle_cost(&host) < IDLE);
        let mut status = [0xff; 2];
        guest.deactivate().config().read(6, &mut status);
        assert_eq!(status, [0, 0], "the link is down");
    });
}
