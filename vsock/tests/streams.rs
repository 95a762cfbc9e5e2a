//! Streams, from both sides: bytes, ends, room.
#![allow(clippy::unwrap_used)]

mod common;

use std::{
    io::{ErrorKind, Read, Write},
    net::Shutdown,
};

use common::{Guest, ROOM, SOON, Stream, device, from_guest, from_host, rest};
use minivmm_vsock::packet::{NO_RECEIVE, NO_SEND, NOTHING, Op};

#[test]
fn bytes_go_both_ways_on_a_stream_that_the_host_wanted() {
    let (device, asked) = device();
    let mut guest = Guest::activate(Box::new(device));
    let (mut stream, mut client) = from_host(&asked, &mut guest);
    client.write_all(b"question").unwrap();
    assert_eq!(stream.receive_data(&mut guest), b"question");
    stream.send_data(&mut guest, b"answer");
    let mut answer = [0; 6];
    client.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"answer");
}

#[test]
fn bytes_go_both_ways_on_a_stream_that_the_guest_wanted() {
    let (device, asked) = device();
    let mut guest = Guest::activate(Box::new(device));
    let (mut stream, mut server) = from_guest(&asked, &mut guest, 1234);
    stream.send_data(&mut guest, b"question");
    let mut question = [0; 8];
    server.read_exact(&mut question).unwrap();
    assert_eq!(&question, b"question");
    server.write_all(b"answer").unwrap();
    assert_eq!(stream.receive_data(&mut guest), b"answer");
}

#[test]
fn what_follows_the_line_at_once_reaches_the_guest() {
    let (device, asked) = device();
    let mut guest = Guest::activate(Box::new(device));
    let mut client = asked.client();
    client.write_all(b"CONNECT 22\nearly").unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    let (header, _) = guest.receive_op(Op::Request);
    let mut stream = Stream::new(header.src_port, 22);
    stream.send(&mut guest, Op::Response, 0);
    assert_eq!(stream.receive_data(&mut guest), b"early");
    assert_eq!(stream.receive(&mut guest, Op::Shutdown), NO_SEND);
    stream.send_data(&mut guest, b"late");
    stream.send(&mut guest, Op::Shutdown, NOTHING);
    stream.receive(&mut guest, Op::Reset);
    assert_eq!(rest(&mut client), format!("OK {}\nlate", stream.host));
}

#[test]
fn the_guests_half_close_leaves_the_other_direction() {
    let (device, asked) = device();
    let mut guest = Guest::activate(Box::new(device));
    let (mut stream, mut client) = from_host(&asked, &mut guest);
    stream.send_data(&mut guest, b"all");
    stream.send(&mut guest, Op::Shutdown, NO_SEND);
    assert_eq!(rest(&mut client), "all");
    client.write_all(b"still").unwrap();
    assert_eq!(stream.receive_data(&mut guest), b"still");
    drop(client);
    assert_eq!(stream.receive(&mut guest, Op::Shutdown), NOTHING);
}

#[test]
fn the_hosts_half_close_leaves_the_other_direction_and_its_close_does_not() {
    let (device, asked) = device();
    let mut guest = Guest::activate(Box::new(device));
    let (mut stream, mut server) = from_guest(&asked, &mut guest, 1234);
    server.write_all(b"all").unwrap();
    server.shutdown(Shutdown::Write).unwrap();
    assert_eq!(stream.receive_data(&mut guest), b"all");
    assert_eq!(stream.receive(&mut guest, Op::Shutdown), NO_SEND);
    stream.send_data(&mut guest, b"still");
    let mut still = [0; 5];
    server.read_exact(&mut still).unwrap();
    assert_eq!(&still, b"still");
    drop(server);
    assert_eq!(stream.receive(&mut guest, Op::Shutdown), NOTHING);
    stream.send(&mut guest, Op::Reset, 0);
    // The ports are free again.
    from_guest(&asked, &mut guest, 1234);
}

#[test]
fn a_guest_that_takes_no_more_is_a_broken_pipe_for_the_host() {
    let (device, asked) = device();
    let mut guest = Guest::activate(Box::new(device));
    let (stream, mut client) = from_host(&asked, &mut guest);
    stream.send(&mut guest, Op::Shutdown, NO_RECEIVE);
    let error = client.write_all(b"x").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::BrokenPipe);
    stream.send_data(&mut guest, b"still");
    stream.send(&mut guest, Op::Shutdown, NO_SEND);
    stream.receive(&mut guest, Op::Reset);
    assert_eq!(rest(&mut client), "still");
}

#[test]
fn a_guest_that_takes_no_more_is_told_that_the_host_has_gone() {
    let (device, asked) = device();
    let mut guest = Guest::activate(Box::new(device));
    let (stream, mut client) = from_host(&asked, &mut guest);
    stream.send(&mut guest, Op::Shutdown, NO_RECEIVE);
    assert!(client.write_all(b"x").is_err());
    drop(client);
    assert_eq!(stream.receive(&mut guest, Op::Shutdown), NOTHING);
}

#[test]
fn a_host_that_takes_no_more_is_told_to_the_guest_which_may_go_on_sending() {
    let (device, asked) = device();
    let mut guest = Guest::activate(Box::new(device));
    let (mut stream, mut server) = from_guest(&asked, &mut guest, 1234);
    server.shutdown(Shutdown::Read).unwrap();
    for _ in 0..4 {
        // What it may not know yet is no mistake of the guest's, and its room comes back.
        stream.send_data(&mut guest, &[1; 0x8000]);
    }
    assert_eq!(stream.receive(&mut guest, Op::Shutdown), NO_RECEIVE);
    server.write_all(b"still").unwrap();
    assert_eq!(stream.receive_data(&mut guest), b"still");
}

#[test]
fn what_was_sent_before_the_guest_closed_is_not_lost_for_a_slow_reader() {
    let (device, asked) = device();
    let mut guest = Guest::activate(Box::new(device));
    let (stream, mut client) = from_host(&asked, &mut guest);
    // More than the socket holds: what is left stays in the device, as much as the guest has room for.
    let mut sent = 0_usize;
    let mut taken = 0_usize;
    let part = vec![7; 0x4000];
    while sent - taken + part.len() <= 0x1_0000 {
        stream.send_data(&mut guest, &part);
        sent += part.len();
        while let Some((header, _)) = guest.receive_within(std::time::Duration::from_millis(5)) {
            taken = header.fwd_cnt as usize;
        }
        assert!(sent < 0x40_0000, "the socket has no end");
    }
    stream.send(&mut guest, Op::Shutdown, NOTHING);
    stream.receive(&mut guest, Op::Reset);
    // Its ports are another's meanwhile.
    let mut read = Vec::new();
    client.read_to_end(&mut read).unwrap();
    assert_eq!(read.len(), sent);
    assert!(guest.is_fine());
}

#[test]
fn a_guest_gets_no_more_than_it_has_room_for_and_is_asked_once() {
    let (device, asked) = device();
    let mut guest = Guest::activate(Box::new(device));
    let (mut stream, mut client) = from_host(&asked, &mut guest);
    let all = vec![9; ROOM as usize + 10_000];
    let mut rest = std::thread::scope(|scope| {
        let writer = scope.spawn(|| client.write_all(&all).unwrap());
        let mut got = 0;
        while got < ROOM {
            let (header, _) = guest.receive_op(Op::Data);
            got += header.len;
        }
        assert_eq!(got, ROOM);
        stream.receive(&mut guest, Op::CreditRequest);
        guest.hears_nothing();
        stream.fwd_cnt = 5000;
        stream.send(&mut guest, Op::CreditUpdate, 0);
        while got < ROOM + 5000 {
            got += guest.receive_op(Op::Data).0.len;
        }
        assert_eq!(got, ROOM + 5000);
        stream.receive(&mut guest, Op::CreditRequest);
        guest.hears_nothing();
        stream.fwd_cnt = ROOM;
        stream.send(&mut guest, Op::CreditUpdate, 0);
        writer.join().unwrap();
        ROOM as usize + 10_000 - got as usize
    });
    while rest > 0 {
        rest -= guest.receive_op(Op::Data).0.len as usize;
    }
    assert!(asked.texts.try_recv().is_err());
}

#[test]
fn a_guest_that_sends_beyond_its_credit_loses_the_stream_and_no_other() {
    let (device, asked) = device();
    let mut guest = Guest::activate(Box::new(device));
    let (stream, _client) = from_host(&asked, &mut guest);
    let (_other, mut other_client) = from_guest(&asked, &mut guest, 1234);
    for _ in 0..100 {
        // Nobody reads: the socket takes some, the device 64 KiB.
        guest.push(&stream.header(Op::Data, 0, 0x8000), &[1; 0x8000]);
        assert!(guest.is_taken(SOON));
    }
    loop {
        let (header, _) = guest.receive();
        if header.op == Op::Reset as u16 {
            assert_eq!((header.src_port, header.dst_port), (stream.host, 22));
            break;
        }
    }
    other_client.write_all(b"fine").unwrap();
    loop {
        // Every packet more for what is gone has a reset of its own.
        let (header, data) = guest.receive();
        if header.op == Op::Data as u16 {
            assert_eq!(data, b"fine");
            break;
        }
        assert_eq!(header.op, Op::Reset as u16);
    }
    assert!(guest.is_fine());
}

#[test]
fn the_guest_is_told_its_room_when_it_asks() {
    let (device, asked) = device();
    let mut guest = Guest::activate(Box::new(device));
    let (stream, mut client) = from_host(&asked, &mut guest);
    stream.send_data(&mut guest, b"four");
    let mut four = [0; 4];
    client.read_exact(&mut four).unwrap();
    stream.send(&mut guest, Op::CreditRequest, 0);
    let (header, _) = guest.receive();
    assert_eq!(header.op, Op::CreditUpdate as u16);
    assert_eq!((header.buf_alloc, header.fwd_cnt), (0x1_0000, 4));
}

#[test]
fn megabytes_go_through_both_ways_with_event_indices() {
    let (device, asked) = device();
    let mut guest = Guest::without_buffers(Box::new(device), true);
    guest.offer(common::BUFFERS);
    let (mut stream, mut client) = from_host(&asked, &mut guest);
    let bytes: Vec<u8> = (0..3_000_000_u32)
        .map(|n| (n.wrapping_mul(n) >> 8) as u8)
        .collect();
    let mut reader = client.try_clone().unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            client.write_all(&bytes).unwrap();
            client.shutdown(Shutdown::Write).unwrap();
        });
        let back = scope.spawn(move || {
            let mut back = Vec::new();
            reader.read_to_end(&mut back).unwrap();
            back
        });
        // An echo that keeps to its credit.
        let (mut taken, mut sent, mut eof) = (0_u32, 0_u32, false);
        let mut kept = Vec::new();
        while !eof || !kept.is_empty() {
            let left = (0x1_0000 - sent.wrapping_sub(taken)) as usize;
            let part: Vec<u8> = kept.drain(..kept.len().min(left).min(20_000)).collect();
            if !part.is_empty() {
                stream.send_data(&mut guest, &part);
                sent += part.len() as u32;
                continue;
            }
            let (header, data) = guest.receive();
            taken = header.fwd_cnt;
            stream.fwd_cnt = stream.fwd_cnt.wrapping_add(header.len);
            kept.extend(data);
            eof |= header.op == Op::Shutdown as u16;
            stream.send(&mut guest, Op::CreditUpdate, 0);
        }
        stream.send(&mut guest, Op::Shutdown, NOTHING);
        assert!(back.join().unwrap() == bytes, "other bytes came back");
    });
    assert!(asked.questions.try_recv().is_err());
}
