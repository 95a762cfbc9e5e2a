//! The disk: requests that the fuzzer made up on rings that are in order, each of which is answered, or rings that it wrote
//! too, with each of the two engines. The image keeps its size whatever is asked, and the device comes back.
#![no_main]

use std::{fs::File, os::fd::AsFd, path::Path, sync::LazyLock, thread, time::Instant};

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use minivmm_block::{BlockDevice, BlockOptions, EngineKind, Image, ImageOptions, OnEnospc};
use minivmm_devices::test_utils::DriverQueue;
use minivmm_fuzz::{
    Access,
    virtio::{DEADLINE, Layout, Machine, Ring, VERSION_1},
};
use rustix::fs::{MemfdFlags, memfd_create};
use vm_memory::{Bytes, GuestAddress};

const MEMORY: usize = 0x8_0000;
const BUFFERS: u64 = 0x1_0000;
const LAYOUT: Layout = Layout {
    rings: 0x1000,
    size: 64,
    buffers: BUFFERS,
    address_mask: 0xf_ffff,
    len_mask: 0x1_ffff,
};
/// Bytes of the disk.
const DISK: u64 = 0x1_0000;
/// Requests of a round, three descriptors each.
const REQUESTS: usize = 16;
/// Where a request is: its header, its status and, behind, its data.
const REQUEST: u64 = 0x4000;

/// A request as a driver would make it.
#[derive(Arbitrary, Debug)]
struct Request {
    /// Of the first 16 types most exist.
    kind: u8,
    sector: u64,
    /// Whether the sector is one that the disk may have.
    near: bool,
    /// What the request has for the device, as the ranges of a discard.
    data: Vec<u8>,
    /// Bytes for the device and from it.
    out: u16,
    into: u16,
    /// Whether both are whole sectors.
    whole: bool,
}

#[derive(Arbitrary, Debug)]
struct Round {
    features: u64,
    requests: Vec<Request>,
    /// Instead of them.
    rings: Option<[Ring; 2]>,
    config: Vec<Access>,
}

#[derive(Arbitrary, Debug)]
struct Input {
    threads: bool,
    read_only: bool,
    rounds: Vec<Round>,
}

static IMAGE: LazyLock<File> = LazyLock::new(|| {
    let file = File::from(memfd_create("image", MemfdFlags::CLOEXEC).expect("there is memory"));
    file.set_len(DISK).expect("there is room");
    file
});

fuzz_target!(|input: Input| {
    let file = IMAGE.as_fd().try_clone_to_owned().expect("there are more");
    let options = ImageOptions {
        read_only: input.read_only,
        ..Default::default()
    };
    let image = Image::from_file(file.into(), Path::new("fuzz"), options).expect("it is a disk");
    let options = BlockOptions {
        name: "fuzz".to_owned(),
        serial: "fuzz".to_owned(),
        queues: 2,
        engine: match input.threads {
            true => EngineKind::Threads,
            false => EngineKind::Auto,
        },
        on_enospc: OnEnospc::Pause,
        on_full: None,
    };
    let device = BlockDevice::new(image, options).expect("there are engines");
    let machine = Machine::new(MEMORY, device);
    let (driver, memory) = (&machine.driver, &machine.memory);

    for round in input.rounds.iter().take(4) {
        assert!(driver.negotiate(VERSION_1 | driver.device_features() & round.features));
        for access in round.config.iter().take(4) {
            access.run_at(&*machine.bus.window(), 0x2000, 0x1000);
        }
        let mut queues = match &round.rings {
            Some(rings) => {
                put_requests(&machine, &round.requests);
                [0_u16, 1].map(|index| LAYOUT.lay(memory, index, &rings[usize::from(index)]))
            }
            None => [0_u16, 1].map(|index| {
                DriverQueue::new(
                    memory,
                    LAYOUT.rings + 0x1000 * u64::from(index),
                    LAYOUT.size,
                )
            }),
        };
        if round.rings.is_none() {
            put_requests(&machine, &round.requests);
            for (n, request) in round.requests.iter().take(REQUESTS).enumerate() {
                add(&mut queues[n % 2], n, request);
            }
        }
        for (index, queue) in (0..).zip(&queues) {
            driver.enable_queue(index, queue);
        }
        assert!(driver.start());
        for index in 0..2 {
            driver.notify_slowly(index);
        }
        if round.rings.is_none() {
            answered(&machine, &mut queues, round.requests.len().min(REQUESTS));
        }
        machine.reset();
    }
    machine.stop();
    assert_eq!(IMAGE.metadata().expect("it is open").len(), DISK);
});

/// Writes headers and data of the requests into memory.
fn put_requests(machine: &Machine, requests: &[Request]) {
    for (n, request) in requests.iter().take(REQUESTS).enumerate() {
        let at = BUFFERS + REQUEST * n as u64;
        let sector = match request.near {
            true => request.sector % (2 * DISK / 512),
            false => request.sector,
        };
        let mut bytes = u32::from(request.kind & 15).to_le_bytes().to_vec();
        bytes.extend([0; 4]);
        bytes.extend(sector.to_le_bytes());
        bytes.extend([0xee; 16]);
        bytes.extend(&request.data[..request.data.len().min(0x400)]);
        machine
            .memory
            .write_slice(&bytes, GuestAddress(at))
            .expect("it is memory");
    }
}

/// Makes request `n` available.
fn add(queue: &mut DriverQueue, n: usize, request: &Request) {
    let at = BUFFERS + REQUEST * n as u64;
    let size = |bytes: u16| {
        let bytes = u32::from(bytes & 0x1fff);
        if request.whole { bytes & !511 } else { bytes }
    };
    let (out, into) = (size(request.out), size(request.into));
    let mut readable = vec![(at, 16)];
    if out > 0 {
        readable.push((at + 32, out));
    }
    let mut writable = vec![];
    if into > 0 {
        writable.push((at + 32, into));
    }
    writable.push((at + 16, 1));
    // A queue has 64 descriptors for 8 requests of 4 at most.
    queue.add(&readable, &writable);
}

/// Waits until so many requests are answered, each with a status that there is.
fn answered(machine: &Machine, queues: &mut [DriverQueue; 2], count: usize) {
    let until = Instant::now() + DEADLINE;
    let mut done = 0;
    while done < count {
        let used = queues.iter_mut().find_map(DriverQueue::take_used);
        done += usize::from(used.is_some());
        assert!(Instant::now() < until, "a request is not answered");
        thread::yield_now();
    }
    for n in 0..count {
        let at = BUFFERS + REQUEST * n as u64 + 16;
        let status: u8 = machine
            .memory
            .read_obj(GuestAddress(at))
            .expect("it is memory");
        assert!(status <= 2, "request {n} has the status {status:#x}");
    }
}
