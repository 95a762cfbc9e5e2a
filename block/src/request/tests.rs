#![allow(clippy::unwrap_used, clippy::panic)]

use std::sync::Arc;

use minivmm_devices::test_utils::{DriverQueue, guest_memory};
use proptest::prelude::*;
use vm_memory::Bytes;

use super::*;

const DISK: u64 = 64 << 10;
const HEADER_AT: u64 = 0x8000;
const DATA_AT: u64 = 0x1_0000;
const STATUS_AT: u64 = 0x9000;

struct Bench {
    memory: Arc<GuestMemory>,
    driver: DriverQueue,
    rules: Rules,
    ranges: Vec<Range>,
    data: Vec<Buffer>,
}

impl Bench {
    fn new() -> Self {
        let memory = guest_memory(0x10_0000);
        Self {
            driver: DriverQueue::new(&memory, 0x1000, 256),
            memory,
            rules: Rules {
                size: DISK,
                read_only: false,
                unit: 512,
                features: u64::MAX,
            },
            ranges: Vec::new(),
            data: Vec::new(),
        }
    }

    fn header(&self, kind: u32, sector: u64) {
        let mut bytes = kind.to_le_bytes().to_vec();
        bytes.extend([0; 4]);
        bytes.extend(sector.to_le_bytes());
        self.memory
            .write_slice(&bytes, GuestAddress(HEADER_AT))
            .unwrap();
    }

    fn chain(&mut self, readable: &[(u64, u32)], writable: &[(u64, u32)]) -> Chain {
        let mut queue = DriverQueue::new(&self.memory, 0x1000, 256);
        queue.add(readable, writable);
        self.driver = queue;
        let mut chain = Chain::new();
        assert!(self.driver.queue().pop(&self.memory, &mut chain).unwrap());
        chain
    }

    fn read(&mut self, readable: &[(u64, u32)], writable: &[(u64, u32)]) -> Result<Wish, Refusal> {
        let chain = self.chain(readable, writable);
        self.data.clear();
        self.ranges.clear();
        read(
            &chain,
            &self.memory,
            &self.rules,
            &mut self.data,
            &mut self.ranges,
        )
    }

    /// A request with that header, `out` bytes for the device and `into` bytes from it.
    fn ask(&mut self, kind: u32, sector: u64, out: u32, into: u32) -> Result<Wish, Refusal> {
        self.header(kind, sector);
        let mut readable = vec![(HEADER_AT, 16)];
        if out > 0 {
            readable.push((DATA_AT, out));
        }
        let mut writable = vec![];
        if into > 0 {
            writable.push((DATA_AT, into));
        }
        writable.push((STATUS_AT, 1));
        self.read(&readable, &writable)
    }

    /// A request about ranges of sector, sectors and flags.
    fn ask_ranges(&mut self, kind: u32, ranges: &[(u64, u32, u32)]) -> Result<Wish, Refusal> {
        let mut bytes = Vec::new();
        for (sector, count, flags) in ranges {
            bytes.extend(sector.to_le_bytes());
            bytes.extend(count.to_le_bytes());
            bytes.extend(flags.to_le_bytes());
        }
        self.memory
            .write_slice(&bytes, GuestAddress(DATA_AT))
            .unwrap();
        self.ask(kind, 0, bytes.len() as u32, 0)
    }
}

#[test]
fn a_read_and_a_write_are_of_whole_sectors_of_the_disk() {
    let mut bench = Bench::new();
    let last = DISK / 512 - 1;
    for (sector, len, expected) in [
        (0, 512, Some(0)),
        (0, 0, Some(0)),
        (3, 4096, Some(1536)),
        (last, 512, Some(DISK - 512)),
        (last + 1, 0, Some(DISK)),
        (last, 1024, None),
        (last + 1, 512, None),
        (0, 511, None),
        (0, DISK as u32 + 512, None),
        (u64::MAX, 512, None),
        (u64::MAX / 512, 512, None),
        (u64::MAX / 512 + 1, 512, None),
    ] {
        let read = expected.map(|offset| Wish::Read {
            offset,
            len: len.into(),
        });
        let asked = bench.ask(VIRTIO_BLK_T_IN, sector, 0, len);
        assert_eq!(asked, read.ok_or(Refusal::Error), "{sector} {len}");
        let write = expected.map(|offset| Wish::Write {
            offset,
            len: len.into(),
        });
        let asked = bench.ask(VIRTIO_BLK_T_OUT, sector, len, 0);
        assert_eq!(asked, write.ok_or(Refusal::Error), "{sector} {len}");
    }
}

#[test]
fn a_request_has_what_belongs_to_it_and_nothing_else() {
    let mut bench = Bench::new();
    for (kind, out, into) in [
        (VIRTIO_BLK_T_IN, 512, 512),
        (VIRTIO_BLK_T_OUT, 512, 512),
        (VIRTIO_BLK_T_FLUSH, 512, 0),
        (VIRTIO_BLK_T_FLUSH, 0, 512),
        (VIRTIO_BLK_T_GET_ID, 0, 19),
        (VIRTIO_BLK_T_GET_ID, 1, 20),
        (VIRTIO_BLK_T_DISCARD, 16, 1),
        (VIRTIO_BLK_T_DISCARD, 0, 0),
        (VIRTIO_BLK_T_DISCARD, 15, 0),
        (VIRTIO_BLK_T_DISCARD, 17 * 16, 0),
        (VIRTIO_BLK_T_WRITE_ZEROES, 32, 0),
    ] {
        let asked = bench.ask(kind, 0, out, into);
        assert_eq!(asked, Err(Refusal::Error), "{kind} {out} {into}");
    }
    assert_eq!(bench.ask(VIRTIO_BLK_T_FLUSH, 0, 0, 0), Ok(Wish::Flush));
    assert_eq!(bench.ask(VIRTIO_BLK_T_GET_ID, 0, 0, 20), Ok(Wish::Id));
    // Types that there are, and that there are not.
    for kind in [2, 3, 5, 9, 10, 14, 15, 16, 26, 0x8000_0000, u32::MAX] {
        let asked = bench.ask(kind, 0, 0, 0);
        assert_eq!(asked, Err(Refusal::Unsupported), "{kind}");
    }
    // A header that is not whole.
    let short = bench.read(&[(HEADER_AT, 15)], &[(STATUS_AT, 1)]);
    assert_eq!(short, Err(Refusal::Error));
    let none = bench.read(&[], &[(STATUS_AT, 1)]);
    assert_eq!(none, Err(Refusal::Error));
}

#[test]
fn a_request_may_be_cut_anywhere() {
    let mut bench = Bench::new();
    bench.header(VIRTIO_BLK_T_OUT, 2);
    let readable = [
        (HEADER_AT, 7),
        (HEADER_AT + 7, 9),
        (DATA_AT, 100),
        (DATA_AT + 100, 412),
    ];
    let asked = bench.read(&readable, &[(STATUS_AT, 1)]);
    let (offset, len) = (1024, 512);
    assert_eq!(asked, Ok(Wish::Write { offset, len }));
    assert_eq!(bench.data.len(), 2);

    // Data behind the header and before the status in one buffer each.
    let whole = bench.read(&[(HEADER_AT, 16 + 512)], &[(STATUS_AT, 1)]);
    assert_eq!(whole, Ok(Wish::Write { offset, len }));
    let [data] = bench.data[..] else { panic!() };
    assert_eq!((data.address.0, data.len), (HEADER_AT + 16, 512));
    bench.header(VIRTIO_BLK_T_IN, 2);
    let whole = bench.read(&[(HEADER_AT, 16)], &[(DATA_AT, 513)]);
    assert_eq!(whole, Ok(Wish::Read { offset, len }));
    let [data] = bench.data[..] else { panic!() };
    assert_eq!((data.address.0, data.len), (DATA_AT, 512));
    let chain = bench.chain(&[(HEADER_AT, 16)], &[(DATA_AT, 513)]);
    assert_eq!(status(&chain).unwrap(), GuestAddress(DATA_AT + 512));
}

#[test]
fn a_request_has_no_more_pieces_than_the_disk_says() {
    let mut bench = Bench::new();
    bench.header(VIRTIO_BLK_T_OUT, 0);
    let pieces = |count: u64| -> Vec<(u64, u32)> {
        let data = (0..count).map(|n| (DATA_AT + 512 * n, 512));
        std::iter::once((HEADER_AT, 16)).chain(data).collect()
    };
    let most = bench.read(&pieces(SEG_MAX as u64), &[(STATUS_AT, 1)]);
    assert!(most.is_ok());
    let more = bench.read(&pieces(SEG_MAX as u64 + 1), &[(STATUS_AT, 1)]);
    assert_eq!(more, Err(Refusal::Error));
    assert_eq!(bench.data.len(), SEG_MAX);
}

#[test]
fn without_room_for_its_status_a_request_cannot_be_answered() {
    let mut bench = Bench::new();
    let chain = bench.chain(&[(HEADER_AT, 16)], &[]);
    let said = status(&chain).unwrap_err().to_string();
    assert_eq!(
        said,
        "the request at descriptor 0 has no room for its status"
    );
}

#[test]
fn a_read_only_disk_is_not_changed() {
    let mut bench = Bench::new();
    bench.rules.read_only = true;
    assert_eq!(bench.ask(VIRTIO_BLK_T_OUT, 0, 512, 0), Err(Refusal::Error));
    for kind in [VIRTIO_BLK_T_DISCARD, VIRTIO_BLK_T_WRITE_ZEROES] {
        let asked = bench.ask_ranges(kind, &[(0, 1, 0)]);
        assert_eq!(asked, Err(Refusal::Error));
    }
    assert!(bench.ask(VIRTIO_BLK_T_IN, 0, 0, 512).is_ok());
    assert!(bench.ask(VIRTIO_BLK_T_FLUSH, 0, 0, 0).is_ok());
}

#[test]
fn ranges_are_within_the_disk_and_the_limits() {
    let mut bench = Bench::new();
    let (discard, zeroes) = (VIRTIO_BLK_T_DISCARD, VIRTIO_BLK_T_WRITE_ZEROES);
    assert_eq!(
        bench.ask_ranges(discard, &[(0, 8, 0), (100, 28, 0)]),
        Ok(Wish::Discard)
    );
    let range = |offset, len, unmap| Range { offset, len, unmap };
    assert_eq!(
        bench.ranges,
        [range(0, 4096, false), range(51200, 14336, false)]
    );
    assert_eq!(bench.ask_ranges(zeroes, &[(1, 1, 1)]), Ok(Wish::Zeroes));
    assert_eq!(bench.ranges, [range(512, 512, true)]);
    for ranges in [
        vec![(0, 129, 0)],
        vec![(127, 2, 0)],
        vec![(u64::MAX, 1, 0)],
        vec![(0, u32::MAX, 0)],
        vec![(0, 1, 0), (128, 1, 0)],
    ] {
        assert_eq!(
            bench.ask_ranges(discard, &ranges),
            Err(Refusal::Error),
            "{ranges:?}"
        );
    }
    // A flag that nobody knows, and one that a discard does not have (5.2.6.2).
    assert_eq!(
        bench.ask_ranges(zeroes, &[(0, 1, 2)]),
        Err(Refusal::Unsupported)
    );
    assert_eq!(
        bench.ask_ranges(discard, &[(0, 1, 1)]),
        Err(Refusal::Unsupported)
    );
    // A disk of 3 GiB has ranges beyond the limit.
    bench.rules.size = 3 << 30;
    assert!(
        bench
            .ask_ranges(discard, &[(0, DISCARD_SECTORS, 0)])
            .is_ok()
    );
    assert!(
        bench
            .ask_ranges(discard, &[(0, DISCARD_SECTORS + 1, 0)])
            .is_err()
    );
    // Who has not taken the feature has no such request.
    bench.rules.features = 0;
    assert_eq!(
        bench.ask_ranges(discard, &[(0, 1, 0)]),
        Err(Refusal::Unsupported)
    );
    assert_eq!(
        bench.ask_ranges(zeroes, &[(0, 1, 0)]),
        Err(Refusal::Unsupported)
    );
}

#[test]
fn a_disk_with_larger_sectors_under_o_direct_takes_whole_ones_alone() {
    let mut bench = Bench::new();
    bench.rules.unit = 4096;
    assert!(bench.ask(VIRTIO_BLK_T_IN, 8, 0, 4096).is_ok());
    assert!(bench.ask(VIRTIO_BLK_T_IN, 1, 0, 4096).is_err());
    assert!(bench.ask(VIRTIO_BLK_T_IN, 8, 0, 512).is_err());
    assert!(
        bench
            .ask_ranges(VIRTIO_BLK_T_WRITE_ZEROES, &[(1, 8, 0)])
            .is_err()
    );
}

proptest! {
    #[test]
    fn whatever_is_granted_lies_within_the_disk(
        kind in 0..20_u32,
        sector in prop_oneof![0..200_u64, any::<u64>()],
        out in prop_oneof![(0..40_u32).prop_map(|n| n * 512), 0..70_000_u32],
        into in prop_oneof![(0..40_u32).prop_map(|n| n * 512), 0..70_000_u32],
        bytes in proptest::collection::vec(any::<u8>(), 64),
    ) {
        let mut bench = Bench::new();
        bench.memory.write_slice(&bytes, GuestAddress(DATA_AT)).unwrap();
        let wish = bench.ask(kind, sector, out, into);
        if let Ok(Wish::Read { offset, len } | Wish::Write { offset, len }) = wish {
            prop_assert!(offset + len <= DISK && len % 512 == 0 && offset % 512 == 0);
            let data: u64 = bench.data.iter().map(|b| u64::from(b.len)).sum();
            prop_assert_eq!(data, len);
        }
        if wish.is_ok() {
            for range in &bench.ranges {
                prop_assert!(range.offset + range.len <= DISK);
            }
        }
    }
}
