//! A disk and its driver, with both engines.
#![allow(missing_docs, clippy::unwrap_used, clippy::panic)]

mod common;

use std::{
    fs::File,
    os::unix::fs::{FileExt, MetadataExt},
};

use common::*;
use minivmm_block::{BlockDevice, Counts, EngineKind, ImageOptions};
use minivmm_devices::virtio::{DeviceType, VirtioDevice};

#[test]
fn a_disk_says_what_it_is_like() {
    let file = memory_file(SIZE);
    let options = minivmm_block::BlockOptions {
        queues: 4,
        ..plain(EngineKind::Auto)
    };
    let device = BlockDevice::new(image(&file, ImageOptions::default()), options).unwrap();
    assert_eq!(device.device_type(), DeviceType::Block);
    assert_eq!(device.queue_sizes(), [128; 4]);
    let bits: Vec<u32> = (0..64)
        .filter(|bit| device.features() >> bit & 1 == 1)
        .collect();
    // SEG_MAX, BLK_SIZE, FLUSH, TOPOLOGY, MQ, DISCARD, WRITE_ZEROES; INDIRECT_DESC, EVENT_IDX
    assert_eq!(bits, [2, 6, 9, 10, 12, 13, 14, 28, 29]);
    let read = |offset: u64, len: usize| {
        let mut data = vec![0xaa; len];
        device.config().read(offset, &mut data);
        data.resize(8, 0);
        u64::from_le_bytes(data.try_into().unwrap())
    };
    assert_eq!(read(0, 8), SIZE / 512, "capacity");
    assert_eq!(read(8, 4), 0, "size_max");
    assert_eq!(read(12, 4), 126, "seg_max");
    assert_eq!(read(20, 4), 512, "blk_size");
    assert_eq!(read(24, 1), 3, "physical_block_exp");
    assert_eq!(read(26, 2), 8, "min_io_size");
    assert_eq!(read(34, 2), 4, "num_queues");
    assert_eq!(read(36, 4), 1 << 21, "max_discard_sectors");
    assert_eq!(read(40, 4), 16, "max_discard_seg");
    assert_eq!(read(44, 4), 8, "discard_sector_alignment");
    assert_eq!(read(48, 4), 1 << 21, "max_write_zeroes_sectors");
    assert_eq!(read(52, 4), 1, "max_write_zeroes_seg");
    assert_eq!(read(56, 1), 1, "write_zeroes_may_unmap");
    assert_eq!(read(60, 8), 0, "beyond");

    let options = ImageOptions {
        read_only: true,
        ..Default::default()
    };
    let device = BlockDevice::new(image(&file, options), plain(EngineKind::Auto)).unwrap();
    let bits: Vec<u32> = (0..64)
        .filter(|bit| device.features() >> bit & 1 == 1)
        .collect();
    assert_eq!(bits, [2, 5, 6, 9, 10, 28, 29]);
}

#[test]
fn what_is_written_is_read_again() {
    for engine in BOTH {
        let file = memory_file(SIZE);
        let mut guest = Guest::new(&file, plain(engine));
        let data: Vec<u8> = (0..4096_u32).map(|n| (n % 251) as u8).collect();
        assert_eq!(guest.ask(OUT, 8, &data, 0), (OK, vec![], 1));
        assert_eq!(bytes_at(&file, 4096, 4096), data);
        assert_eq!(guest.read(8, 4096), data);
        assert_eq!(guest.read(9, 512), data[512..1024]);
        assert_eq!(guest.read(0, 512), [0; 512]);
        assert_eq!(guest.ask(FLUSH, 0, &[], 0), (OK, vec![], 1));
        let expected = Counts {
            reads: 3,
            read_bytes: 5120,
            writes: 1,
            written_bytes: 4096,
            flushes: 1,
            ..Default::default()
        };
        assert_eq!(guest.counters.read(), expected);
    }
}

#[test]
fn a_disk_has_a_serial_number_of_twenty_bytes() {
    for (serial, expected) in [
        ("", [0; 20]),
        ("nix-store", *b"nix-store\0\0\0\0\0\0\0\0\0\0\0"),
        ("12345678901234567890x", *b"12345678901234567890"),
    ] {
        let options = minivmm_block::BlockOptions {
            serial: serial.to_owned(),
            ..plain(EngineKind::Auto)
        };
        let mut guest = Guest::new(&memory_file(512), options);
        let (status, id, written) = guest.ask(GET_ID, 0, &[], 20);
        assert_eq!((status, written), (OK, 21));
        assert_eq!(id, expected);
        assert_eq!(guest.ask(GET_ID, 0, &[], 19).0, IOERR);
    }
}

#[test]
fn a_discard_gives_the_host_its_room_back() {
    for engine in BOTH {
        let file = memory_file(SIZE);
        file.write_all_at(&[7; 65536], 0).unwrap();
        let before = file.metadata().unwrap().blocks();
        let mut guest = Guest::new(&file, plain(engine));
        assert_eq!(
            guest.ranges(DISCARD, &[(0, 8, 0), (16, 8, 0), (64, 0, 0)]),
            OK
        );
        assert_eq!(before - file.metadata().unwrap().blocks(), 16);
        assert_eq!(bytes_at(&file, 0, 4096), [0; 4096]);
        assert_eq!(bytes_at(&file, 4096, 4096), [7; 4096]);
        assert_eq!(guest.counters.read().discards, 1);
        assert_eq!(guest.ranges(DISCARD, &[(SIZE / 512, 1, 0)]), IOERR);
    }
}

#[test]
fn zeros_are_written_whatever_the_file_system_can_do() {
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let on_disk = || {
        let file = File::options();
        let mut file = file.clone();
        file.read(true).write(true).create(true).truncate(true);
        let file = file.open(directory.path().join("image")).unwrap();
        file.set_len(SIZE).unwrap();
        file
    };
    for engine in BOTH {
        // A file system in memory gives ranges back, and makes no zeros otherwise.
        for file in [memory_file(SIZE), on_disk()] {
            file.write_all_at(&vec![7; 1 << 20], 0).unwrap();
            let mut guest = Guest::new(&file, plain(engine));
            let before = file.metadata().unwrap().blocks();
            assert_eq!(guest.ranges(WRITE_ZEROES, &[(1, 1399, 0)]), OK);
            assert_eq!(bytes_at(&file, 512, 1399 * 512), vec![0; 1399 * 512]);
            assert_eq!(
                (bytes_at(&file, 511, 1), bytes_at(&file, 1400 * 512, 1)),
                (vec![7], vec![7])
            );
            assert!(
                file.metadata().unwrap().blocks() >= before,
                "it was to keep its room"
            );
            assert_eq!(guest.ranges(WRITE_ZEROES, &[(1400, 648, 1)]), OK);
            assert_eq!(bytes_at(&file, 1400 * 512, 648 * 512), vec![0; 648 * 512]);
            assert!(file.metadata().unwrap().blocks() < before);
            assert_eq!(file.metadata().unwrap().size(), SIZE);
        }
    }
}

#[test]
fn a_read_only_disk_refuses_every_change() {
    for engine in BOTH {
        let file = memory_file(SIZE);
        let options = ImageOptions {
            read_only: true,
            ..Default::default()
        };
        let mut guest = Guest::on(image(&file, options), plain(engine));
        assert_eq!(guest.write(0, &[1; 512]), IOERR);
        assert_eq!(guest.ranges(DISCARD, &[(0, 8, 0)]), UNSUPP);
        assert_eq!(guest.ranges(WRITE_ZEROES, &[(0, 8, 0)]), UNSUPP);
        assert_eq!(guest.read(0, 512), [0; 512]);
        assert_eq!(guest.ask(FLUSH, 0, &[], 0).0, OK);
        assert_eq!(guest.counters.read().errors, 3);
    }
}

#[test]
fn requests_of_a_whole_queue_are_answered_in_whatever_order() {
    for engine in BOTH {
        let file = memory_file(SIZE);
        let mut guest = Guest::new(&file, plain(engine));
        for round in 0..8_u8 {
            // Header, data and status: 42 requests fill a ring of 128.
            let first = guest.queues[0].driver.avail_idx();
            for n in 0..42_u64 {
                guest.add(0, OUT, 8 * n, &[round + n as u8; 4096], 0);
            }
            guest.notify(0);
            assert_eq!(guest.used(0, 42).len(), 42);
            for n in 0..42 {
                assert_eq!(guest.answer(0, first + n, 0).0, OK);
                let at = bytes_at(&file, 4096 * u64::from(n), 4096);
                assert_eq!(at, [round + n as u8; 4096]);
            }
        }
    }
}

#[test]
fn every_queue_is_served() {
    for engine in BOTH {
        let file = memory_file(SIZE);
        let options = minivmm_block::BlockOptions {
            queues: 3,
            ..plain(engine)
        };
        let mut guest = Guest::new(&file, options);
        for queue in [2, 0, 1] {
            guest.add(queue, OUT, queue as u64, &[queue as u8 + 1; 512], 0);
            guest.notify(queue);
        }
        for queue in 0..3 {
            guest.used(queue, 1);
            assert_eq!(guest.answer(queue, 0, 0).0, OK);
            assert_eq!(
                bytes_at(&file, 512 * queue as u64, 512),
                [queue as u8 + 1; 512]
            );
        }
        // A reset gives all of it back, and it begins anew.
        guest.reset();
        guest.start();
        guest.add(2, IN, 2, &[], 512);
        guest.notify(2);
        guest.used(2, 1);
        assert_eq!(guest.answer(2, 0, 512), (OK, vec![3; 512]));
    }
}

#[test]
fn without_flushes_every_write_is_stable_when_it_is_answered() {
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let path = directory.path().join("image");
    for engine in BOTH {
        let file = File::create_new(&path).unwrap();
        file.set_len(SIZE).unwrap();
        let file = File::options().read(true).write(true).open(&path).unwrap();
        let mut guest = Guest::new(&file, plain(engine));
        guest.reset();
        guest.features &= !F_FLUSH;
        guest.start();
        assert_eq!(guest.write(0, &[1; 512]), OK);
        assert_eq!(guest.ranges(WRITE_ZEROES, &[(0, 1, 1)]), OK);
        assert_eq!(guest.ranges(DISCARD, &[(0, 8, 0)]), OK);
        assert_eq!(guest.read(0, 512), [0; 512]);
        std::fs::remove_file(&path).unwrap();
    }
}

#[test]
fn o_direct_takes_memory_that_is_aligned_in_any_way() {
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let path = directory.path().join("image");
    File::create(&path).unwrap().set_len(SIZE).unwrap();
    let options = ImageOptions {
        direct: true,
        ..Default::default()
    };
    for engine in BOTH {
        let image = minivmm_block::Image::open(&path, options).unwrap();
        let mut guest = Guest::on(image, plain(engine));
        let data: Vec<u8> = (0..8192_u32).map(|n| (n % 241) as u8).collect();
        assert_eq!(guest.write(8, &data), OK);
        assert_eq!(guest.read(8, 8192), data);

        // Pieces that no sector boundary goes through: header, data and status are one area.
        let at = DATA + 0x10_0003;
        let mut header = OUT.to_le_bytes().to_vec();
        header.extend([0; 4]);
        header.extend(64_u64.to_le_bytes());
        header.extend(&data);
        let address = vm_memory::GuestAddress;
        vm_memory::Bytes::write_slice(&*guest.memory, &header, address(at)).unwrap();
        let len = header.len() as u32;
        let pieces = [(at, 100), (at + 100, 3001), (at + 3101, len - 3101)];
        guest.queues[0].driver.add(&pieces, &[(at + 0x4000, 1)]);
        guest.notify(0);
        guest.used(0, 1);
        assert_eq!(guest.read(64, 8192), data);
        header[0] = 0;
        vm_memory::Bytes::write_slice(&*guest.memory, &header[..16], address(at)).unwrap();
        let into = at + 0x5001;
        let pieces = [(into, 1), (into + 1, 8000), (into + 8001, 192)];
        guest.queues[0].driver.add(&[(at, 16)], &pieces);
        guest.notify(0);
        assert_eq!(guest.used(0, 1)[0].1, 8193);
        let mut read = vec![0; 8193];
        vm_memory::Bytes::read_slice(&*guest.memory, &mut read, address(into)).unwrap();
        assert_eq!((&read[..8192], read[8192]), (&*data, OK));
        // With it the lock goes.
        guest.reset();
    }
}
