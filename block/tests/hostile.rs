//! Drivers that break every rule.
#![allow(missing_docs, clippy::unwrap_used, clippy::panic)]

mod common;

use common::*;
use minivmm_block::EngineKind;
use proptest::prelude::*;
use vm_memory::{Bytes, GuestAddress};

const PLACE: u64 = DATA;

fn header(guest: &Guest, kind: u32, sector: u64) {
    let mut bytes = kind.to_le_bytes().to_vec();
    bytes.extend([0; 4]);
    bytes.extend(sector.to_le_bytes());
    guest
        .memory
        .write_slice(&bytes, GuestAddress(PLACE))
        .unwrap();
}

#[test]
fn a_request_that_cannot_be_answered_needs_a_reset_after_which_all_is_well() {
    for engine in BOTH {
        let file = memory_file(SIZE);
        let mut guest = Guest::new(&file, plain(engine));
        header(&guest, IN, 0);
        guest.queues[0].driver.add(&[(PLACE, 16)], &[]);
        guest.notify(0);
        guest.wait_needs_reset();
        // It is left alone, however often it is notified.
        for _ in 0..3 {
            guest.notify(0);
        }
        guest.reset();
        guest.start();
        assert_eq!(guest.read(0, 512), [0; 512]);
        assert!(!guest.needs_reset());
    }
}

#[test]
fn a_ring_that_is_broken_in_any_way_needs_a_reset() {
    type Break = fn(&mut Guest);
    let ways: [Break; 5] = [
        |guest| guest.queues[0].driver.set_avail_idx(200),
        |guest| guest.queues[0].driver.publish(128),
        // A loop, a buffer nowhere, and a readable one behind a writable one.
        |guest| {
            let driver = &guest.queues[0].driver;
            driver.write_descriptor(0, PLACE, 16, 1, 0);
            driver.publish(0);
        },
        |guest| {
            guest.queues[0]
                .driver
                .add(&[(u64::MAX - 8, 16)], &[(PLACE, 1)]);
        },
        |guest| {
            let driver = &guest.queues[0].driver;
            driver.write_descriptor(0, PLACE, 1, 3, 1);
            driver.write_descriptor(1, PLACE, 16, 0, 0);
            driver.publish(0);
        },
    ];
    for engine in BOTH {
        let mut guest = Guest::new(&memory_file(SIZE), plain(engine));
        for way in ways {
            way(&mut guest);
            guest.notify(0);
            guest.wait_needs_reset();
            guest.reset();
            guest.start();
        }
    }
}

#[test]
fn a_list_of_too_many_pieces_is_an_error_and_no_more() {
    for engine in BOTH {
        let file = memory_file(SIZE);
        let mut guest = Guest::new(&file, plain(engine));
        header(&guest, OUT, 0);
        // An indirect table of 1000 descriptors.
        let table = PLACE + 0x10_0000;
        let driver = &mut guest.queues[0].driver;
        for n in 0..1000_u16 {
            let (address, len, flags) = match n {
                0 => (PLACE, 16, 1),
                999 => (PLACE + 16, 1, 2),
                _ => (PLACE + 0x1000, 512, 1),
            };
            driver.write_descriptor_at(table + 16 * u64::from(n), address, len, flags, n + 1);
        }
        driver.write_descriptor(0, table, 16_000, 4, 0);
        driver.publish(0);
        guest.notify(0);
        assert_eq!(guest.used(0, 1), [(0, 1)]);
        let status: u8 = guest.memory.read_obj(GuestAddress(PLACE + 16)).unwrap();
        assert_eq!(status, IOERR);
        assert!(!guest.needs_reset());
        assert_eq!(guest.read(0, 512), [0; 512]);
    }
}

#[test]
fn one_request_made_available_again_and_again_is_answered_each_time() {
    for engine in BOTH {
        let file = memory_file(SIZE);
        let mut guest = Guest::new(&file, plain(engine));
        header(&guest, IN, 0);
        guest.queues[0]
            .driver
            .add(&[(PLACE, 16)], &[(PLACE + 4096, 65536), (PLACE + 16, 1)]);
        for _ in 0..127 {
            guest.queues[0].driver.publish(0);
        }
        guest.notify(0);
        assert_eq!(guest.used(0, 128), [(0, 65537); 128]);
    }
}

#[test]
fn a_reset_in_the_middle_of_the_work_waits_for_it() {
    for engine in BOTH {
        let file = memory_file(16 << 20);
        let mut guest = Guest::new(&file, plain(engine));
        for round in 0..50_u8 {
            for n in 0..42_u64 {
                guest.add(0, OUT, 32 * n, &[round; 16384], 0);
            }
            guest.notify(0);
            guest.reset();
            // What the guest writes to its memory now belongs to nobody's request.
            guest
                .memory
                .write_slice(&[0xcc; 16384], GuestAddress(DATA))
                .unwrap();
            let written = bytes_at(&file, 0, 16384);
            assert!(written.iter().all(|byte| *byte <= round));
            guest.start();
            assert_eq!(guest.read(4000, 512), [0; 512]);
        }
    }
}

#[test]
fn a_driver_that_goes_away_while_the_guest_notifies_comes_back() {
    let file = memory_file(SIZE);
    let mut guest = Guest::new(&file, plain(EngineKind::Auto));
    for _ in 0..20 {
        guest.notify(0);
        guest.reset();
        guest.start();
    }
    assert_eq!(guest.write(0, &[1; 512]), OK);
}

#[test]
fn an_image_that_is_cut_short_under_its_disk_gives_errors() {
    for engine in BOTH {
        let file = memory_file(SIZE);
        let mut guest = Guest::new(&file, plain(engine));
        file.set_len(4096).unwrap();
        assert_eq!(guest.ask(IN, 100, &[], 512).0, IOERR);
        assert_eq!(guest.ask(IN, 7, &[], 1024).0, IOERR);
        assert_eq!(guest.read(7, 512), [0; 512]);
        assert_eq!(guest.counters.read().errors, 2);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    #[test]
    fn descriptors_of_any_kind_are_answered_or_need_a_reset(
        threads in any::<bool>(),
        heads in proptest::collection::vec(0..130_u16, 1..20),
        headers in proptest::collection::vec((0..16_u32, prop_oneof![0..3000_u64, any::<u64>()]), 8),
        descriptors in proptest::collection::vec(
            (0..0x10_0000_u64, prop_oneof![Just(16_u32), Just(1), Just(512), 0..0x2_0000_u32], 0..8_u32, 0..130_u16),
            128,
        ),
    ) {
        let engine = BOTH[usize::from(threads)];
        let mut guest = Guest::new(&memory_file(SIZE), plain(engine));
        for (n, (kind, sector)) in (0..).zip(&headers) {
            let mut bytes = kind.to_le_bytes().to_vec();
            bytes.extend([0; 4]);
            bytes.extend(sector.to_le_bytes());
            guest.memory.write_slice(&bytes, GuestAddress(PLACE + 16 * n)).unwrap();
        }
        let driver = &guest.queues[0].driver;
        for (index, (address, len, flags, next)) in (0..).zip(&descriptors) {
            // Half of them are headers.
            let address = if index % 2 == 0 { PLACE + 16 * (address % 8) } else { PLACE + address };
            driver.write_descriptor(index, address, *len, *flags, *next);
        }
        for head in &heads {
            driver.publish(*head);
        }
        guest.notify(0);
        guest.reset();
        guest.start();
        prop_assert_eq!(guest.read(0, 512).len(), 512);
    }
}
