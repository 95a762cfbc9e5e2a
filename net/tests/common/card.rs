//! A guest's driver for the card, and the host's UDP at the other end of its tap.

use std::{
    fs,
    net::UdpSocket,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    thread,
    time::Duration,
};

use minivmm_devices::{
    GuestMemory,
    test_utils::{DriverQueue, guest_memory, readable},
    virtio::{
        Activation, ActiveQueue, DeviceInterrupt, DeviceStatus, QueueInterrupt, VirtioDevice,
        Worker,
    },
};
use minivmm_net::{Counters, MacAddr, NetDevice, NetOptions, Tap, TapOptions};
use virtio_bindings::{
    virtio_config::{VIRTIO_CONFIG_S_NEEDS_RESET, VIRTIO_F_VERSION_1},
    virtio_ring::VIRTIO_RING_F_EVENT_IDX,
};
use vm_memory::{Bytes, GuestAddress};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::{in_namespace, ip};

pub const SOON: Duration = Duration::from_secs(10);
pub const MAC: &str = "02:00:00:00:00:01";
pub const HOST: &str = "192.0.2.1";
pub const PORT: u16 = 5300;
pub const HEADER: usize = 12;
/// Ethernet, IPv4 and UDP.
pub const HEADERS: usize = 14 + 20 + 8;

pub const RX_RING: u64 = 0x1_0000;
pub const TX_RING: u64 = 0x2_0000;
pub const TABLE: u64 = 0x3_0000;
pub const RX_BUFFERS: u64 = 0x4_0000;
pub const TX_BUFFERS: u64 = 0x10_0000;
pub const MEMORY: usize = 0x20_0000;
/// Rings of further queues, 64 KiB apart.
pub const MORE_RINGS: u64 = 0x18_0000;

/// The options of a card without any.
pub fn plain() -> NetOptions {
    NetOptions {
        mac: MAC.parse().unwrap(),
        mtu: None,
        offload: true,
    }
}

/// The host's side: a tap with an address, and a socket that speaks to the guest's.
pub struct Host {
    /// The tap's; different in every test, because the card's thread is called after it.
    pub name: String,
    pub socket: UdpSocket,
    pub mac: [u8; 6],
}

impl Host {
    pub fn new() -> (Self, Tap) {
        Self::with_queues(1)
    }

    pub fn with_queues(queues: usize) -> (Self, Tap) {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("vm-{}", COUNT.fetch_add(1, Ordering::Relaxed));
        let kind = if queues > 1 { " multi_queue" } else { "" };
        ip(&format!("tuntap add dev {name} mode tap{kind}"));
        let options = TapOptions {
            queues,
            ..Default::default()
        };
        let tap = Tap::open(&name, &options).unwrap();
        ip(&format!("link set {name} mtu 9000 up"));
        ip(&format!("address add {HOST}/24 dev {name}"));
        ip(&format!("neighbour add 192.0.2.2 lladdr {MAC} dev {name}"));
        let socket = UdpSocket::bind((HOST, PORT)).unwrap();
        socket.set_read_timeout(Some(SOON)).unwrap();
        let mac = fs::read_to_string(format!("/sys/class/net/{name}/address")).unwrap();
        let mac = mac.trim().parse::<MacAddr>().unwrap().bytes();
        (Self { name, socket, mac }, tap)
    }

    pub fn send(&self, payload: &[u8]) {
        let sent = self.socket.send_to(payload, ("192.0.2.2", PORT)).unwrap();
        assert_eq!(sent, payload.len());
    }

    pub fn receive(&self) -> Vec<u8> {
        let mut buffer = vec![0; 0x1_0000];
        let (n, from) = self.socket.recv_from(&mut buffer).unwrap();
        assert_eq!(from.to_string(), format!("192.0.2.2:{PORT}"));
        buffer[..n].to_vec()
    }

    /// A frame from the guest's address with `payload` for the socket, behind a virtio-net header.
    pub fn frame(&self, payload: &[u8]) -> Vec<u8> {
        let be = |n: usize| u16::try_from(n).unwrap().to_be_bytes();
        let mut ip = vec![0x45, 0];
        ip.extend(be(28 + payload.len()));
        ip.extend([0, 0, 0, 0, 64, 17, 0, 0, 192, 0, 2, 2, 192, 0, 2, 1]);
        let sum: u32 = ip
            .chunks(2)
            .map(|word| u32::from(u16::from_be_bytes([word[0], word[1]])))
            .sum();
        let sum = !u16::try_from((sum & 0xffff) + (sum >> 16)).unwrap();
        ip[10..12].copy_from_slice(&sum.to_be_bytes());

        let mut frame = vec![0; HEADER];
        frame.extend(self.mac);
        frame.extend(MAC.parse::<MacAddr>().unwrap().bytes());
        frame.extend([0x08, 0x00]);
        frame.extend(ip);
        frame.extend(PORT.to_be_bytes().repeat(2));
        frame.extend(be(8 + payload.len()));
        frame.extend([0, 0]);
        frame.extend(payload);
        frame
    }
}

pub struct Side {
    pub driver: DriverQueue,
    pub notify: EventFd,
    pub call: Arc<EventFd>,
}

impl Side {
    pub fn new(memory: &Arc<GuestMemory>, at: u64, size: u16) -> Self {
        Self {
            driver: DriverQueue::new(memory, at, size),
            notify: EventFd::new(EFD_NONBLOCK).unwrap(),
            call: Arc::new(EventFd::new(EFD_NONBLOCK).unwrap()),
        }
    }

    pub fn active(&self, index: u16, features: u64) -> ActiveQueue {
        let queue = match features >> VIRTIO_RING_F_EVENT_IDX & 1 {
            0 => self.driver.queue(),
            _ => self.driver.queue_with_event_idx(),
        };
        ActiveQueue {
            index,
            queue,
            notify: self.notify.try_clone().unwrap(),
            interrupt: QueueInterrupt::new(Some(self.call.clone())),
        }
    }

    pub fn kick(&self) {
        self.notify.write(1).unwrap();
    }

    /// Waits for a used buffer.
    pub fn used(&mut self) -> (u16, u32) {
        loop {
            if let Some(used) = self.driver.take_used() {
                return used;
            }
            assert!(readable(&*self.call, SOON), "no used buffer");
            self.call.read().unwrap();
        }
    }
}

/// A guest whose driver has activated the card.
pub struct Guest {
    pub memory: Arc<GuestMemory>,
    pub rx: Side,
    pub tx: Side,
    /// Those after the first pair.
    pub more: Vec<Side>,
    pub status: DeviceStatus,
    pub broken: Arc<EventFd>,
    pub worker: Worker,
}

impl Guest {
    pub fn activate(device: Box<dyn VirtioDevice>) -> Self {
        Self::with_features(device, 0)
    }

    /// A driver that has negotiated `features`, and enables all queues that there are.
    pub fn with_features(device: Box<dyn VirtioDevice>, features: u64) -> Self {
        let features = features | 1 << VIRTIO_F_VERSION_1;
        let memory = guest_memory(MEMORY);
        let rx = Side::new(&memory, RX_RING, 256);
        let tx = Side::new(&memory, TX_RING, 256);
        let sizes = device.queue_sizes()[2..].to_vec();
        let more = (0..).zip(sizes);
        let more = more.map(|(i, size)| Side::new(&memory, MORE_RINGS + 0x1_0000 * i, size));
        let more: Vec<_> = more.collect();
        let mut queues = vec![rx.active(0, features), tx.active(1, features)];
        queues.extend((2..).zip(&more).map(|(i, side)| side.active(i, features)));
        let status = DeviceStatus::default();
        let broken = Arc::new(EventFd::new(EFD_NONBLOCK).unwrap());
        let worker = device
            .activate(Activation {
                memory: memory.clone(),
                features,
                queues,
                interrupt: DeviceInterrupt::new(
                    "net".into(),
                    status.clone(),
                    QueueInterrupt::new(Some(broken.clone())),
                ),
            })
            .unwrap();
        Self {
            memory,
            rx,
            tx,
            more,
            status,
            broken,
            worker,
        }
    }

    pub fn deactivate(self) -> Box<dyn VirtioDevice> {
        self.worker.stop();
        self.worker.join().unwrap()
    }

    pub fn wait_until_broken(&self) {
        assert!(readable(&*self.broken, SOON));
        assert_ne!(self.status.get() & VIRTIO_CONFIG_S_NEEDS_RESET as u8, 0);
    }

    /// Gives the device a buffer of `len` bytes for a frame.
    pub fn offer(&mut self, len: u32) {
        self.rx.driver.add(&[], &[(RX_BUFFERS, len)]);
        self.rx.kick();
    }

    /// Waits for the frame in the buffer that was offered last.
    pub fn receive(&mut self) -> Vec<u8> {
        let (_, len) = self.rx.used();
        let mut frame = vec![0; usize::try_from(len).unwrap()];
        self.memory
            .read_slice(&mut frame, GuestAddress(RX_BUFFERS))
            .unwrap();
        frame
    }

    /// Makes `frame` available in pieces of `sizes` bytes, the last of which has the rest.
    pub fn transmit(&mut self, frame: &[u8], sizes: &[usize]) {
        let buffers = self.lay(frame, sizes);
        self.tx.driver.add(&buffers, &[]);
        self.tx.kick();
    }

    /// Writes `frame` into memory; gives its pieces.
    pub fn lay(&self, frame: &[u8], sizes: &[usize]) -> Vec<(u64, u32)> {
        self.memory
            .write_slice(frame, GuestAddress(TX_BUFFERS))
            .unwrap();
        let mut buffers = Vec::new();
        let mut at = 0;
        for size in sizes.iter().copied().chain([usize::MAX]) {
            let size = size.min(frame.len() - at);
            buffers.push((TX_BUFFERS + at as u64, u32::try_from(size).unwrap()));
            at += size;
        }
        buffers
    }

    /// Sends a command with its data on the control queue, the last one; gives the answer.
    pub fn control(&mut self, class: u8, command: u8, data: &[u8]) -> u8 {
        let bytes = [&[class, command], data].concat();
        let buffers = self.lay(&bytes, &[2]);
        self.memory
            .write_obj(0xff_u8, GuestAddress(RX_BUFFERS - 1))
            .unwrap();
        let side = self.more.last_mut().unwrap();
        side.driver.add(&buffers, &[(RX_BUFFERS - 1, 1)]);
        side.kick();
        assert_eq!(side.used().1, 1);
        self.memory.read_obj(GuestAddress(RX_BUFFERS - 1)).unwrap()
    }
}

/// Runs `test` with a host, a guest and the card's counters.
pub fn with_card(test: impl FnOnce(Host, Guest, Arc<Counters>) + Send) {
    with_card_of(0, test);
}

/// The same with a driver that has negotiated `features`.
pub fn with_card_of(features: u64, test: impl FnOnce(Host, Guest, Arc<Counters>) + Send) {
    in_namespace(|| {
        let (host, tap) = Host::new();
        let device = NetDevice::new(tap, plain());
        let counters = device.counters();
        let guest = Guest::with_features(Box::new(device), features);
        test(host, guest, counters);
    });
}

/// The processor time that the card's thread uses while nothing is to be done.
pub fn idle_cost(host: &Host) -> Duration {
    let comm = format!("net-{}\n", host.name);
    let thread = fs::read_dir("/proc/self/task")
        .unwrap()
        .map(|task| task.unwrap().path())
        .find(|task| fs::read_to_string(task.join("comm")).is_ok_and(|name| name == comm))
        .unwrap();
    let used = || {
        let statistics = fs::read_to_string(thread.join("schedstat")).unwrap();
        Duration::from_nanos(statistics.split(' ').next().unwrap().parse().unwrap())
    };
    let before = used();
    // Not to wait for anything: this is the time that is measured.
    thread::sleep(Duration::from_millis(300));
    used() - before
}
