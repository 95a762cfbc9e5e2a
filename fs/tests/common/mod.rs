//! A guest's driver for virtio-fs, as small as it can be, and the real virtiofsd.
#![allow(dead_code, missing_docs, clippy::unwrap_used, clippy::panic)]

pub mod back_end;

use std::{
    fs::File,
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use minivmm_devices::{
    GuestMemory,
    test_utils::{DriverQueue, readable},
    virtio::{
        Activation, ActiveQueue, DeviceInterrupt, DeviceStatus, QueueInterrupt, VirtioDevice,
        Worker,
    },
};
use minivmm_fs::{Program, Share, Tag, Virtiofsd, virtiofsd::Options};
use virtio_bindings::virtio_config::{VIRTIO_CONFIG_S_NEEDS_RESET, VIRTIO_F_VERSION_1};
use vm_memory::{Bytes, FileOffset, GuestAddress};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

/// For everything that is to happen at once.
pub const SOON: Duration = Duration::from_secs(10);

const FUSE_INIT: u32 = 26;
const FUSE_MKDIR: u32 = 9;
const FUSE_ROOT: u64 = 1;

/// The virtiofsd under test.
pub fn program() -> Program {
    let named = std::env::var_os("MINIVMM_VIRTIOFSD").map(PathBuf::from);
    Program::find(named.as_deref())
        .unwrap_or_else(|error| panic!("{error} (`cargo xtask tools` builds it and says the path)"))
}

/// A share with a virtiofsd of its own.
pub struct Served {
    pub share: tempfile::TempDir,
    pub runtime: tempfile::TempDir,
    pub virtiofsd: Virtiofsd,
    pub socket: Option<UnixStream>,
}

impl Served {
    pub fn new() -> Self {
        let share = tempfile::tempdir().unwrap();
        let runtime = tempfile::tempdir().unwrap();
        Self::with(share, runtime)
    }

    pub fn with_options(options: Options) -> Self {
        let share = tempfile::tempdir().unwrap();
        Self::serve(share, tempfile::tempdir().unwrap(), options)
    }

    pub fn with(share: tempfile::TempDir, runtime: tempfile::TempDir) -> Self {
        Self::serve(share, runtime, Options::default())
    }

    pub fn serve(share: tempfile::TempDir, runtime: tempfile::TempDir, options: Options) -> Self {
        let what = Share {
            options,
            ..share_of(share.path())
        };
        let (virtiofsd, socket) = Virtiofsd::spawn(&what, &program(), runtime.path()).unwrap();
        Self {
            share,
            runtime,
            virtiofsd,
            socket: Some(socket),
        }
    }
}

pub fn tag() -> Tag {
    "data".parse().unwrap()
}

pub fn share_of(source: &Path) -> Share {
    Share {
        tag: tag(),
        source: source.to_owned(),
        options: Options::default(),
    }
}

/// Whether the device said that it needs a reset.
pub fn needs_reset(status: &DeviceStatus) -> bool {
    status.get() & VIRTIO_CONFIG_S_NEEDS_RESET as u8 != 0
}

/// `size` bytes of guest memory that another process can map.
pub fn shared_memory(size: usize) -> Arc<GuestMemory> {
    let fd = rustix::fs::memfd_create("guest", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
    let file = File::from(fd);
    file.set_len(size as u64).unwrap();
    let range = (GuestAddress(0), size, Some(FileOffset::new(file, 0)));
    Arc::new(GuestMemory::from_ranges_with_files([range]).unwrap())
}

const MEMORY: usize = 1 << 20;
const RINGS: [u64; 2] = [0x1_0000, 0x2_0000];
const REQUEST: u64 = 0x4_0000;
const REPLY: u64 = 0x5_0000;
const REPLY_LEN: u32 = 0x1000;

/// A guest whose driver has activated a device.
pub struct Guest {
    memory: Arc<GuestMemory>,
    requests: DriverQueue,
    notify: EventFd,
    call: Arc<EventFd>,
    status: DeviceStatus,
    worker: Worker,
    unique: u64,
}

impl Guest {
    pub fn activate(device: Box<dyn VirtioDevice>) -> Self {
        Self::activate_with(device, shared_memory(MEMORY))
    }

    pub fn activate_with(device: Box<dyn VirtioDevice>, memory: Arc<GuestMemory>) -> Self {
        let drivers = RINGS.map(|at| DriverQueue::new(&memory, at, 64));
        let status = DeviceStatus::default();
        let event = || EventFd::new(EFD_NONBLOCK).unwrap();
        let calls = [Arc::new(event()), Arc::new(event())];
        let notifies = [event(), event()];
        let queues = (0..2)
            .map(|i: u16| {
                let at = usize::from(i);
                ActiveQueue {
                    index: i,
                    queue: drivers[at].queue(),
                    notify: notifies[at].try_clone().unwrap(),
                    interrupt: QueueInterrupt::new(Some(calls[at].clone())),
                }
            })
            .collect();
        let interrupt =
            DeviceInterrupt::new("fs".into(), status.clone(), QueueInterrupt::new(None));
        let worker = device
            .activate(Activation {
                memory: memory.clone(),
                features: 1 << VIRTIO_F_VERSION_1,
                queues,
                interrupt,
            })
            .unwrap();
        let [_, requests] = drivers;
        let [_, notify] = notifies;
        let [_, call] = calls;
        Self {
            memory,
            requests,
            notify,
            call,
            status,
            worker,
            unique: 0,
        }
    }

    /// The driver resets the device, and takes it into use again.
    pub fn reset(self) -> Self {
        Self::activate(self.deactivate())
    }

    pub fn deactivate(self) -> Box<dyn VirtioDevice> {
        self.worker.stop();
        self.worker.join().unwrap()
    }

    pub fn status(&self) -> DeviceStatus {
        self.status.clone()
    }

    /// FUSE_INIT; gives the protocol version of the answer.
    pub fn init(&mut self) -> (u32, u32) {
        let mut body = Vec::new();
        for word in [7_u32, 31, 0x1000, 0] {
            body.extend(word.to_le_bytes());
        }
        let reply = self.request(FUSE_INIT, 0, &body).unwrap();
        let word = |at: usize| u32::from_le_bytes(reply[at..at + 4].try_into().unwrap());
        (word(0), word(4))
    }

    /// FUSE_MKDIR in the share's root, as the guest's user `uid`.
    pub fn mkdir(&mut self, name: &str, uid: u32) -> Result<(), i32> {
        let mut body = Vec::new();
        for word in [0o755_u32, 0] {
            body.extend(word.to_le_bytes());
        }
        body.extend(name.as_bytes());
        body.push(0);
        self.request(FUSE_MKDIR, uid, &body).map(|_| ())
    }

    /// Makes a request available, of which no answer is expected.
    pub fn leave_pending(&mut self) {
        self.requests.add(&[(REQUEST, 40)], &[(REPLY, REPLY_LEN)]);
        self.notify.write(1).unwrap();
    }

    /// One FUSE request on the request queue (linux/fuse.h); gives the answer without its header, or the
    /// errno.
    fn request(&mut self, opcode: u32, uid: u32, body: &[u8]) -> Result<Vec<u8>, i32> {
        self.unique += 1;
        let len = 40 + u32::try_from(body.len()).unwrap();
        let mut request = Vec::new();
        request.extend(len.to_le_bytes());
        request.extend(opcode.to_le_bytes());
        request.extend(self.unique.to_le_bytes());
        request.extend(FUSE_ROOT.to_le_bytes());
        for word in [uid, uid, 1, 0] {
            request.extend(word.to_le_bytes());
        }
        request.extend(body);
        self.memory
            .write_slice(&request, GuestAddress(REQUEST))
            .unwrap();
        let head = self.requests.add(&[(REQUEST, len)], &[(REPLY, REPLY_LEN)]);
        self.notify.write(1).unwrap();
        let (used, written) = loop {
            if let Some(used) = self.requests.take_used() {
                break used;
            }
            assert!(readable(&*self.call, SOON), "no answer from virtiofsd");
            self.call.read().unwrap();
        };
        assert_eq!(used, head);
        let mut reply = vec![0; usize::try_from(written).unwrap()];
        self.memory
            .read_slice(&mut reply, GuestAddress(REPLY))
            .unwrap();
        let error = i32::from_le_bytes(reply[4..8].try_into().unwrap());
        let unique = u64::from_le_bytes(reply[8..16].try_into().unwrap());
        assert_eq!(unique, self.unique);
        if error == 0 {
            Ok(reply.split_off(16))
        } else {
            Err(-error)
        }
    }
}
