//! Back ends that mean harm, or hang: the device notices, in bounded time, and nothing panics.
#![allow(missing_docs, clippy::unwrap_used, clippy::panic)]

mod common;

use std::{
    io::{Read, Write},
    os::unix::net::UnixStream,
    sync::mpsc::{self, Receiver, Sender},
    thread,
    time::{Duration, Instant},
};

use common::{Guest, SOON, back_end::*, needs_reset, tag};
use minivmm_devices::test_utils::readable;
use minivmm_fs::FsDevice;
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

/// What a back end does instead of its answer.
#[derive(Clone, Copy, Debug)]
enum Harm {
    Close,
    Noise,
    /// An answer whose header promises more than any message has.
    Endless,
    /// An answer that is shorter than it must be, and then the end.
    Short,
    /// An answer that is a refusal or a number out of range.
    Nonsense,
    /// The right answer, and another one that nobody asked for.
    Twice,
    Silence,
}

use Harm::*;

/// Behaves well for `patience` requests, then does harm once, and goes on as if nothing had happened. Sends a word when
/// it has come to that.
fn back_end(mut socket: UnixStream, patience: usize, harm: Harm, harmed: &Sender<()>) {
    for n in 0.. {
        let Some(request) = next_request(&mut socket) else {
            return;
        };
        if n != patience {
            answer_well(&mut socket, request);
            continue;
        }
        let _ = harmed.send(());
        // The front end may have hung up in the middle: that is its right.
        let _ = match harm {
            Close => return,
            Noise => socket.write_all(&[0xa5; 300]),
            Endless => send(&mut socket, request.code, u32::MAX, &[0; 64]),
            Short => {
                let _ = send(&mut socket, request.code, 8, &[0; 3]);
                return;
            }
            Nonsense => send(&mut socket, request.code, 8, &u64::MAX.to_le_bytes()),
            Twice => {
                answer_well(&mut socket, request);
                send(&mut socket, request.code, 8, &[0; 8])
            }
            Silence => socket.read_to_end(&mut Vec::new()).map(drop),
        };
    }
}

fn send(socket: &mut UnixStream, code: u32, size: u32, body: &[u8]) -> std::io::Result<()> {
    let words = [code, 1 | 4, size];
    socket.write_all(&words.map(u32::to_le_bytes).concat())?;
    socket.write_all(body)
}

/// Uses a device from beginning to end with such a back end; says whether it came to the harm, and how long it took.
fn survive(patience: usize, harm: Harm) -> (bool, Duration) {
    let begin = Instant::now();
    let (ours, theirs) = UnixStream::pair().unwrap();
    let (harmed, came) = mpsc::channel();
    let back_end = thread::spawn(move || {
        // A test's own write fails where the front end has hung up already.
        let _ = std::panic::catch_unwind(|| back_end(theirs, patience, harm, &harmed));
    });
    if let Ok(device) = FsDevice::connect(ours, &tag(), Box::new(|| {})) {
        let guest = Guest::activate(Box::new(device)).reset();
        drop(guest.deactivate());
    }
    back_end.join().unwrap();
    (came.try_recv().is_ok(), begin.elapsed())
}

#[test]
fn harm_at_any_moment_is_survived_at_once() {
    for harm in [Close, Noise, Endless, Short, Nonsense, Twice] {
        let mut steps = 0;
        loop {
            let (came, took) = survive(steps, harm);
            assert!(
                took < Duration::from_secs(4),
                "{harm:?} at {steps}: {took:?}"
            );
            if !came {
                break;
            }
            steps += 1;
        }
        // Negotiation, two activations, two resets.
        assert!(steps > 40, "{harm:?} was possible at {steps} moments only");
    }
}

#[test]
fn silence_at_any_moment_costs_the_deadline() {
    let moments = [0, 1, 3, 5, 6, 7, 12, 17, 19, 20, 22, 23, 30];
    let threads = moments.map(|moment| thread::spawn(move || (moment, survive(moment, Silence))));
    for thread in threads {
        let (moment, (came, took)) = thread.join().unwrap();
        assert!(came, "at {moment}");
        assert!((5..7).contains(&took.as_secs()), "at {moment}: {took:?}");
    }
}

/// A guest with an obedient back end that never looks at its queues, and the codes of the requests of the front end.
fn lazy() -> (Guest, EventFd, Receiver<u32>, UnixStream) {
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    let plug = theirs.try_clone().unwrap();
    let (send, requests) = mpsc::channel();
    thread::spawn(move || {
        while let Some(request) = next_request(&mut theirs) {
            // Whom nobody listens to any more, answers no more.
            if send.send(request.code).is_ok() {
                answer_well(&mut theirs, request);
            }
        }
    });
    let lost = EventFd::new(EFD_NONBLOCK).unwrap();
    let signal = lost.try_clone().unwrap();
    let on_lost = Box::new(move || signal.write(1).unwrap());
    let device = FsDevice::connect(ours, &tag(), on_lost).unwrap();
    (Guest::activate(Box::new(device)), lost, requests, plug)
}

fn wait_for_ping(requests: &Receiver<u32>) {
    while requests.recv_timeout(SOON).unwrap() != GET_FEATURES {}
}

#[test]
fn one_that_answers_may_take_as_long_as_it_likes_for_a_guests_request() {
    let (mut guest, lost, requests, _plug) = lazy();
    // The one of the negotiation.
    wait_for_ping(&requests);
    guest.leave_pending();
    for _ in 0..3 {
        wait_for_ping(&requests);
    }
    assert!(lost.read().is_err() && !needs_reset(&guest.status()));
}

#[test]
fn one_that_answers_neither_the_guest_nor_us_is_lost() {
    let (mut guest, lost, requests, _plug) = lazy();
    wait_for_ping(&requests);
    guest.leave_pending();
    wait_for_ping(&requests);
    drop(requests);
    assert!(readable(&lost, SOON));
    let status = guest.status();
    drop(guest.deactivate());
    assert!(needs_reset(&status));
}

#[test]
fn a_guest_without_requests_has_its_back_end_left_alone() {
    let (guest, lost, requests, _plug) = lazy();
    wait_for_ping(&requests);
    while let Ok(code) = requests.recv_timeout(Duration::from_secs(3)) {
        assert_ne!(code, GET_FEATURES, "it was asked");
    }
    assert!(lost.read().is_err() && !needs_reset(&guest.status()));
}
