#![allow(clippy::unwrap_used, clippy::panic)]

mod events;
mod indirect;

use std::sync::Arc;

use proptest::prelude::*;
use virtio_bindings::virtio_ring::{VRING_DESC_F_NEXT as NEXT, VRING_DESC_F_WRITE as WRITE};
use vm_memory::{Bytes, GuestAddress};

use super::*;
use crate::test_utils::{DriverQueue, guest_memory};

const SIZE: u16 = 8;
const RAM: usize = 0x10_0000;
/// Where the tests keep buffers and indirect tables: the rings are below.
const BUFFERS: u64 = 0x1_0000;

struct Fixture {
    memory: Arc<GuestMemory>,
    driver: DriverQueue,
    queue: Queue,
    chain: Chain,
}

fn fixture() -> Fixture {
    let memory = guest_memory(RAM);
    let driver = DriverQueue::new(&memory, 0x1000, SIZE);
    Fixture {
        queue: driver.queue(),
        chain: Chain::new(),
        memory,
        driver,
    }
}

impl Fixture {
    fn pop(&mut self) -> Result<bool, BrokenRing> {
        self.queue.pop(&self.memory, &mut self.chain)
    }

    /// Pops what the descriptor table holds from descriptor 0.
    fn pop_table(&mut self, table: &[(u64, u32, u32, u16)]) -> Result<bool, BrokenRing> {
        for (index, &(address, len, flags, next)) in (0..).zip(table) {
            self.driver
                .write_descriptor(index, address, len, flags, next);
        }
        self.driver.publish(0);
        self.pop()
    }

    /// Readable and writable buffers.
    fn buffers(&self) -> [Vec<(u64, u32)>; 2] {
        [self.chain.readable(), self.chain.writable()]
            .map(|buffers| buffers.iter().map(|b| (b.address.0, b.len)).collect())
    }
}

#[test]
fn chains_come_in_the_order_in_which_they_were_made_available() {
    let mut f = fixture();
    assert_eq!(f.pop(), Ok(false));
    let first = f.driver.add(
        &[(BUFFERS, 16), (BUFFERS + 0x100, 32)],
        &[(BUFFERS + 0x200, 8)],
    );
    let second = f.driver.add(&[], &[(BUFFERS + 0x300, 1)]);

    assert_eq!(f.pop(), Ok(true));
    assert_eq!(f.chain.head(), first);
    assert_eq!(
        f.buffers(),
        [
            vec![(BUFFERS, 16), (BUFFERS + 0x100, 32)],
            vec![(BUFFERS + 0x200, 8)]
        ]
    );
    assert_eq!((f.chain.readable_len(), f.chain.writable_len()), (48, 8));
    assert_eq!(f.pop(), Ok(true));
    assert_eq!(f.chain.head(), second);
    assert_eq!(f.buffers(), [vec![], vec![(BUFFERS + 0x300, 1)]]);
    assert_eq!((f.chain.readable_len(), f.chain.writable_len()), (0, 1));
    assert_eq!(f.pop(), Ok(false));
    assert_eq!(
        f.chain.head(),
        second,
        "an empty ring leaves the chain as it was"
    );
}

#[test]
fn a_chain_that_is_put_back_comes_again() {
    let mut f = fixture();
    let head = f.driver.add(&[(BUFFERS, 16)], &[]);
    assert_eq!(f.pop(), Ok(true));
    f.queue.undo_pop();
    assert_eq!(f.pop(), Ok(true));
    assert_eq!(f.chain.head(), head);
    assert_eq!(f.pop(), Ok(false));
}

#[test]
fn the_ring_goes_round_past_the_end_of_its_indices() {
    let mut f = fixture();
    for round in 0..u32::from(u16::MAX) + 3 {
        let head = f.driver.add(&[(BUFFERS, 1)], &[]);
        assert_eq!(f.pop(), Ok(true), "round {round}");
        f.queue.push_used(&f.memory, head, round).unwrap();
        assert_eq!(f.driver.take_used(), Some((head, round)));
    }
}

#[test]
fn a_chain_as_long_as_the_queue_is_the_longest() {
    let mut f = fixture();
    let buffers = [(BUFFERS, 1); SIZE as usize];
    f.driver.add(&buffers, &[]);
    assert_eq!(f.pop(), Ok(true));
    assert_eq!(f.chain.readable().len(), usize::from(SIZE));
}

#[test]
fn loops_are_found() {
    let limit = usize::from(SIZE);
    let itself = [(BUFFERS, 1, NEXT, 0)];
    assert_eq!(
        fixture().pop_table(&itself),
        Err(BrokenRing::Endless { head: 0, limit })
    );
    let pair = [(BUFFERS, 1, NEXT, 1), (BUFFERS, 1, NEXT, 0)];
    assert_eq!(
        fixture().pop_table(&pair),
        Err(BrokenRing::Endless { head: 0, limit })
    );
    let nothing = [(BUFFERS, 0, NEXT, 1), (BUFFERS, 0, NEXT, 0)];
    assert_eq!(
        fixture().pop_table(&nothing),
        Err(BrokenRing::Endless { head: 0, limit })
    );
}

#[test]
fn a_descriptor_beyond_the_table_is_found() {
    let entries = u32::from(SIZE);
    for index in [SIZE, u16::MAX] {
        let expected = Err(BrokenRing::DescriptorIndex { index, entries });
        assert_eq!(fixture().pop_table(&[(BUFFERS, 1, NEXT, index)]), expected);
        let mut f = fixture();
        f.driver.publish(index);
        assert_eq!(f.pop(), expected);
    }
}

#[test]
fn a_buffer_outside_memory_is_found() {
    let end = RAM as u64;
    for (address, len) in [
        (end, 1),
        (end - 1, 2),
        (u64::MAX, 1),
        (u64::MAX - 1, 2),
        (u64::MAX, u32::MAX),
        (0, u32::MAX),
    ] {
        for flags in [0, WRITE] {
            assert_eq!(
                fixture().pop_table(&[(address, len, flags, 0)]),
                Err(BrokenRing::Outside { address, len }),
                "{address:#x}+{len:#x}"
            );
        }
    }
    assert_eq!(fixture().pop_table(&[(end - 1, 1, 0, 0)]), Ok(true));
}

#[test]
fn a_buffer_over_a_hole_in_memory_is_found_and_one_over_a_seam_is_not() {
    let memory = GuestMemory::from_ranges(&[
        (GuestAddress(0), 0x2000),
        (GuestAddress(0x2000), 0x1000),
        (GuestAddress(0x4000), 0x1000),
    ])
    .map(Arc::new)
    .unwrap();
    let mut driver = DriverQueue::new(&memory, 0x1000, SIZE);
    let (mut queue, mut chain) = (driver.queue(), Chain::new());

    driver.add(&[], &[(0x1ff0, 0x20)]);
    assert_eq!(queue.pop(&memory, &mut chain), Ok(true));
    assert_eq!(chain.writable_slices(&memory).count(), 2);
    assert_eq!(chain.write_at(&memory, 8, &[7; 0x20]), 0x18);
    let mut seen = [0; 0x20];
    memory.read_slice(&mut seen, GuestAddress(0x1ff0)).unwrap();
    assert_eq!((&seen[..8], &seen[8..]), (&[0; 8][..], &[7; 0x18][..]));

    driver.add(&[], &[(0x2ff0, 0x1020)]);
    assert_eq!(
        queue.pop(&memory, &mut chain),
        Err(BrokenRing::Outside {
            address: 0x2ff0,
            len: 0x1020
        })
    );
}

#[test]
fn a_readable_buffer_after_a_writable_one_is_found() {
    assert_eq!(
        fixture().pop_table(&[(BUFFERS, 1, NEXT | WRITE, 1), (BUFFERS, 1, 0, 0)]),
        Err(BrokenRing::Order { head: 0 })
    );
}

#[test]
fn an_available_index_that_jumps_is_found() {
    let mut f = fixture();
    f.driver.add(&[(BUFFERS, 1)], &[]);
    f.driver.set_avail_idx(SIZE + 1);
    assert_eq!(
        f.pop(),
        Err(BrokenRing::AvailIndex {
            entries: SIZE + 1,
            size: SIZE
        })
    );
    f.driver.set_avail_idx(SIZE);
    assert_eq!(f.pop(), Ok(true));
    f.driver.set_avail_idx(0);
    assert_eq!(
        f.pop(),
        Err(BrokenRing::AvailIndex {
            entries: u16::MAX,
            size: SIZE
        })
    );
}

#[test]
fn more_than_four_gib_in_a_chain_are_found() {
    // Memory is never touched, so that it is there costs nothing.
    let memory = guest_memory(0x1_0000_0000);
    let mut driver = DriverQueue::new(&memory, 0x1000, SIZE);
    let (mut queue, mut chain) = (driver.queue(), Chain::new());
    driver.add(&[(0, u32::MAX), (0, 1)], &[]);
    assert_eq!(queue.pop(&memory, &mut chain), Ok(true));
    assert_eq!(chain.readable_len(), 1 << 32);
    driver.add(&[(0, u32::MAX)], &[(0, 2)]);
    assert_eq!(
        queue.pop(&memory, &mut chain),
        Err(BrokenRing::TooLong { head: 2 })
    );
}

#[test]
fn a_queue_that_is_misplaced_is_refused() {
    let f = fixture();
    let good = *f.queue.layout();
    let refused = |layout: Layout| Queue::new(layout, false, &f.memory).map(|_| ());
    assert_eq!(refused(good), Ok(()));
    for size in [0, 3, SIZE + 1, MAX_SIZE + 1, u16::MAX] {
        let layout = Layout { size, ..good };
        assert_eq!(refused(layout), Err(LayoutError::Size(size)));
    }
    let end = RAM as u64;
    for address in [end, end - 16, u64::MAX - 15, 0x1001] {
        for (part, layout) in [
            (
                "descriptor area",
                Layout {
                    desc_table: address,
                    ..good
                },
            ),
            (
                "driver area",
                Layout {
                    avail_ring: address,
                    ..good
                },
            ),
            (
                "device area",
                Layout {
                    used_ring: address,
                    ..good
                },
            ),
        ] {
            let expected = LayoutError::Misplaced { part, address };
            assert_eq!(refused(layout), Err(expected));
        }
    }
}

#[test]
fn rings_outside_memory_are_found() {
    let mut f = fixture();
    f.driver.add(&[(BUFFERS, 1)], &[]);
    let outside = u64::MAX - 15;
    let good = f.queue.layout.desc_table;
    f.queue.layout.desc_table = outside;
    assert_eq!(f.pop(), Err(BrokenRing::Unreachable));
    f.queue.layout.desc_table = good;
    f.queue.push_used(&f.memory, 0, 0).unwrap();
    f.queue.layout.avail_ring = u64::MAX - 1;
    assert_eq!(f.pop(), Err(BrokenRing::Unreachable));
    assert_eq!(
        f.queue.needs_interrupt(&f.memory),
        Err(BrokenRing::Unreachable)
    );
    f.queue.layout.used_ring = outside;
    for result in [
        f.queue.push_used(&f.memory, 0, 0),
        f.queue.enable_notification(&f.memory).map(|_| ()),
        f.queue.disable_notification(&f.memory),
    ] {
        assert_eq!(result, Err(BrokenRing::Unreachable));
    }
}

#[test]
fn bytes_are_copied_over_the_borders_of_buffers() {
    let mut f = fixture();
    f.memory
        .write_slice(b"abcdefgh", GuestAddress(BUFFERS))
        .unwrap();
    f.driver.add(
        &[(BUFFERS, 3), (BUFFERS + 3, 0), (BUFFERS + 3, 5)],
        &[(BUFFERS + 0x100, 2), (BUFFERS + 0x110, 2)],
    );
    assert_eq!(f.pop(), Ok(true));
    assert_eq!(f.chain.readable().len(), 2, "empty buffers are left out");

    let mut data = [0; 4];
    assert_eq!(f.chain.read_at(&f.memory, 1, &mut data), 4);
    assert_eq!(&data, b"bcde");
    assert_eq!(f.chain.read_at(&f.memory, 6, &mut data), 2);
    assert_eq!(f.chain.read_at(&f.memory, 8, &mut data), 0);
    assert_eq!(f.chain.read_at(&f.memory, usize::MAX, &mut data), 0);

    assert_eq!(f.chain.write_at(&f.memory, 1, b"xyz!"), 3);
    let mut seen = [0; 0x12];
    f.memory
        .read_slice(&mut seen, GuestAddress(BUFFERS + 0x100))
        .unwrap();
    assert_eq!((&seen[..3], &seen[0x10..]), (&b"\0x\0"[..], &b"yz"[..]));
}

proptest! {
    /// Whatever the rings hold, a walk ends, and what it gives is in memory.
    #[test]
    fn random_rings_never_hang_or_leave_memory(
        table in prop::collection::vec(
            (
                prop_oneof![0..RAM as u64 * 2, Just(0x1000), Just(BUFFERS), any::<u64>()],
                prop_oneof![0..0x200_u32, Just(16), any::<u32>()],
                0..8_u32,
                prop_oneof![0..SIZE, any::<u16>()],
            ),
            usize::from(SIZE),
        ),
        indirect in prop::collection::vec(any::<u64>(), 64),
        heads in prop::collection::vec(prop_oneof![0..SIZE, any::<u16>()], usize::from(SIZE)),
        avail_idx in prop_oneof![0..=SIZE, any::<u16>()],
    ) {
        let mut f = fixture();
        for (index, &(address, len, flags, next)) in (0..).zip(&table) {
            f.driver.write_descriptor(index, address, len, flags, next);
        }
        for (i, word) in (0..).zip(&indirect) {
            f.memory.write_obj(*word, GuestAddress(BUFFERS + 8 * i)).unwrap();
        }
        for &head in &heads {
            f.driver.publish(head);
        }
        f.driver.set_avail_idx(avail_idx);
        let mut popped = 0;
        while let Ok(true) = f.pop() {
            popped += 1;
            prop_assert!(popped <= SIZE);
            let buffers = f.chain.readable().len() + f.chain.writable().len();
            prop_assert!(buffers <= MAX_CHAIN);
            let sum = |slices: &mut dyn Iterator<Item = usize>| slices.sum::<usize>();
            prop_assert_eq!(
                sum(&mut f.chain.readable_slices(&f.memory).map(|s| s.len())),
                f.chain.readable_len()
            );
            prop_assert_eq!(
                sum(&mut f.chain.writable_slices(&f.memory).map(|s| s.len())),
                f.chain.writable_len()
            );
        }
    }
}
