//! A guest's driver of a disk.
#![allow(dead_code, missing_docs, clippy::unwrap_used, clippy::panic)]

use std::{
    fs::File,
    os::{fd::AsFd, unix::fs::FileExt},
    path::Path,
    sync::Arc,
    thread,
    time::Instant,
};

use minivmm_block::{
    BlockDevice, BlockOptions, Counters, EngineKind, Image, ImageOptions, OnEnospc,
};
use minivmm_devices::{
    GuestMemory,
    test_utils::{DEADLINE, DriverQueue, guest_memory, readable},
    virtio::{
        Activation, ActiveQueue, DeviceInterrupt, DeviceStatus, QueueInterrupt, VirtioDevice,
        Worker,
    },
};
use rustix::fs::{MemfdFlags, memfd_create};
use virtio_bindings::virtio_config::VIRTIO_CONFIG_S_NEEDS_RESET;
use vm_memory::{Bytes, GuestAddress};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

pub const BOTH: [EngineKind; 2] = [EngineKind::IoUring, EngineKind::Threads];

pub const IN: u32 = 0;
pub const OUT: u32 = 1;
pub const FLUSH: u32 = 4;
pub const GET_ID: u32 = 8;
pub const DISCARD: u32 = 11;
pub const WRITE_ZEROES: u32 = 13;

pub const OK: u8 = 0;
pub const IOERR: u8 = 1;
pub const UNSUPP: u8 = 2;

pub const F_FLUSH: u64 = 1 << 9;

const MEMORY: usize = 0x80_0000;
const RINGS: u64 = 0x1_0000;
/// Headers and status bytes, by descriptor.
const HEADERS: u64 = 0x10_0000;
/// Data of the requests, by descriptor.
pub const DATA: u64 = 0x20_0000;
/// Room for each.
pub const ROOM: u64 = 0x4000;
pub const SIZE: u64 = 1 << 20;

/// A file in memory of `size` bytes.
pub fn memory_file(size: u64) -> File {
    let file = File::from(memfd_create("image", MemfdFlags::CLOEXEC).unwrap());
    file.set_len(size).unwrap();
    file
}

/// An image on `file`.
pub fn image(file: &File, options: ImageOptions) -> Image {
    let file = File::from(file.as_fd().try_clone_to_owned().unwrap());
    Image::from_file(file, Path::new("test"), options).unwrap()
}

/// Options of a disk without any.
pub fn plain(engine: EngineKind) -> BlockOptions {
    BlockOptions {
        name: "test".to_owned(),
        serial: "S-1".to_owned(),
        queues: 1,
        engine,
        on_enospc: OnEnospc::Pause,
        on_full: None,
    }
}

pub struct Side {
    pub driver: DriverQueue,
    notify: EventFd,
    interrupt: Arc<EventFd>,
}

/// A disk whose driver is the test.
pub struct Guest {
    pub memory: Arc<GuestMemory>,
    pub status: DeviceStatus,
    pub counters: Arc<Counters>,
    pub queues: Vec<Side>,
    pub features: u64,
    worker: Option<Worker>,
    device: Option<Box<dyn VirtioDevice>>,
}

impl Guest {
    /// With all features of a disk on `file`.
    pub fn new(file: &File, options: BlockOptions) -> Self {
        Self::on(image(file, ImageOptions::default()), options)
    }

    pub fn on(image: Image, options: BlockOptions) -> Self {
        let device = BlockDevice::new(image, options).unwrap();
        let mut guest = Self {
            memory: guest_memory(MEMORY),
            status: DeviceStatus::default(),
            counters: device.counters(),
            queues: Vec::new(),
            features: device.features() | 1 << 32,
            worker: None,
            device: Some(Box::new(device)),
        };
        guest.start();
        guest
    }

    /// Gives the disk to its driver with rings that are new.
    pub fn start(&mut self) {
        let device = self.device.take().unwrap();
        self.status = DeviceStatus::default();
        self.queues.clear();
        let vector = QueueInterrupt::new(None);
        let interrupt = DeviceInterrupt::new("test".into(), self.status.clone(), vector);
        let mut active = Vec::new();
        for index in 0..device.queue_sizes().len() as u16 {
            let driver = DriverQueue::new(&self.memory, RINGS + 0x4000 * u64::from(index), 128);
            let notify = EventFd::new(EFD_NONBLOCK).unwrap();
            let event = Arc::new(EventFd::new(EFD_NONBLOCK).unwrap());
            active.push(ActiveQueue {
                index,
                queue: driver.queue(),
                notify: notify.try_clone().unwrap(),
                interrupt: QueueInterrupt::new(Some(event.clone())),
            });
            self.queues.push(Side {
                driver,
                notify,
                interrupt: event,
            });
        }
        let activation = Activation {
            memory: self.memory.clone(),
            features: self.features,
            queues: active,
            interrupt,
        };
        self.worker = Some(device.activate(activation).unwrap());
    }

    /// Asks for a reset, and waits for it.
    pub fn reset(&mut self) {
        let worker = self.worker.take().unwrap();
        worker.stop();
        assert!(worker.wait(Instant::now() + DEADLINE), "it does not stop");
        self.device = worker.join();
    }

    /// Makes a request available: `out` for the device, `into` bytes from it. Gives its head.
    pub fn add(&mut self, queue: usize, kind: u32, sector: u64, out: &[u8], into: u32) -> u16 {
        let side = &mut self.queues[queue];
        // Heads are multiples of two or three, whatever the data: each has its own place.
        let place = u64::from(side.driver.avail_idx() % 64) + 64 * queue as u64;
        let (header, status) = (HEADERS + 32 * place, HEADERS + 32 * place + 16);
        let data = DATA + ROOM * place;
        let mut bytes = kind.to_le_bytes().to_vec();
        bytes.extend([0; 4]);
        bytes.extend(sector.to_le_bytes());
        self.memory
            .write_slice(&bytes, GuestAddress(header))
            .unwrap();
        self.memory
            .write_obj(0xee_u8, GuestAddress(status))
            .unwrap();
        self.memory.write_slice(out, GuestAddress(data)).unwrap();
        let mut readable = vec![(header, 16)];
        if !out.is_empty() {
            readable.push((data, out.len() as u32));
        }
        let mut writable = vec![];
        if into > 0 {
            writable.push((data, into));
        }
        writable.push((status, 1));
        side.driver.add(&readable, &writable)
    }

    pub fn notify(&self, queue: usize) {
        self.queues[queue].notify.write(1).unwrap();
    }

    /// Waits for `count` answers.
    pub fn used(&mut self, queue: usize, count: usize) -> Vec<(u16, u32)> {
        let side = &mut self.queues[queue];
        let mut used = Vec::new();
        while used.len() < count {
            match side.driver.take_used() {
                Some(entry) => used.push(entry),
                None => {
                    assert!(readable(&*side.interrupt, DEADLINE), "no answer");
                    side.interrupt.read().unwrap();
                }
            }
        }
        used
    }

    /// The status and the data of the request that was made available as the `n`th of its queue.
    pub fn answer(&self, queue: usize, n: u16, len: usize) -> (u8, Vec<u8>) {
        let place = u64::from(n % 64) + 64 * queue as u64;
        let status = HEADERS + 32 * place + 16;
        let mut data = vec![0; len];
        let at = GuestAddress(DATA + ROOM * place);
        self.memory.read_slice(&mut data, at).unwrap();
        (self.memory.read_obj(GuestAddress(status)).unwrap(), data)
    }

    /// Makes a request and waits for its answer: status, data, and what the used ring says of its length.
    pub fn ask(&mut self, kind: u32, sector: u64, out: &[u8], into: u32) -> (u8, Vec<u8>, u32) {
        let n = self.queues[0].driver.avail_idx();
        self.add(0, kind, sector, out, into);
        self.notify(0);
        let (_, written) = self.used(0, 1)[0];
        let (status, data) = self.answer(0, n, into as usize);
        (status, data, written)
    }

    pub fn write(&mut self, sector: u64, data: &[u8]) -> u8 {
        self.ask(OUT, sector, data, 0).0
    }

    pub fn read(&mut self, sector: u64, len: u32) -> Vec<u8> {
        let (status, data, written) = self.ask(IN, sector, &[], len);
        assert_eq!((status, written), (OK, len + 1));
        data
    }

    pub fn ranges(&mut self, kind: u32, ranges: &[(u64, u32, u32)]) -> u8 {
        let mut bytes = Vec::new();
        for (sector, count, flags) in ranges {
            bytes.extend(sector.to_le_bytes());
            bytes.extend(count.to_le_bytes());
            bytes.extend(flags.to_le_bytes());
        }
        self.ask(kind, 0, &bytes, 0).0
    }

    pub fn needs_reset(&self) -> bool {
        u32::from(self.status.get()) & VIRTIO_CONFIG_S_NEEDS_RESET != 0
    }

    pub fn wait_needs_reset(&self) {
        eventually("it needs a reset", || self.needs_reset());
    }
}

/// Waits until `is` says so.
pub fn eventually(what: &str, is: impl Fn() -> bool) {
    let until = Instant::now() + DEADLINE;
    while !is() {
        assert!(Instant::now() < until, "not in time: {what}");
        thread::yield_now();
    }
}

/// What `file` has at `offset`.
pub fn bytes_at(file: &File, offset: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    file.read_exact_at(&mut bytes, offset).unwrap();
    bytes
}
