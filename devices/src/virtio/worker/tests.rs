#![allow(clippy::unwrap_used, clippy::panic)]

use std::{sync::mpsc, time::Duration};

use super::*;
use crate::{
    test_utils::DEADLINE,
    virtio::{Activation, DeviceType},
};

const TICK: u32 = 7;

/// A device that cannot be told from another but by its queue size.
struct Device([u16; 1]);

impl VirtioDevice for Device {
    fn device_type(&self) -> DeviceType {
        DeviceType::Entropy
    }
    fn features(&self) -> u64 {
        0
    }
    fn queue_sizes(&self) -> &[u16] {
        &self.0
    }
    fn activate(self: Box<Self>, _: Activation) -> io::Result<Worker> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

/// Tells of every event, and waits for leave to go on.
struct Ticks {
    event: EventFd,
    seen: mpsc::Sender<u64>,
    leave: mpsc::Receiver<()>,
}

impl Handler for Ticks {
    fn start(&mut self, ops: &mut EventOps) {
        ops.add(Events::with_data(&self.event, TICK, EventSet::IN))
            .unwrap();
    }
    fn process(&mut self, events: Events, _: &mut EventOps) {
        assert_eq!(events.data(), TICK);
        self.seen.send(self.event.read().unwrap()).unwrap();
        self.leave.recv().unwrap();
    }
    fn stop(self: Box<Self>) -> Box<dyn VirtioDevice> {
        Box::new(Device([64]))
    }
}

struct Fixture {
    worker: Worker,
    event: EventFd,
    seen: mpsc::Receiver<u64>,
    leave: mpsc::Sender<()>,
}

fn ticks() -> Fixture {
    let event = EventFd::new(EFD_NONBLOCK).unwrap();
    let (seen_by_handler, seen) = mpsc::channel();
    let (leave, leave_for_handler) = mpsc::channel();
    let handler = Ticks {
        event: event.try_clone().unwrap(),
        seen: seen_by_handler,
        leave: leave_for_handler,
    };
    Fixture {
        worker: Worker::spawn("ticks\0", Box::new(handler)).unwrap(),
        event,
        seen,
        leave,
    }
}

fn soon() -> Instant {
    Instant::now() + DEADLINE
}

#[test]
fn a_stop_gives_the_device_back() {
    let Fixture { worker, .. } = ticks();
    worker.stop();
    worker.stop();
    assert!(worker.wait(soon()));
    assert_eq!(worker.join().unwrap().queue_sizes(), [64]);
}

#[test]
fn events_reach_the_handler() {
    let f = ticks();
    for n in 1..=3 {
        f.event.write(n).unwrap();
        assert_eq!(f.seen.recv_timeout(DEADLINE), Ok(n));
        f.leave.send(()).unwrap();
    }
    f.worker.stop();
    assert!(f.worker.join().is_some());
}

#[test]
fn a_stop_waits_for_the_event_in_flight() {
    let f = ticks();
    f.event.write(1).unwrap();
    assert_eq!(f.seen.recv_timeout(DEADLINE), Ok(1));
    f.worker.stop();
    assert!(!f.worker.is_finished());
    assert!(!f.worker.wait(Instant::now() + Duration::from_millis(1)));
    f.leave.send(()).unwrap();
    assert!(f.worker.wait(soon()));
    assert!(f.worker.join().is_some());
}

#[test]
fn a_worker_that_panics_gives_nothing_back() {
    let f = ticks();
    drop(f.leave);
    f.event.write(1).unwrap();
    assert!(f.worker.wait(soon()));
    assert!(f.worker.join().is_none());
}

#[test]
fn a_dropped_worker_ends() {
    let Fixture { worker, seen, .. } = ticks();
    drop(worker);
    assert_eq!(
        seen.recv_timeout(DEADLINE),
        Err(RecvTimeoutError::Disconnected)
    );
}
