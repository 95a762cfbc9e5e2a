#![allow(clippy::unwrap_used, clippy::panic)]

use std::{
    io::Write,
    os::unix::fs::MetadataExt,
    os::{fd::AsRawFd, unix::fs::FileExt},
};

use minivmm_devices::{
    GuestMemory,
    test_utils::{DEADLINE, guest_memory, readable},
    virtio::queue::Buffer,
};
use rustix::fs::{MemfdFlags, memfd_create};
use vm_memory::{Bytes, GuestAddress};

use super::*;

const BOTH: [EngineKind; 2] = [EngineKind::IoUring, EngineKind::Threads];
const SIZE: usize = 1 << 20;

/// A descriptor, for what waits for one.
struct Fd(RawFd);

impl AsRawFd for Fd {
    fn as_raw_fd(&self) -> RawFd {
        self.0
    }
}

struct Bench {
    engine: Engine,
    file: Arc<File>,
    memory: Arc<GuestMemory>,
}

impl Bench {
    fn new(kind: EngineKind) -> Self {
        let file = File::from(memfd_create("image", MemfdFlags::CLOEXEC).unwrap());
        file.set_len(SIZE as u64).unwrap();
        let file = Arc::new(file);
        Self {
            engine: Engine::new(kind, &file, 64).unwrap(),
            file,
            memory: guest_memory(SIZE),
        }
    }

    fn operation(&self, action: Action, offset: u64, address: u64, len: u32) -> Operation {
        let mut vectors = Vectors::new(self.memory.clone());
        let address = GuestAddress(address);
        vectors.set_guest(&[Buffer { address, len }], 0);
        Operation {
            action,
            offset,
            len: len.into(),
            vectors,
        }
    }

    /// Waits for `count` operations, and gives what came of each in the order of their slots.
    fn results(&mut self, count: usize) -> Vec<io::Result<u64>> {
        assert!(self.engine.submit().unwrap());
        let mut done = Vec::new();
        while done.len() < count {
            assert!(readable(&Fd(self.engine.fd()), DEADLINE));
            self.engine.reap(&mut done);
        }
        done.sort_by_key(|done| done.slot);
        done.into_iter().map(|done| done.result).collect()
    }

    fn result(&mut self, operation: Operation) -> io::Result<u64> {
        self.engine.push(0, operation);
        self.results(1).remove(0)
    }
}

#[test]
fn both_engines_read_write_and_flush() {
    for kind in BOTH {
        let mut bench = Bench::new(kind);
        bench
            .memory
            .write_slice(b"words", GuestAddress(100))
            .unwrap();
        for stable in [false, true] {
            let write = bench.operation(Action::Write { stable }, 4096, 100, 5);
            assert_eq!(bench.result(write).unwrap(), 5, "{kind:?}");
        }
        let flush = bench.operation(Action::Flush, 0, 0, 0);
        bench.result(flush).unwrap();
        let read = bench.operation(Action::Read, 4097, 200, 4);
        assert_eq!(bench.result(read).unwrap(), 4);
        let mut bytes = [0; 4];
        bench
            .memory
            .read_slice(&mut bytes, GuestAddress(200))
            .unwrap();
        assert_eq!(&bytes, b"ords");
        let beyond = bench.operation(Action::Read, SIZE as u64, 200, 4);
        assert_eq!(bench.result(beyond).unwrap(), 0);
    }
}

#[test]
fn both_engines_give_ranges_back_and_say_what_a_file_system_cannot_do() {
    for kind in BOTH {
        let mut bench = Bench::new(kind);
        (&*bench.file).write_all(&[7; 8192]).unwrap();
        let before = bench.file.metadata().unwrap().blocks();
        let punch = bench.operation(Action::Punch, 0, 0, 4096);
        bench.result(punch).unwrap();
        assert!(bench.file.metadata().unwrap().blocks() < before);
        let mut bytes = [1; 8192];
        bench.file.read_exact_at(&mut bytes, 0).unwrap();
        assert_eq!((bytes[4095], bytes[4096]), (0, 7));
        // tmpfs has no FALLOC_FL_ZERO_RANGE.
        let zero = bench.operation(Action::Zero, 4096, 0, 4096);
        let error = bench.result(zero).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EOPNOTSUPP), "{kind:?}");
    }
}

#[test]
fn many_operations_are_done_in_whatever_order() {
    for kind in BOTH {
        let mut bench = Bench::new(kind);
        for round in 0..4_u8 {
            for slot in 0..64_u16 {
                let at = 4096 * u64::from(slot);
                let bytes = [round + slot as u8; 512];
                bench.memory.write_slice(&bytes, GuestAddress(at)).unwrap();
                let write = bench.operation(Action::Write { stable: false }, at, at, 512);
                bench.engine.push(slot, write);
            }
            for result in bench.results(64) {
                assert_eq!(result.unwrap(), 512);
            }
            let mut byte = [0];
            bench
                .file
                .read_exact_at(&mut byte, 4096 * 63 + 511)
                .unwrap();
            assert_eq!(byte, [round + 63]);
        }
    }
}

#[test]
fn what_is_on_its_way_is_waited_for_and_forgotten() {
    for kind in BOTH {
        let mut bench = Bench::new(kind);
        for submit in [true, false] {
            for slot in 0..64 {
                let write = bench.operation(Action::Write { stable: true }, 0, 0, 65536);
                bench.engine.push(slot, write);
            }
            if submit {
                assert!(bench.engine.submit().unwrap());
            }
            bench.engine.drain();
            assert_eq!(Arc::strong_count(&bench.memory), 1, "{kind:?}");
            let mut done = Vec::new();
            bench.engine.reap(&mut done);
            assert!(done.is_empty());
        }
        // And it works on.
        let read = bench.operation(Action::Read, 0, 0, 512);
        assert_eq!(bench.result(read).unwrap(), 512);
    }
}

#[test]
fn an_engine_that_is_dropped_leaves_nothing_behind() {
    for kind in BOTH {
        let Bench {
            mut engine,
            memory,
            file,
        } = Bench::new(kind);
        let mut vectors = Vectors::new(memory.clone());
        let address = GuestAddress(0);
        let len = 1 << 16;
        vectors.set_guest(&[Buffer { address, len }], 0);
        engine.push(
            0,
            Operation {
                action: Action::Read,
                offset: 0,
                len: 0,
                vectors,
            },
        );
        engine.submit().unwrap();
        drop(engine);
        assert_eq!(
            (Arc::strong_count(&memory), Arc::strong_count(&file)),
            (1, 1)
        );
    }
}
