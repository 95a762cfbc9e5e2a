//! Guests whose drivers break every rule.
#![allow(clippy::unwrap_used)]

mod common;

use common::{CID, Guest, SOON, Stream, device, from_guest, from_host, rest};
use minivmm_vsock::packet::{HEADER, Header, NOTHING, Op};

#[test]
fn packets_for_nobody_are_answered_by_a_reset_and_resets_by_nothing() {
    let (device, _asked) = device();
    let mut guest = Guest::activate(Box::new(device));
    let stream = Stream::new(77, 78);
    for op in [
        Op::Response,
        Op::Shutdown,
        Op::Data,
        Op::CreditUpdate,
        Op::CreditRequest,
    ] {
        stream.send(&mut guest, op, 0);
        stream.receive(&mut guest, Op::Reset);
    }
    stream.send(&mut guest, Op::Reset, 0);
    guest.hears_nothing();
    // An operation and a kind of socket that there is not.
    let header = stream.header(Op::Data, 0, 0);
    for header in [Header { op: 99, ..header }, Header { kind: 2, ..header }] {
        guest.send(&header, &[]);
        stream.receive(&mut guest, Op::Reset);
    }
}

#[test]
fn packets_from_or_to_others_are_dropped() {
    let (device, asked) = device();
    let mut guest = Guest::activate(Box::new(device));
    let header = Stream::new(9000, 1).header(Op::Request, 0, 0);
    for header in [
        Header {
            src_cid: CID + 1,
            ..header
        },
        Header {
            dst_cid: 1,
            ..header
        },
        Header {
            dst_cid: 2 | 1 << 32,
            ..header
        },
    ] {
        guest.send(&header, &[]);
    }
    guest.hears_nothing();
    assert!(asked.questions.try_recv().is_err());
}

#[test]
fn wrong_lengths_end_their_stream_alone() {
    let (device, asked) = device();
    let mut guest = Guest::activate(Box::new(device));
    let (other, mut other_client) = from_host(&asked, &mut guest);
    for len in [5, 0x1_0001, u32::MAX] {
        let (stream, mut client) = from_host(&asked, &mut guest);
        let header = Header {
            len,
            ..stream.header(Op::Data, 0, 0)
        };
        guest.send(&header, b"four");
        stream.receive(&mut guest, Op::Reset);
        assert_eq!(rest(&mut client), "");
    }
    guest.push_raw(&[0; HEADER - 1], &[]);
    assert!(guest.is_taken(SOON));
    other.send_data(&mut guest, b"fine");
    other.send(&mut guest, Op::Shutdown, NOTHING);
    other.receive(&mut guest, Op::Reset);
    assert_eq!(rest(&mut other_client), "fine");
    assert!(guest.is_fine());
}

#[test]
fn what_is_not_for_a_streams_state_ends_it() {
    let (device, asked) = device();
    let mut guest = Guest::activate(Box::new(device));
    for op in [Op::Request, Op::Response] {
        let (stream, mut client) = from_host(&asked, &mut guest);
        stream.send(&mut guest, op, 0);
        stream.receive(&mut guest, Op::Reset);
        assert_eq!(rest(&mut client), "");
    }
    // Bytes before it is connected, and after the guest had said that there are no more.
    let stream = Stream::new(9000, 1);
    stream.send(&mut guest, Op::Request, 0);
    stream.send_data(&mut guest, b"early");
    stream.receive(&mut guest, Op::Reset);
    let (id, _) = asked.questions.recv_timeout(SOON).unwrap();
    asked.answers.answer(id, None);
    let (stream, mut server) = from_guest(&asked, &mut guest, 1);
    stream.send(&mut guest, Op::Shutdown, 2);
    stream.send_data(&mut guest, b"late");
    stream.receive(&mut guest, Op::Reset);
    assert_eq!(rest(&mut server), "");
}

#[test]
fn a_broken_ring_ends_all_streams_until_the_driver_resets_the_device() {
    let (device, asked) = device();
    let mut guest = Guest::activate(Box::new(device));
    let (_stream, mut client) = from_host(&asked, &mut guest);
    guest.break_ring();
    guest.wait_until_broken();
    assert_eq!(rest(&mut client), "");
    // The worker is not asleep yet.
    let pause = || std::thread::sleep(std::time::Duration::from_millis(200));
    pause();
    let before = guest.sleeps();
    // A client waits for better times, and costs nothing meanwhile.
    let mut patient = asked.client_to(22);
    guest.break_ring();
    pause();
    assert_eq!(guest.sleeps(), before);
    let mut guest = Guest::activate(guest.deactivate());
    let (header, _) = guest.receive_op(Op::Request);
    Stream::new(header.src_port, 22).send(&mut guest, Op::Reset, 0);
    assert!(rest(&mut patient).starts_with("ERR refused: "));
}
