//! Who is told what, and when: notifications, interrupts, and used entries that become visible together.

use super::*;

#[test]
fn used_entries_are_seen_together_when_they_are_published() {
    let mut f = fixture();
    let heads: Vec<u16> = (0..3)
        .map(|_| f.driver.add(&[], &[(BUFFERS, 16)]))
        .collect();
    for (written, &head) in (10..).zip(&heads) {
        assert_eq!(f.pop(), Ok(true));
        f.queue.write_used(&f.memory, head, written).unwrap();
        assert_eq!(f.driver.take_used(), None);
    }
    f.queue.publish_used(&f.memory).unwrap();
    assert_eq!(f.driver.used_idx(), 3);
    for (written, &head) in (10..).zip(&heads) {
        assert_eq!(f.driver.take_used(), Some((head, written)));
    }
    assert_eq!(f.driver.take_used(), None);
}

#[test]
fn the_driver_says_by_a_flag_whether_it_wants_interrupts() {
    let mut f = fixture();
    assert_eq!(f.queue.needs_interrupt(&f.memory), Ok(false), "of nothing");
    f.queue.push_used(&f.memory, 0, 0).unwrap();
    assert_eq!(f.queue.needs_interrupt(&f.memory), Ok(true));
    assert_eq!(f.queue.needs_interrupt(&f.memory), Ok(false), "twice");
    f.driver.set_no_interrupt(true);
    f.queue.push_used(&f.memory, 0, 0).unwrap();
    assert_eq!(f.queue.needs_interrupt(&f.memory), Ok(false));
}

#[test]
fn the_driver_says_by_an_index_when_it_wants_an_interrupt() {
    let mut f = fixture();
    f.queue = f.driver.queue_with_event_idx();
    // With event indices the flag has no meaning (2.7.7).
    f.driver.set_no_interrupt(true);
    f.driver.set_used_event(1);
    f.queue.push_used(&f.memory, 0, 0).unwrap();
    assert_eq!(f.queue.needs_interrupt(&f.memory), Ok(false));
    f.queue.push_used(&f.memory, 1, 0).unwrap();
    assert_eq!(f.queue.needs_interrupt(&f.memory), Ok(true));
    f.queue.push_used(&f.memory, 2, 0).unwrap();
    assert_eq!(f.queue.needs_interrupt(&f.memory), Ok(false));
    f.driver.set_used_event(5);
    for head in 3..8 {
        f.queue.write_used(&f.memory, head, 0).unwrap();
    }
    f.queue.publish_used(&f.memory).unwrap();
    assert_eq!(
        f.queue.needs_interrupt(&f.memory),
        Ok(true),
        "it was passed"
    );
}

#[test]
fn a_buffer_that_comes_while_notifications_are_enabled_is_not_missed() {
    let mut f = fixture();
    f.queue.disable_notification(&f.memory).unwrap();
    assert!(f.driver.no_notify());
    assert_eq!(f.queue.enable_notification(&f.memory), Ok(false));
    assert!(!f.driver.no_notify());
    f.driver.add(&[(BUFFERS, 1)], &[]);
    assert_eq!(f.queue.enable_notification(&f.memory), Ok(true));
}

#[test]
fn with_event_indices_the_device_asks_for_the_next_buffer() {
    let mut f = fixture();
    f.queue = f.driver.queue_with_event_idx();
    f.driver.add(&[(BUFFERS, 1)], &[]);
    assert_eq!(f.pop(), Ok(true));
    f.queue.disable_notification(&f.memory).unwrap();
    assert!(!f.driver.no_notify(), "the flag must be zero (2.7.10)");
    assert_eq!(f.queue.enable_notification(&f.memory), Ok(false));
    assert_eq!(f.driver.avail_event(), 1);
    f.driver.add(&[(BUFFERS, 1)], &[]);
    assert_eq!(f.queue.enable_notification(&f.memory), Ok(true));
}

/// One step of a driver or of a device.
#[derive(Clone, Copy, Debug)]
enum Step {
    /// The driver adds buffers and notifies, if it is to.
    Add(u16),
    /// The device serves so many, publishes them at once and interrupts, if it is to.
    Serve(u16),
    /// The device enables notifications and waits for one.
    DeviceWaits,
    /// The driver asks for the next interrupt and waits for it.
    DriverWaits,
    /// The driver takes what was used.
    Take,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        (1..=SIZE).prop_map(Step::Add),
        (1..=SIZE).prop_map(Step::Serve),
        Just(Step::DeviceWaits),
        Just(Step::DriverWaits),
        Just(Step::Take),
    ];
    prop::collection::vec(step, 0..64)
}

/// A driver by the book (2.7.7.1, 2.7.10, 2.7.13), and what both sides believe.
struct Model {
    f: Fixture,
    event_idx: bool,
    /// Heads of chains that are in flight, the oldest first.
    in_flight: std::collections::VecDeque<u16>,
    served: std::collections::VecDeque<u16>,
    /// avail idx when the driver last decided about a notification.
    notified: u16,
    device_waits: bool,
    driver_waits: bool,
}

impl Model {
    fn new(event_idx: bool, start: u16) -> Self {
        let mut f = fixture();
        if event_idx {
            f.queue = f.driver.queue_with_event_idx();
        }
        f.driver.start_at(start);
        f.queue.set_next(start);
        Self {
            f,
            event_idx,
            in_flight: Default::default(),
            served: Default::default(),
            notified: start,
            device_waits: false,
            driver_waits: false,
        }
    }

    /// Whether the driver notifies of what it has added since it last decided.
    fn notifies(&mut self) -> bool {
        let new = self.f.driver.avail_idx();
        let old = std::mem::replace(&mut self.notified, new);
        match self.event_idx {
            true => is_passed(self.f.driver.avail_event(), old, new),
            false => !self.f.driver.no_notify(),
        }
    }

    fn step(&mut self, step: Step) -> Result<(), TestCaseError> {
        match step {
            Step::Add(count) => {
                let free = usize::from(SIZE) - self.in_flight.len() - self.served.len();
                let count = usize::from(count).min(free);
                for _ in 0..count {
                    let head = self.f.driver.add(&[], &[(BUFFERS, 16)]);
                    self.in_flight.push_back(head);
                }
                if count > 0 {
                    let notified = self.notifies();
                    prop_assert!(notified || !self.device_waits, "a lost notification");
                    self.device_waits &= !notified;
                }
            }
            Step::Serve(count) => {
                // A device that waits looks at nothing until it is notified.
                if self.device_waits {
                    return Ok(());
                }
                self.f.queue.disable_notification(&self.f.memory).unwrap();
                let mut served = 0;
                while served < count && self.f.pop().unwrap() {
                    let head = self.f.chain.head();
                    prop_assert_eq!(self.in_flight.pop_front(), Some(head));
                    self.f.queue.write_used(&self.f.memory, head, 7).unwrap();
                    self.served.push_back(head);
                    served += 1;
                }
                self.f.queue.publish_used(&self.f.memory).unwrap();
                let interrupt = self.f.queue.needs_interrupt(&self.f.memory).unwrap();
                prop_assert!(served > 0 || !interrupt, "an interrupt of nothing");
                if served > 0 && self.driver_waits {
                    prop_assert!(interrupt, "a lost interrupt");
                    self.driver_waits = false;
                    self.f.driver.set_no_interrupt(true);
                }
            }
            Step::DeviceWaits => {
                let more = self.f.queue.enable_notification(&self.f.memory).unwrap();
                prop_assert_eq!(more, !self.in_flight.is_empty());
                self.device_waits = !more;
            }
            Step::DriverWaits => {
                let next = self.f.driver.next_used();
                self.f.driver.set_no_interrupt(false);
                self.f.driver.set_used_event(next);
                self.driver_waits = self.f.driver.used_idx() == next;
            }
            Step::Take => {
                while let Some(used) = self.f.driver.take_used() {
                    prop_assert_eq!(Some(used), self.served.pop_front().map(|head| (head, 7)));
                }
                prop_assert!(self.served.is_empty());
            }
        }
        Ok(())
    }
}

proptest! {
    /// Whatever the two do, in whatever order and wherever their indices wrap around: nothing is lost, and
    /// nobody waits for ever.
    #[test]
    fn nothing_is_lost_between_a_driver_and_the_device(
        event_idx in any::<bool>(),
        start in prop_oneof![Just(0), u16::MAX - 16..=u16::MAX, any::<u16>()],
        steps in steps(),
    ) {
        let mut model = Model::new(event_idx, start);
        for step in steps {
            model.step(step)?;
        }
    }
}
