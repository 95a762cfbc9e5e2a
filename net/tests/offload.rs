//! Unfinished frames in both directions: checksums, segments, and frames in several buffers.
#![allow(missing_docs, clippy::unwrap_used, clippy::panic)]

mod common;

use std::{
    os::fd::{AsRawFd, OwnedFd},
    thread,
    time::Instant,
};

use common::{
    card::{Guest, HEADER, HEADERS, Host, RX_BUFFERS, SOON, Side, plain, with_card, with_card_of},
    in_namespace,
};
use minivmm_devices::virtio::VirtioDevice;
use minivmm_net::{NetDevice, NetOptions, Tap};

use vm_memory::{Bytes, GuestAddress};

const CSUM: u64 = 1 << 0;
const GUEST_CSUM: u64 = 1 << 1;
const MRG_RXBUF: u64 = 1 << 15;
const EVENT_IDX: u64 = 1 << 29;
const GUEST_USO: u64 = 1 << 54 | 1 << 55;
const HOST_USO: u64 = 1 << 56;
/// gso_type of UDP segments.
const UDP_L4: u8 = 5;

/// Has the host's socket leave the cutting of datagrams to the card.
#[allow(unsafe_code)]
fn segment(host: &Host, size: i32) {
    const UDP_SEGMENT: i32 = 103;
    let (fd, value) = (host.socket.as_raw_fd(), (&raw const size).cast());
    // SAFETY: the option is an int, which `size` is.
    let set = unsafe { libc::setsockopt(fd, libc::IPPROTO_UDP, UDP_SEGMENT, value, 4) };
    assert_eq!(set, 0);
}

/// A frame of the guest whose UDP checksum is begun (the pseudo header's) and left to the other side.
fn unfinished(host: &Host, payload: &[u8], gso: Option<u16>) -> Vec<u8> {
    let mut frame = host.frame(payload);
    let udp = u32::try_from(8 + payload.len()).unwrap();
    let sum = 2 * 0xc000 + 0x0202 + 0x0201 + 17 + udp;
    let sum = u16::try_from((sum & 0xffff) + (sum >> 16)).unwrap();
    frame[HEADER + 40..HEADER + 42].copy_from_slice(&sum.to_be_bytes());
    frame[0] = 1;
    frame[6..8].copy_from_slice(&34_u16.to_le_bytes());
    frame[8..10].copy_from_slice(&6_u16.to_le_bytes());
    if let Some(size) = gso {
        frame[1] = UDP_L4;
        frame[2..4].copy_from_slice(&42_u16.to_le_bytes());
        frame[4..6].copy_from_slice(&size.to_le_bytes());
    }
    frame
}

/// Whether the host's taps segment UDP (Linux 6.2).
fn has_uso() -> bool {
    let mut has = false;
    in_namespace(|| {
        let (_, tap) = Host::new();
        has = NetDevice::new(tap, plain()).features() & HOST_USO != 0;
    });
    if !has {
        eprintln!("not shown: this kernel's taps do not segment UDP");
    }
    has
}

#[test]
fn a_checksum_is_finished_by_the_host_where_that_was_agreed() {
    with_card_of(CSUM, |host, mut guest, _| {
        guest.transmit(&unfinished(&host, b"to be summed", None), &[]);
        assert_eq!(host.receive(), b"to be summed");
    });
    with_card(|host, mut guest, counters| {
        guest.transmit(&unfinished(&host, b"to be summed", None), &[]);
        guest.tx.used();
        assert_eq!(counters.read().tx_dropped, 1, "it was not agreed");
        guest.transmit(&host.frame(b"whole"), &[]);
        assert_eq!(host.receive(), b"whole");
    });
}

#[test]
fn a_header_that_leads_out_of_its_frame_does_not_reach_the_kernel() {
    with_card_of(CSUM | HOST_USO, |host, mut guest, counters| {
        let good = unfinished(&host, b"0123456789", Some(5));
        for (at, value) in [(2, 0xffff_u16), (4, 0), (6, 0xffff), (8, 0xffff)] {
            let mut frame = good.clone();
            frame[at..at + 2].copy_from_slice(&value.to_le_bytes());
            guest.transmit(&frame, &[]);
            guest.tx.used();
        }
        assert_eq!(counters.read().tx_dropped, 4);
        guest.transmit(&host.frame(b"good"), &[]);
        assert_eq!(host.receive(), b"good");
    });
}

#[test]
fn a_large_frame_of_the_guest_is_cut_by_the_host() {
    if !has_uso() {
        return;
    }
    with_card_of(CSUM | HOST_USO, |host, mut guest, counters| {
        let payload: Vec<u8> = (0..4500_u32).map(|i| (i / 7) as u8).collect();
        guest.transmit(&unfinished(&host, &payload, Some(1000)), &[HEADER, 42]);
        for part in payload.chunks(1000) {
            assert_eq!(host.receive(), part);
        }
        guest.tx.used();
        assert_eq!(counters.read().tx_frames, 1);
    });
}

#[test]
fn a_large_frame_of_the_host_fills_many_buffers_that_are_used_at_once() {
    if !has_uso() {
        return;
    }
    let features = MRG_RXBUF | GUEST_CSUM | GUEST_USO;
    with_card_of(features, |host, mut guest, counters| {
        const SIZE: u32 = 1000;
        let mut heads = Vec::new();
        for i in 0..100 {
            let at = RX_BUFFERS + u64::from(i * SIZE);
            heads.push(guest.rx.driver.add(&[], &[(at, 7), (at + 7, SIZE - 7)]));
        }
        guest.rx.kick();
        // The card is at work when the first one has come.
        host.send(b"ready");
        assert_eq!(guest.rx.used().0, heads.remove(0));
        segment(&host, 1400);
        let payload: Vec<u8> = (0..60_000_u32).map(|i| (i / 11) as u8).collect();
        host.send(&payload);

        let len = HEADER + HEADERS + payload.len();
        let buffers = len.div_ceil(SIZE as usize);
        let deadline = Instant::now() + SOON;
        let first = loop {
            match guest.rx.driver.used_idx() {
                1 => thread::yield_now(),
                seen => break usize::from(seen - 1),
            }
            assert!(Instant::now() < deadline, "no frame came");
        };
        assert_eq!(first, buffers, "one move of the used index");
        let mut left = len;
        for head in &heads[..buffers] {
            let filled = left.min(SIZE as usize);
            assert_eq!(guest.rx.used(), (*head, u32::try_from(filled).unwrap()));
            left -= filled;
        }
        let mut frame = vec![0; len];
        let at = GuestAddress(RX_BUFFERS + u64::from(SIZE));
        guest.memory.read_slice(&mut frame, at).unwrap();
        assert_eq!(frame[..2], [1, UDP_L4], "unfinished, in segments");
        assert_eq!(frame[4..6], 1400_u16.to_le_bytes());
        assert_eq!(frame[10..12], u16::try_from(buffers).unwrap().to_le_bytes());
        assert!(frame.ends_with(&payload));

        // The next one goes into the buffers that follow, when there is room for the largest again.
        for _ in 0..50 {
            guest.rx.driver.add(&[], &[(RX_BUFFERS, SIZE)]);
        }
        guest.rx.kick();
        segment(&host, 0);
        host.send(b"small");
        assert_eq!(guest.rx.used().0, heads[buffers]);
        assert_eq!(counters.read().rx_frames, 3);
    });
}

#[test]
fn without_the_agreement_the_host_cuts_and_sums_itself() {
    with_card_of(MRG_RXBUF, |host, mut guest, _| {
        for i in 0..64 {
            guest.rx.driver.add(&[], &[(RX_BUFFERS + 2048 * i, 2048)]);
        }
        guest.rx.kick();
        segment(&host, 1000);
        host.send(&[0x33; 3000]);
        for i in 0..3 {
            let (_, len) = guest.rx.used();
            assert_eq!(len as usize, HEADER + HEADERS + 1000);
            let mut header = [0xff; HEADER];
            let at = GuestAddress(RX_BUFFERS + 2048 * i);
            guest.memory.read_slice(&mut header, at).unwrap();
            assert_eq!(header, [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0]);
        }
    });
}

#[test]
fn a_driver_with_few_buffers_gets_what_fits_into_them() {
    with_card_of(MRG_RXBUF, |host, mut guest, counters| {
        for i in 0..4 {
            guest.rx.driver.add(&[], &[(RX_BUFFERS + 1000 * i, 1000)]);
        }
        guest.rx.kick();
        host.send(&[0x11; 5000]);
        host.send(&[0x22; 2500]);
        for len in [1000, 1000, HEADER + HEADERS + 2500 - 2000] {
            assert_eq!(guest.rx.used().1 as usize, len);
        }
        assert_eq!(counters.read().rx_dropped, 1);
    });
}

#[test]
fn a_driver_that_had_enough_buffers_is_waited_for() {
    with_card_of(MRG_RXBUF, |host, mut guest, counters| {
        // 70,000 bytes, which the largest frame fits into, but no second one.
        let sizes = [60_000, 5_000, 5_000];
        for (at, size) in [0, 60_000, 65_000].into_iter().zip(sizes) {
            guest.rx.driver.add(&[], &[(RX_BUFFERS + at, size)]);
        }
        guest.rx.kick();
        host.send(b"first");
        assert_eq!(guest.rx.used().1 as usize, HEADER + HEADERS + 5);
        host.send(b"second");
        guest.rx.driver.add(&[], &[(RX_BUFFERS, 60_000)]);
        guest.rx.kick();
        assert_eq!(guest.rx.used().1 as usize, HEADER + HEADERS + 6);
        assert_eq!(counters.read().rx_dropped, 0);
    });
}

/// Takes a used buffer without waiting for an interrupt.
fn poll(side: &mut Side) {
    let deadline = Instant::now() + SOON;
    while side.driver.take_used().is_none() {
        assert!(Instant::now() < deadline, "no used buffer");
        thread::yield_now();
    }
}

#[test]
fn with_event_indices_both_sides_are_told_only_what_they_ask_for() {
    with_card_of(EVENT_IDX, |host, mut guest, counters| {
        for i in 0..4 {
            guest.rx.driver.add(&[], &[(RX_BUFFERS + 2048 * i, 2048)]);
        }
        guest.rx.driver.set_used_event(1);
        guest.rx.kick();
        for payload in [b"one", b"two"] {
            host.send(payload);
            poll(&mut guest.rx);
        }

        let frame = host.frame(b"answer");
        for _ in 0..3 {
            guest.transmit(&frame, &[]);
            assert_eq!(host.receive(), b"answer");
            poll(&mut guest.tx);
        }
        let deadline = Instant::now() + SOON;
        while guest.tx.driver.avail_event() != 3 {
            assert!(
                Instant::now() < deadline + SOON,
                "no notification is wanted"
            );
            thread::yield_now();
        }
        let (rx, tx) = (guest.rx.call.clone(), guest.tx.call.clone());
        drop(guest.deactivate());
        // Of the two that came the second was asked for, of those that went the first: the event field is zero.
        assert_eq!(rx.read().unwrap(), 1);
        assert_eq!(tx.read().unwrap(), 1);
        assert_eq!(counters.read().tx_frames, 3);
    });
}

#[test]
fn the_next_driver_and_the_next_process_find_the_tap_as_it_was() {
    if !has_uso() {
        return;
    }
    in_namespace(|| {
        let (host, tap) = Host::new();
        let copy: Vec<OwnedFd> = tap
            .fds()
            .map(|fd| fd.try_clone_to_owned().unwrap())
            .collect();
        segment(&host, 1000);
        let expect_segments = |guest: &mut Guest| {
            for i in 0..64 {
                guest.rx.driver.add(&[], &[(RX_BUFFERS + 2048 * i, 2048)]);
            }
            guest.rx.kick();
            host.send(&[0x44; 2000]);
            for _ in 0..2 {
                assert_eq!(guest.rx.used().1 as usize, HEADER + HEADERS + 1000);
            }
        };
        let device = Box::new(NetDevice::new(tap, plain()));
        let all = MRG_RXBUF | GUEST_CSUM | GUEST_USO;
        let device = Guest::with_features(device, all).deactivate();
        let mut guest = Guest::with_features(device, MRG_RXBUF);
        expect_segments(&mut guest);
        // As when a VMM is killed: nobody has set anything back.
        let device = guest.deactivate();
        let mut guest = Guest::with_features(device, all);
        guest.offer(2048);
        host.send(b"at work");
        guest.receive();
        std::mem::forget(guest);

        let tap = Tap::from_fds(copy).unwrap();
        let options = NetOptions {
            offload: false,
            ..plain()
        };
        let mut guest = Guest::with_features(Box::new(NetDevice::new(tap, options)), MRG_RXBUF);
        expect_segments(&mut guest);
    });
}
