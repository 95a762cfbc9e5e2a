//! BARs that are moved about while their devices run.

use std::sync::atomic::{AtomicU32, Ordering};

use proptest::prelude::*;
use tracing::{
    Event, Level, Metadata, Subscriber,
    span::{Attributes, Id, Record},
};

use super::{
    layout::{BAR_SIZE, NOTIFY, NOTIFY_OFF_MULTIPLIER},
    *,
};
use crate::{bus::BusDevice, test_utils::DEADLINE};

/// Two devices and a window with room for a few places.
struct Two {
    first: Fixture,
    second: Arc<VirtioPci>,
    ecam: Arc<dyn BusDevice>,
    window: Arc<dyn BusDevice>,
}

fn two() -> Two {
    let first = fixture();
    let hypervisor = first.hypervisor.clone();
    let device = Box::new(Echo::new(Arc::default()));
    let second = VirtioPci::new("second", device, first.memory.clone(), hypervisor).unwrap();
    let slot = Slot::new(2).unwrap();
    first.bus.add(slot, second.clone()).unwrap();
    let two = Two {
        ecam: first.bus.ecam(),
        window: first.bus.window(),
        first,
        second,
    };
    two.first.start();
    let driver = PciDriver::new(&two.first.bus, slot, WINDOW.base);
    assert!(driver.negotiate(VERSION_1));
    driver.enable_queue(0, &two.first.rings(0));
    assert!(driver.start());
    two
}

/// Queues with an ioeventfd, of each device.
const QUEUES: [u32; 2] = [2, 1];

/// Puts a BAR somewhere, or switches memory decoding.
#[derive(Clone, Copy, Debug)]
enum Step {
    Move(usize, u32),
    Decode(usize, bool),
}

fn step() -> impl Strategy<Value = Step> {
    // In steps of half a BAR, from one below the window to one beyond.
    let places = (WINDOW.size as u32 / BAR_SIZE + 2) * 2;
    prop_oneof![
        3 => (0..2_usize, 0..4_u32, 0..places).prop_map(move |(which, near, place)| {
            // Mostly in the same small corner.
            let place = if near == 0 { place } else { place % 8 };
            Step::Move(which, WINDOW.base as u32 - BAR_SIZE + place * (BAR_SIZE / 2))
        }),
        1 => (0..2_usize, any::<bool>()).prop_map(|(which, on)| Step::Decode(which, on)),
    ]
}

impl Two {
    fn apply(&self, step: Step) {
        let (which, register, data) = match step {
            Step::Move(which, base) => (which, 0x10, base.to_le_bytes().to_vec()),
            Step::Decode(which, on) => (which, 4, vec![u8::from(on) << 1, 0]),
        };
        self.ecam.write((which as u64 + 1) << 15 | register, &data);
    }

    /// What the register says.
    fn base(&self, which: usize) -> u32 {
        let mut data = [0; 4];
        self.ecam.read((which as u64 + 1) << 15 | 0x10, &mut data);
        u32::from_le_bytes(data)
    }
}

fn overlap(one: u32, other: u32) -> bool {
    one.abs_diff(other) < BAR_SIZE
}

proptest! {
    #[test]
    fn notifications_and_registers_are_where_the_bars_are(
        steps in prop::collection::vec(step(), 0..32),
    ) {
        let two = two();
        let mut bases = [0, 1].map(|which| two.base(which));
        let mut decodes = [true; 2];
        let mut live = bases.map(Some);
        for step in steps {
            two.apply(step);
            let which = match step {
                Step::Move(which, base) => {
                    // What is no multiple of the size loses its low bits.
                    let base = base & !(BAR_SIZE - 1);
                    let end = u64::from(base) + u64::from(BAR_SIZE);
                    let within = u64::from(base) >= WINDOW.base && end <= WINDOW.base + WINDOW.size;
                    let free = live[1 - which].is_none_or(|other| !overlap(base, other));
                    if within && free {
                        bases[which] = base;
                    }
                    which
                }
                Step::Decode(which, on) => {
                    decodes[which] = on;
                    which
                }
            };
            let covered = live[1 - which].is_some_and(|other| overlap(bases[which], other));
            live[which] = (decodes[which] && !covered).then_some(bases[which]);

            prop_assert_eq!([0, 1].map(|which| two.base(which)), bases, "after {:?}", step);
            let mut expected: Vec<u64> = (0..2)
                .filter_map(|which| Some((live[which]?, QUEUES[which])))
                .flat_map(|(base, queues)| {
                    (0..queues).map(move |queue| {
                        u64::from(base + NOTIFY + queue * NOTIFY_OFF_MULTIPLIER)
                    })
                })
                .collect();
            expected.sort_unstable();
            prop_assert_eq!(two.first.hypervisor.attached(), expected, "after {:?}", step);
            for base in live.into_iter().flatten() {
                let mut queues = [0; 2];
                two.window.read(u64::from(base) - WINDOW.base + 0x12, &mut queues);
                prop_assert_eq!(queues, [2, 0]);
            }
        }
        let deadline = std::time::Instant::now() + DEADLINE;
        two.first.function.stop(deadline).unwrap();
        two.second.stop(deadline).unwrap();
    }
}

/// Counts warnings.
struct Warnings(Arc<AtomicU32>);

impl Subscriber for Warnings {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() <= Level::WARN
    }
    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }
    fn record(&self, _: &Id, _: &Record<'_>) {}
    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn event(&self, _: &Event<'_>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
    fn enter(&self, _: &Id) {}
    fn exit(&self, _: &Id) {}
}

#[test]
fn a_guest_that_puts_bars_where_they_cannot_be_is_logged_once() {
    let two = two();
    let count = Arc::new(AtomicU32::new(0));
    tracing::subscriber::with_default(Warnings(count.clone()), || {
        two.apply(Step::Move(0, WINDOW.base as u32 + 0x4_0000));
        assert_eq!(count.load(Ordering::Relaxed), 0, "a move that is allowed");
        for _ in 0..100 {
            two.apply(Step::Move(0, 0x1000));
            two.apply(Step::Move(0, two.base(1)));
        }
    });
    assert_eq!(count.load(Ordering::Relaxed), 1);
    assert_eq!(two.base(0), WINDOW.base as u32 + 0x4_0000);
}
