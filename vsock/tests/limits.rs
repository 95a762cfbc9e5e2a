//! What is not allowed, too much, too slow, or told by the guest of itself.
#![allow(clippy::unwrap_used)]

mod common;

use std::{io::Write, thread, time::Duration};

use common::{BUFFERS, Guest, SOON, Stream, device, from_guest, from_host, rest};
use minivmm_vsock::{
    CONNECTIONS, HALF_OPEN, NOTIFY_BURST, NOTIFY_PORT, NOTIFY_STREAMS, NOTIFY_TEXT, RESETS,
    packet::{NO_RECEIVE, NO_SEND, NOTHING, Op},
};

#[test]
fn a_client_is_told_why_it_is_sent_away() {
    let (device, asked) = device();
    let mut guest = Guest::activate(Box::new(device));
    let said = rest(&mut asked.client_to(23));
    assert!(said.starts_with("ERR not-allowed: "), "{said}");
    assert!(said.contains("\"guest:23\""), "{said}");
    let mut client = asked.client();
    client.write_all(b"GET / HTTP/1.1\r\n").unwrap();
    let said = rest(&mut client);
    assert!(said.starts_with("ERR malformed: "), "{said}");
    guest.hears_nothing();
    // The guest says no.
    let mut client = asked.client_to(22);
    let (header, _) = guest.receive_op(Op::Request);
    Stream::new(header.src_port, 22).send(&mut guest, Op::Reset, 0);
    let said = rest(&mut client);
    assert!(said.starts_with("ERR refused: "), "{said}");
}

#[test]
fn a_client_that_goes_before_the_guest_answers_takes_its_wish_back() {
    let (device, asked) = device();
    let mut guest = Guest::activate(Box::new(device));
    let client = asked.client_to(22);
    let (header, _) = guest.receive_op(Op::Request);
    drop(client);
    let stream = Stream::new(header.src_port, 22);
    stream.receive(&mut guest, Op::Reset);
    // Too late.
    stream.send(&mut guest, Op::Response, 0);
    stream.receive(&mut guest, Op::Reset);
}

#[test]
fn a_client_that_says_nothing_is_sent_away_after_a_while() {
    let (device, asked) = device();
    let _guest = Guest::activate(Box::new(device));
    let said = rest(&mut asked.client());
    assert!(said.starts_with("ERR timeout: no line"), "{said}");
}

#[test]
fn a_guest_that_does_not_answer_is_told_of_after_a_while() {
    let (device, asked) = device();
    let mut guest = Guest::activate(Box::new(device));
    let mut client = asked.client_to(22);
    let (header, _) = guest.receive_op(Op::Request);
    let wanted = Stream::new(9000, 1);
    wanted.send(&mut guest, Op::Request, 0);
    let (id, _) = asked.questions.recv_timeout(SOON).unwrap();
    let said = rest(&mut client);
    assert!(
        said.starts_with("ERR timeout: the guest does not answer"),
        "{said}"
    );
    Stream::new(header.src_port, 22).receive(&mut guest, Op::Reset);
    // Neither does the host, and its answer comes too late.
    wanted.receive(&mut guest, Op::Reset);
    let (ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
    ours.set_read_timeout(Some(SOON)).unwrap();
    asked.answers.answer(id, Some(theirs));
    assert_eq!(rest(&mut { ours }), "");
}

#[test]
fn ports_of_the_host_that_are_not_allowed_or_have_nobody_are_refused() {
    let (device, asked) = device();
    let mut guest = Guest::activate(Box::new(device));
    let stream = Stream::new(9001, 1);
    stream.send(&mut guest, Op::Request, 0);
    stream.receive(&mut guest, Op::Reset);
    let stream = Stream::new(9000, 1);
    stream.send(&mut guest, Op::Request, 0);
    let (id, _) = asked.questions.recv_timeout(SOON).unwrap();
    asked.answers.answer(id + 1, None);
    asked.answers.answer(id, None);
    stream.receive(&mut guest, Op::Reset);
    assert!(asked.questions.try_recv().is_err());
}

#[test]
fn a_flood_of_clients_is_refused_and_the_others_go_on() {
    let (device, asked) = device();
    let mut guest = Guest::activate(Box::new(device));
    let (mut stream, mut client) = from_host(&asked, &mut guest);
    let silent: Vec<_> = (0..HALF_OPEN).map(|_| asked.client()).collect();
    for _ in 0..50 {
        let said = rest(&mut asked.client());
        assert!(said.starts_with("ERR full: "), "{said}");
    }
    client.write_all(b"fine").unwrap();
    assert_eq!(stream.receive_data(&mut guest), b"fine");
    drop(silent);
    // Their places are free.
    from_host(&asked, &mut guest);
}

#[test]
fn a_flood_of_the_guests_is_refused_and_the_others_go_on() {
    let (device, asked) = device();
    let mut guest = Guest::activate(Box::new(device));
    let request = |guest: &mut Guest, port| {
        Stream::new(9000, port).send(guest, Op::Request, 0);
    };
    for port in 0..HALF_OPEN as u32 {
        request(&mut guest, port);
    }
    request(&mut guest, 1000);
    Stream::new(9000, 1000).receive(&mut guest, Op::Reset);
    for _ in 0..HALF_OPEN {
        let (id, _) = asked.questions.recv_timeout(SOON).unwrap();
        asked.answers.answer(id, None);
        guest.receive_op(Op::Reset);
    }
    let mut all: Vec<_> = (0..CONNECTIONS as u32)
        .map(|port| from_guest(&asked, &mut guest, port))
        .collect();
    request(&mut guest, 1000);
    Stream::new(9000, 1000).receive(&mut guest, Op::Reset);
    let said = rest(&mut asked.client());
    assert!(said.starts_with("ERR full: "), "{said}");
    for (stream, mut server) in all.split_off(200) {
        stream.send_data(&mut guest, b"fine");
        stream.send(&mut guest, Op::Shutdown, NOTHING);
        stream.receive(&mut guest, Op::Reset);
        assert_eq!(rest(&mut server), "fine");
    }
    from_host(&asked, &mut guest);
    drop(all);
}

#[test]
fn a_guest_that_takes_no_resets_is_not_listened_to_until_it_does() {
    let (device, _asked) = device();
    let mut guest = Guest::without_buffers(Box::new(device), false);
    let unknown = Stream::new(1, 1).header(Op::Data, 0, 0);
    for _ in 0..RESETS {
        guest.send(&unknown, &[]);
    }
    guest.push(&unknown, &[]);
    assert!(!guest.is_taken(Duration::from_millis(100)));
    guest.offer(BUFFERS);
    assert!(guest.is_taken(SOON));
    for _ in 0..=RESETS {
        guest.receive_op(Op::Reset);
    }
    guest.hears_nothing();
}

#[test]
fn streams_that_are_idle_or_cannot_go_on_wake_nobody() {
    let (device, asked) = device();
    let mut guest = Guest::activate(Box::new(device));
    let idle: Vec<_> = (0..10).map(|_| from_host(&asked, &mut guest)).collect();
    // One whose client has written and gone, and for which the guest has no room.
    let (mut full, mut client) = from_host(&asked, &mut guest);
    full.buf_alloc = 0;
    full.send(&mut guest, Op::CreditUpdate, 0);
    client.write_all(b"waits").unwrap();
    full.receive(&mut guest, Op::CreditRequest);
    drop(client);
    assert_eq!(full.receive(&mut guest, Op::Shutdown), NO_RECEIVE);
    // One whose client has half closed.
    let (half, client) = from_host(&asked, &mut guest);
    client.shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(half.receive(&mut guest, Op::Shutdown), NO_SEND);
    // Time passes: that is what is measured.
    thread::sleep(Duration::from_millis(100));
    let before = guest.sleeps();
    thread::sleep(Duration::from_millis(500));
    assert_eq!(guest.sleeps() - before, 0, "it woke up");
    full.buf_alloc = common::ROOM;
    full.send(&mut guest, Op::CreditUpdate, 0);
    assert_eq!(full.receive_data(&mut guest), b"waits");
    assert_eq!(full.receive(&mut guest, Op::Shutdown), NOTHING);
    drop((idle, client));
}

fn notify(guest: &mut Guest, port: u32, text: &[u8]) -> Stream {
    let stream = Stream::new(NOTIFY_PORT, port);
    stream.send(guest, Op::Request, 0);
    stream.receive(guest, Op::Response);
    stream.send_data(guest, text);
    stream
}

#[test]
fn what_the_guest_tells_of_itself_is_handed_over_and_its_stream_closed() {
    let (device, asked) = device();
    let mut guest = Guest::activate(Box::new(device));
    for port in 0..100 {
        let stream = notify(&mut guest, port, b"STATUS=Starting\n");
        stream.send_data(&mut guest, b"READY=1\n");
        stream.send(&mut guest, Op::Shutdown, NO_SEND);
        assert_eq!(stream.receive(&mut guest, Op::Shutdown), NOTHING);
        stream.send(&mut guest, Op::Reset, 0);
        let text = asked.texts.recv_timeout(SOON).unwrap();
        assert_eq!(text, b"STATUS=Starting\nREADY=1\n");
    }
    assert!(asked.questions.try_recv().is_err(), "nobody was asked");
    guest.hears_nothing();
    // A long one is cut, and does not wait for its end; one that says nothing is none.
    let stream = notify(&mut guest, 1, &[b'x'; NOTIFY_TEXT + 1]);
    assert_eq!(stream.receive(&mut guest, Op::Shutdown), NOTHING);
    assert_eq!(asked.texts.recv_timeout(SOON).unwrap().len(), NOTIFY_TEXT);
    let stream = Stream::new(NOTIFY_PORT, 2);
    stream.send(&mut guest, Op::Request, 0);
    stream.send(&mut guest, Op::Shutdown, NOTHING);
    stream.receive(&mut guest, Op::Response);
    stream.receive(&mut guest, Op::Shutdown);
    assert!(asked.texts.try_recv().is_err());
}

#[test]
fn a_guest_that_tells_without_end_is_heard_now_and_then() {
    let (device, asked) = device();
    let mut guest = Guest::activate(Box::new(device));
    let count = NOTIFY_BURST + 500;
    for port in 0..count {
        let stream = notify(&mut guest, port, b"READY=1\n");
        stream.send(&mut guest, Op::Shutdown, NO_SEND);
        stream.receive(&mut guest, Op::Shutdown);
    }
    let heard = asked.texts.try_iter().count() as u32;
    assert!((NOTIFY_BURST..count).contains(&heard), "{heard}");
    // As many as there may be that do not come to an end.
    for port in 0..NOTIFY_STREAMS as u32 {
        notify(&mut guest, port, b"x");
    }
    let stream = Stream::new(NOTIFY_PORT, 1000);
    stream.send(&mut guest, Op::Request, 0);
    stream.receive(&mut guest, Op::Reset);
    let _other = from_host(&asked, &mut guest);
    // They are given up after a while.
    guest.receive_op(Op::Reset);
}
