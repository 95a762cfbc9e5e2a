//! Statistics, when somebody asks.

use std::{
    sync::mpsc::{self, Receiver, TryRecvError},
    time::{Duration, Instant},
};

use super::*;

const BUFFER: u64 = 0x1_8000;

/// A driver with statistics, and its queue.
fn machine() -> (Machine, DriverQueue) {
    let machine = Machine::new(OPTIONS);
    let [queue] = machine.start(feature::STATS_VQ, [2]);
    (machine, queue)
}

/// Makes a buffer available that says how much memory is free.
fn give(machine: &Machine, queue: &mut DriverQueue, free: u64) -> u16 {
    let entry = [&4_u16.to_le_bytes()[..], &free.to_le_bytes()].concat();
    machine
        .memory
        .write_slice(&entry, GuestAddress(BUFFER))
        .unwrap();
    let head = queue.add(&[(BUFFER, entry.len() as u32)], &[]);
    assert!(machine.hypervisor.notify(machine.driver.notify_address(2)));
    head
}

fn ask(machine: &Machine) -> Receiver<BalloonState> {
    let (sender, receiver) = mpsc::channel();
    machine.control.ask(Box::new(move |state| {
        let _ = sender.send(state);
    }));
    receiver
}

fn free(state: BalloonState) -> Option<u64> {
    let (_, statistics) = state.statistics?;
    statistics.get(Statistic::Free)
}

/// Waits until the device has given a buffer back.
fn used(machine: &Machine, queue: &mut DriverQueue) -> u16 {
    loop {
        if let Some((head, written)) = queue.take_used() {
            assert_eq!(written, 0);
            return head;
        }
        assert!(machine.hypervisor.wait_interrupt(3, DEADLINE));
    }
}

/// Waits until the device has taken the first buffer.
fn first(machine: &Machine, queue: &mut DriverQueue) -> u16 {
    let head = give(machine, queue, 1);
    let until = Instant::now() + DEADLINE;
    while machine.control.state().statistics.is_none() {
        assert!(Instant::now() < until);
        std::thread::yield_now();
    }
    head
}

#[test]
fn a_question_is_answered_by_the_guest_with_one_buffer_again_and_again() {
    let (machine, mut queue) = machine();
    let mut head = first(&machine, &mut queue);
    for n in 2..20 {
        assert_eq!(queue.take_used(), None, "nobody has asked");
        let answer = ask(&machine);
        assert_eq!(used(&machine, &mut queue), head);
        head = give(&machine, &mut queue, n);
        let state = answer.recv_timeout(DEADLINE).unwrap();
        assert_eq!(free(state), Some(n));
    }
}

#[test]
fn those_who_ask_together_are_one_question() {
    let (machine, mut queue) = machine();
    first(&machine, &mut queue);
    let one = ask(&machine);
    used(&machine, &mut queue);
    let other = ask(&machine);
    give(&machine, &mut queue, 9);
    for answer in [one, other] {
        assert_eq!(free(answer.recv_timeout(DEADLINE).unwrap()), Some(9));
    }
}

#[test]
fn a_guest_that_does_not_answer_keeps_nobody_waiting() {
    let (machine, mut queue) = machine();
    first(&machine, &mut queue);
    let start = Instant::now();
    let answer = ask(&machine);
    let state = answer.recv_timeout(DEADLINE).unwrap();
    assert_eq!(free(state), Some(1), "what was known before");
    assert!(start.elapsed() >= Duration::from_secs(1));
    // And again, with the buffer still at the driver.
    let answer = ask(&machine);
    assert_eq!(free(answer.recv_timeout(DEADLINE).unwrap()), Some(1));
}

#[test]
fn where_nobody_can_answer_what_is_known_is_told_at_once() {
    let machine = Machine::new(OPTIONS);
    let at_once = |machine: &Machine| free(ask(machine).try_recv().unwrap());
    assert_eq!(at_once(&machine), None, "there is no driver");

    let [_queue] = machine.start(feature::PAGE_REPORTING, [0]);
    assert_eq!(at_once(&machine), None, "it gives no statistics");

    let [mut queue] = machine.start(feature::STATS_VQ, [2]);
    first(&machine, &mut queue);
    assert!(machine.driver.reset(DEADLINE));
    assert_eq!(at_once(&machine), None, "they were another driver's");
}

#[test]
fn who_waits_is_told_when_the_driver_goes_or_breaks_its_ring() {
    let (machine, mut queue) = machine();
    first(&machine, &mut queue);
    let answer = ask(&machine);
    used(&machine, &mut queue);
    assert_eq!(answer.try_recv(), Err(TryRecvError::Empty));
    assert!(machine.driver.reset(DEADLINE));
    assert_eq!(free(answer.recv_timeout(DEADLINE).unwrap()), None);

    let [mut queue] = machine.start(feature::STATS_VQ, [2]);
    first(&machine, &mut queue);
    let answer = ask(&machine);
    used(&machine, &mut queue);
    queue.set_avail_idx(1000);
    assert!(machine.hypervisor.notify(machine.driver.notify_address(2)));
    assert_eq!(free(answer.recv_timeout(DEADLINE).unwrap()), Some(1));
    assert!(machine.is_broken());
}

#[test]
fn a_driver_with_many_buffers_gets_all_but_the_last_back() {
    let (machine, mut queue) = machine();
    let heads: Vec<u16> = (1..=4).map(|n| give(&machine, &mut queue, n)).collect();
    for head in &heads[..3] {
        let until = Instant::now() + DEADLINE;
        let given = loop {
            if let Some((head, _)) = queue.take_used() {
                break head;
            }
            assert!(Instant::now() < until);
            std::thread::yield_now();
        };
        assert_eq!(given, *head);
    }
    assert_eq!(queue.take_used(), None);
    let answer = ask(&machine);
    assert_eq!(used(&machine, &mut queue), heads[3]);
    give(&machine, &mut queue, 5);
    assert_eq!(free(answer.recv_timeout(DEADLINE).unwrap()), Some(5));
}

#[test]
fn only_so_many_wait() {
    let (machine, mut queue) = machine();
    first(&machine, &mut queue);
    let answers: Vec<_> = (0..40).map(|_| ask(&machine)).collect();
    assert!(answers[39].try_recv().is_ok());
    assert_eq!(answers[0].try_recv(), Err(TryRecvError::Empty));
}
