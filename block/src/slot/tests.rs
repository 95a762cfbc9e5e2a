#![allow(clippy::unwrap_used, clippy::panic)]

use std::{fs::File, path::Path};

use minivmm_devices::test_utils::guest_memory;
use rustix::fs::{MemfdFlags, memfd_create};

use super::*;
use crate::{Image, ImageOptions};

/// Two steps are never the same; a test asks for none.
impl PartialEq for Step {
    fn eq(&self, _: &Self) -> bool {
        false
    }
}

impl std::fmt::Debug for Step {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Do(_) => "Do",
            Self::Answer(_) => "Answer",
            Self::Wait => "Wait",
        })
    }
}

struct Bench {
    disk: Disk,
    memory: Arc<GuestMemory>,
    slot: Slot,
}

impl Bench {
    fn new(on_enospc: OnEnospc, wish: Wish) -> Self {
        let file = File::from(memfd_create("image", MemfdFlags::CLOEXEC).unwrap());
        file.set_len(1 << 20).unwrap();
        let image = Image::from_file(file, Path::new("test"), ImageOptions::default()).unwrap();
        let disk = Disk::new("test".to_owned(), image, [0; 20], (on_enospc, None));
        let memory = guest_memory(1 << 20);
        let mut slot = Slot::new(memory.clone());
        slot.begin(0, GuestAddress(0));
        slot.wish = wish;
        slot.data.push(Buffer {
            address: GuestAddress(0x1000),
            len: 4096,
        });
        Self { disk, memory, slot }
    }

    fn with_range(wish: Wish, unmap: bool) -> Self {
        let mut bench = Self::new(OnEnospc::Pause, wish);
        let (offset, len) = (512, 100 * 4096);
        bench.slot.ranges.push(Range { offset, len, unmap });
        bench
    }

    /// The next step's operation.
    fn operation(&mut self) -> Operation {
        match self.slot.step(&self.disk, &self.memory) {
            Step::Do(operation) => operation,
            Step::Answer(answer) => panic!("it is answered: {answer:?}"),
            Step::Wait => panic!("it waits"),
        }
    }

    fn answer(&mut self) -> Option<Answer> {
        match self.slot.step(&self.disk, &self.memory) {
            Step::Answer(answer) => Some(answer),
            _ => None,
        }
    }

    /// Does the next step with that result.
    fn does(&mut self, result: Result<u64, i32>) -> (Action, u64, Option<Step>) {
        let operation = self.operation();
        let (action, offset) = (operation.action, operation.offset);
        let result = result.map_err(io::Error::from_raw_os_error);
        let next = self.slot.take(operation, result, &self.disk, &self.memory);
        (action, offset, next)
    }
}

const WRITE: Wish = Wish::Write {
    offset: 8192,
    len: 4096,
};
const READ: Wish = Wish::Read {
    offset: 8192,
    len: 4096,
};
const STORE: Action = Action::Write { stable: false };

#[test]
fn what_comes_back_short_goes_on_where_it_was() {
    for (wish, action) in [(WRITE, STORE), (READ, Action::Read)] {
        let mut bench = Bench::new(OnEnospc::Pause, wish);
        assert_eq!(bench.operation().vectors.len(), 4096);
        let mut bench = Bench::new(OnEnospc::Pause, wish);
        for (bytes, at) in [(100, 8192), (3000, 8292), (996, 11292)] {
            let (did, offset, next) = bench.does(Ok(bytes));
            assert_eq!((did, offset), (action, at));
            assert!(next.is_none());
        }
        assert_eq!(bench.answer(), Some(Answer::Done));
        // Nothing more comes: the file is shorter than the disk.
        let mut bench = Bench::new(OnEnospc::Pause, wish);
        let (_, _, next) = bench.does(Ok(0));
        assert!(matches!(next, Some(Step::Answer(Answer::Failed))));
    }
}

#[test]
fn an_operation_that_was_interrupted_is_begun_again_but_not_for_ever() {
    let mut bench = Bench::new(OnEnospc::Pause, WRITE);
    for _ in 0..TRIES {
        assert!(bench.does(Err(libc::EINTR)).2.is_none());
    }
    let (_, _, next) = bench.does(Err(libc::EAGAIN));
    assert!(matches!(next, Some(Step::Answer(Answer::Failed))));
}

#[test]
fn only_what_needs_room_waits_for_it() {
    for code in [libc::ENOSPC, libc::EDQUOT] {
        let mut bench = Bench::new(OnEnospc::Pause, WRITE);
        assert!(bench.does(Ok(1000)).2.is_none());
        assert!(matches!(bench.does(Err(code)).2, Some(Step::Wait)));
        // It goes on where it was.
        assert_eq!(bench.does(Ok(3096)).1, 9192);
        assert_eq!(bench.answer(), Some(Answer::Done));
        for (on_enospc, wish) in [
            (OnEnospc::Error, WRITE),
            (OnEnospc::Pause, READ),
            (OnEnospc::Pause, Wish::Flush),
        ] {
            let mut bench = Bench::new(on_enospc, wish);
            let (_, _, next) = bench.does(Err(code));
            assert!(
                matches!(next, Some(Step::Answer(Answer::Failed))),
                "{wish:?}"
            );
        }
    }
    let mut bench = Bench::new(OnEnospc::Pause, WRITE);
    let (_, _, next) = bench.does(Err(libc::EIO));
    assert!(matches!(next, Some(Step::Answer(Answer::Failed))));
}

#[test]
fn a_flush_that_failed_once_is_never_said_to_have_succeeded() {
    let mut bench = Bench::new(OnEnospc::Pause, Wish::Flush);
    let (action, _, next) = bench.does(Err(libc::EIO));
    assert_eq!(action, Action::Flush);
    assert!(matches!(next, Some(Step::Answer(Answer::Failed))));
    for _ in 0..3 {
        bench.slot.begin(0, GuestAddress(0));
        assert_eq!(bench.answer(), Some(Answer::Failed));
    }
    // Reads and writes go on.
    bench.slot.wish = WRITE;
    assert!(bench.does(Ok(4096)).2.is_none());
}

#[test]
fn zeros_are_made_by_what_the_file_system_knows() {
    let mut bench = Bench::with_range(Wish::Zeroes, true);
    assert_eq!(bench.does(Err(libc::EOPNOTSUPP)).0, Action::Punch);
    assert_eq!(bench.does(Err(libc::EINVAL)).0, Action::Zero);
    assert_eq!(bench.does(Ok(4096)), (STORE, 512, None));
    assert_eq!(bench.does(Ok(99 * 4096)), (STORE, 4608, None));
    assert_eq!(bench.answer(), Some(Answer::Done));
    // What is not to be given back is not.
    let mut bench = Bench::with_range(Wish::Zeroes, false);
    assert_eq!(bench.does(Ok(0)), (Action::Zero, 512, None));
    assert_eq!(bench.answer(), Some(Answer::Done));
}

#[test]
fn a_discard_that_the_host_does_not_know_has_no_effect() {
    let mut bench = Bench::with_range(Wish::Discard, false);
    bench.slot.ranges.push(Range {
        offset: 0,
        len: 512,
        unmap: false,
    });
    assert_eq!(
        bench.does(Err(libc::EOPNOTSUPP)),
        (Action::Punch, 512, None)
    );
    assert_eq!(bench.does(Ok(0)), (Action::Punch, 0, None));
    assert_eq!(bench.answer(), Some(Answer::Done));
}

#[test]
fn without_flushes_ranges_are_flushed_before_they_are_answered() {
    let mut bench = Bench::with_range(Wish::Discard, false);
    bench.slot.writethrough = true;
    assert_eq!(bench.does(Ok(0)).0, Action::Punch);
    assert_eq!(bench.does(Ok(0)).0, Action::Flush);
    assert_eq!(bench.answer(), Some(Answer::Done));
}
