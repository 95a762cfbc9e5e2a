//! A host without room for what its guest writes.
#![allow(missing_docs, clippy::unwrap_used, clippy::panic)]

mod common;

use std::{
    fs::File,
    os::unix::fs::FileExt,
    path::PathBuf,
    sync::{Arc, Mutex},
    thread,
};

use common::*;
use minivmm_block::{BlockOptions, EngineKind, OnEnospc};
use rustix::{
    mount::{MountFlags, MountPropagationFlags, mount, mount_change},
    process::geteuid,
    thread::UnshareFlags,
};

/// Room of the host, in bytes.
const ROOM: usize = 256 << 10;
/// What is in the way.
const BALLAST: usize = 192 << 10;

/// A file system with little room, an image on it, and a file that takes most of the room.
struct Host {
    image: File,
    ballast: File,
}

/// Runs `test` on a thread with a file system of its own.
fn with_little_room(test: impl FnOnce(Host) + Send) {
    assert!(
        geteuid().is_root(),
        "this test mounts a file system: run it as root"
    );
    thread::scope(|scope| {
        let thread = scope.spawn(|| {
            unshare();
            let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
            mount_change("/", private).unwrap();
            let directory = tempfile::tempdir().unwrap();
            let options = std::ffi::CString::new(format!("size={ROOM}")).unwrap();
            mount(
                "tmpfs",
                directory.path(),
                "tmpfs",
                MountFlags::empty(),
                Some(&*options),
            )
            .unwrap();
            let open = |name: &str| {
                let path: PathBuf = directory.path().join(name);
                let mut options = File::options();
                options.read(true).write(true).create(true).truncate(false);
                options.open(path).unwrap()
            };
            let (image, ballast) = (open("image"), open("ballast"));
            image.set_len(SIZE).unwrap();
            ballast.write_all_at(&[1; BALLAST], 0).unwrap();
            test(Host { image, ballast });
            rustix::mount::unmount(directory.path(), rustix::mount::UnmountFlags::DETACH).unwrap();
        });
        if let Err(panic) = thread.join() {
            std::panic::resume_unwind(panic);
        }
    });
}

#[allow(unsafe_code)]
fn unshare() {
    // SAFETY: descriptors stay shared.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNS) }.unwrap();
}

fn options(engine: EngineKind, on_enospc: OnEnospc) -> BlockOptions {
    BlockOptions {
        on_enospc,
        ..plain(engine)
    }
}

/// Makes 32 writes of 8 KiB, of which the host has room for 8, and gives the first one's number.
fn write_too_much(guest: &mut Guest) -> u16 {
    let first = guest.queues[0].driver.avail_idx();
    for n in 0..32_u64 {
        guest.add(0, OUT, 16 * n, &[n as u8 + 1; 8192], 0);
    }
    guest.notify(0);
    first
}

#[test]
fn a_write_without_room_is_an_error_if_that_is_wanted() {
    for engine in BOTH {
        with_little_room(|host| {
            let mut guest = Guest::new(&host.image, options(engine, OnEnospc::Error));
            let first = write_too_much(&mut guest);
            guest.used(0, 32);
            let statuses: Vec<u8> = (0..32).map(|n| guest.answer(0, first + n, 0).0).collect();
            let failed = statuses.iter().filter(|status| **status == IOERR).count();
            assert_eq!(failed, 24, "{statuses:?}");
            for (n, status) in (0..32_u64).zip(statuses) {
                let bytes = bytes_at(&host.image, 8192 * n, 8192);
                assert!(status != OK || bytes == [n as u8 + 1; 8192], "{n}");
            }
            assert_eq!(guest.counters.read().errors, 24);
            assert_eq!(guest.counters.read().waiting, 0);
            // What needs no room goes on.
            assert_eq!(guest.ask(FLUSH, 0, &[], 0).0, OK);
            host.ballast.set_len(0).unwrap();
            assert_eq!(guest.write(16 * 31, &[9; 8192]), OK);
        });
    }
}

#[test]
fn a_write_without_room_waits_until_there_is() {
    for engine in BOTH {
        with_little_room(|host| {
            let told = Arc::new(Mutex::new(Vec::new()));
            let mut options = options(engine, OnEnospc::Pause);
            let by_disk = told.clone();
            options.on_full = Some(Box::new(move |full| by_disk.lock().unwrap().push(full)));
            let mut guest = Guest::new(&host.image, options);
            let first = write_too_much(&mut guest);
            guest.used(0, 8);
            let counters = guest.counters.clone();
            eventually("they wait", || counters.read().waiting == 24);
            assert_eq!(counters.read().errors, 0);
            assert_eq!(*told.lock().unwrap(), [true]);
            // Reads and flushes do not.
            assert_eq!(guest.read(2040, 512), [0; 512]);
            assert_eq!(guest.ask(FLUSH, 0, &[], 0).0, OK);
            host.ballast.set_len(0).unwrap();
            guest.used(0, 24);
            for n in 0..32 {
                assert_eq!(guest.answer(0, first + n, 0).0, OK, "{n}");
                let bytes = bytes_at(&host.image, 8192 * u64::from(n), 8192);
                assert_eq!(bytes, [n as u8 + 1; 8192], "{n}");
            }
            assert_eq!(counters.read().waiting, 0);
            assert_eq!(counters.read().writes, 32);
            assert_eq!(*told.lock().unwrap(), [true, false]);
        });
    }
}

#[test]
fn zeros_without_room_wait_too() {
    for engine in BOTH {
        with_little_room(|host| {
            let mut guest = Guest::new(&host.image, options(engine, OnEnospc::Pause));
            let n = guest.queues[0].driver.avail_idx();
            let range = [0_u64.to_le_bytes(), 256_u64.to_le_bytes()].concat();
            guest.add(0, WRITE_ZEROES, 0, &range, 0);
            guest.notify(0);
            let counters = guest.counters.clone();
            eventually("it waits", || counters.read().waiting == 1);
            host.ballast.set_len(0).unwrap();
            guest.used(0, 1);
            assert_eq!(guest.answer(0, n, 0).0, OK);
            assert_eq!(counters.read().waiting, 0);
        });
    }
}

#[test]
fn a_reset_does_not_wait_for_room() {
    for engine in BOTH {
        with_little_room(|host| {
            let mut guest = Guest::new(&host.image, options(engine, OnEnospc::Pause));
            write_too_much(&mut guest);
            guest.used(0, 8);
            let counters = guest.counters.clone();
            eventually("they wait", || counters.read().waiting == 24);
            guest.reset();
            assert_eq!(counters.read().waiting, 0);
            guest.start();
            assert_eq!(guest.read(0, 512), bytes_at(&host.image, 0, 512));
            host.ballast.set_len(0).unwrap();
            assert_eq!(guest.write(16 * 31, &[9; 8192]), OK);
        });
    }
}
