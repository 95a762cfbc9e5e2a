#![allow(clippy::unwrap_used, clippy::panic)]

use super::*;
use crate::console::ring;

const PATIENCE: Duration = Duration::from_secs(20);

/// A hub whose standard output is a file that nobody looks at, and the VMM's end of a run's console.
fn hub() -> (Running, UnixStream) {
    let running = Hub::over(Stdout::to(io::sink()).unwrap()).unwrap();
    let vmm = begin(&running);
    (running, vmm)
}

fn begin(running: &Running) -> UnixStream {
    let vmm = UnixStream::from(running.hub().begin_run().unwrap());
    vmm.set_read_timeout(Some(PATIENCE)).unwrap();
    vmm
}

fn attach(running: &Running, claim: Claim, history: Option<usize>) -> UnixStream {
    let (ours, theirs) = UnixStream::pair().unwrap();
    theirs.set_read_timeout(Some(PATIENCE)).unwrap();
    let shows = Shows::Terminal;
    let attached = running
        .hub()
        .attach(ours, claim, shows, history, Vec::new());
    attached.unwrap();
    theirs
}

fn read_until(stream: &mut UnixStream, end: &str) -> String {
    let mut text = Vec::new();
    let mut bytes = vec![0; 1 << 16];
    while !text.ends_with(end.as_bytes()) {
        match stream.read(&mut bytes) {
            Ok(n) if n > 0 => text.extend_from_slice(&bytes[..n]),
            other => panic!("{other:?} after {:?}", String::from_utf8_lossy(&text)),
        }
    }
    String::from_utf8(text).unwrap()
}

#[test]
fn a_megabyte_is_shown_and_shown_again_to_those_who_come_later() {
    let (running, mut vmm) = hub();
    let claims = running.hub().claims();
    let mut first = attach(&running, claims.viewer().unwrap(), None);
    let line = format!("{}\r\n", "x".repeat(98));
    let sent: String = (0..10_000)
        .map(|n| format!("{n:0>6}{}", &line[6..]))
        .collect();
    assert!(sent.len() <= ring::CAPACITY);
    let printer = thread::spawn({
        let sent = sent.clone();
        move || vmm.write_all(sent.as_bytes()).map(|()| vmm)
    });
    let end = "009999".to_owned() + &line[6..];
    assert!(read_until(&mut first, &end) == sent);
    drop(first);
    let mut second = attach(&running, claims.viewer().unwrap(), None);
    assert!(read_until(&mut second, &end) == sent);
    let mut last = attach(&running, claims.viewer().unwrap(), Some(1));
    assert_eq!(read_until(&mut last, "\r\n"), end);
    let _vmm = printer.join().unwrap().unwrap();
}

#[test]
fn what_one_types_arrives_and_what_others_type_does_not() {
    let (running, mut vmm) = hub();
    let claims = running.hub().claims();
    let mut looking = attach(&running, claims.viewer().unwrap(), Some(0));
    let mut typing = attach(
        &running,
        claims.writer("process 1", false).unwrap(),
        Some(0),
    );
    looking.write_all(b"nobody listens").unwrap();
    typing.write_all(b"ls\r").unwrap();
    let mut bytes = [0; 16];
    assert_eq!(vmm.read(&mut bytes).unwrap(), 3);
    assert_eq!(&bytes[..3], b"ls\r");

    assert!(claims.writer("process 2", false).is_err());
    let mut forced = attach(&running, claims.writer("process 2", true).unwrap(), Some(0));
    forced.write_all(b"id\r").unwrap();
    assert_eq!(vmm.read(&mut bytes).unwrap(), 3);
    assert_eq!(&bytes[..3], b"id\r");
    vmm.write_all(b"ok\r\n").unwrap();
    let seen = read_until(&mut typing, "ok\r\n");
    assert_eq!(
        seen,
        "\r\n[minivmm: process 2 types now, and you look on]\r\nok\r\n"
    );
    typing.write_all(b"not any more").unwrap();
    forced.write_all(b"x").unwrap();
    assert_eq!(vmm.read(&mut bytes).unwrap(), 1);
}

#[test]
fn one_who_types_without_pause_waits_and_nothing_is_lost() {
    let (running, mut vmm) = hub();
    let mut typing = attach(
        &running,
        running.hub().claims().writer("a", false).unwrap(),
        Some(0),
    );
    let sent: Vec<u8> = (0..2_000_000_u32).map(|n| (n % 251) as u8).collect();
    let typist = thread::spawn({
        let sent = sent.clone();
        move || typing.write_all(&sent).map(|()| typing)
    });
    let mut got = vec![0; sent.len()];
    vmm.read_exact(&mut got).unwrap();
    assert!(got == sent);
    drop(typist.join().unwrap().unwrap());
}

#[test]
fn a_viewer_that_takes_nothing_costs_neither_the_guest_nor_the_others_anything() {
    let (running, mut vmm) = hub();
    let claims = running.hub().claims();
    let _idle: Vec<_> = (0..8)
        .map(|_| attach(&running, claims.viewer().unwrap(), None))
        .collect();
    let mut reading = attach(&running, claims.viewer().unwrap(), None);
    let reader = thread::spawn(move || {
        let mut n = 0;
        let mut bytes = vec![0; 1 << 16];
        while n < 8 << 20 {
            n += reading.read(&mut bytes).unwrap();
        }
    });
    for _ in 0..8 << 4 {
        vmm.write_all(&[b'x'; 64 << 10]).unwrap();
    }
    reader.join().unwrap();
    // The end does not wait for them for long.
    let start = Instant::now();
    drop(vmm);
    running.hub().end_run();
    running.finish("the end");
    assert!(start.elapsed() < 10 * LAST_PATIENCE);
}

#[test]
fn of_a_panic_its_words_are_shown_and_what_led_to_them_however_long_its_trace_is() {
    let (running, mut vmm) = hub();
    let before = (0..50).map(|n| format!("before {n}\n"));
    let words = ["[ 1.0] Kernel panic - not syncing: Oops\n".to_owned()];
    let trace = (0..50).map(|n| format!("trace {n}\n"));
    let all: String = before.chain(words).chain(trace).collect();
    vmm.write_all(all.as_bytes()).unwrap();
    drop(vmm);
    running.hub().end_run();
    let lines = running.hub().last_words();
    assert_eq!(lines.len(), 30);
    assert_eq!(lines[0], "before 40");
    assert!(lines[10].contains("Kernel panic"));
    assert_eq!(lines[29], "trace 18");
    running.finish("the end");
}

#[test]
fn those_who_look_on_see_a_restart_and_how_the_vm_ended() {
    let (running, mut vmm) = hub();
    let mut viewer = attach(&running, running.hub().claims().viewer().unwrap(), None);
    vmm.write_all(b"\x1b[31mfirst\x1b[0m run\r\n").unwrap();
    drop(vmm);
    running.hub().end_run();
    assert_eq!(running.hub().last_words(), ["first run"]);
    running.hub().say("again");
    let mut vmm = begin(&running);
    vmm.write_all(b"second run").unwrap();
    drop(vmm);
    running.hub().end_run();
    assert_eq!(running.hub().last_words(), ["second run"]);
    assert_eq!(
        running.hub().history(2, 1 << 20),
        ["[minivmm: again]", "second run"]
    );
    running.finish("it is over");
    let mut text = String::new();
    viewer.read_to_string(&mut text).unwrap();
    assert_eq!(
        text,
        "\x1b[31mfirst\x1b[0m run\r\n\r\n[minivmm: again]\r\nsecond run\r\n[minivmm: it is over]\r\n"
    );
}

#[test]
fn one_who_says_no_more_is_shown_what_is_there_and_sent_away() {
    let (running, mut vmm) = hub();
    vmm.write_all(b"prompt> ").unwrap();
    let claims = running.hub().claims();
    let mut viewer = attach(&running, claims.writer("a", false).unwrap(), None);
    read_until(&mut viewer, "prompt> ");
    viewer.write_all(b"last\r").unwrap();
    viewer.shutdown(std::net::Shutdown::Write).unwrap();
    let mut text = String::new();
    viewer.read_to_string(&mut text).unwrap();
    let mut bytes = [0; 5];
    vmm.read_exact(&mut bytes).unwrap();
    assert_eq!(&bytes, b"last\r");
    assert!(claims.writer("b", false).is_ok(), "the place is free");
}
