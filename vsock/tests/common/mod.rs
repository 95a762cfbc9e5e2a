//! A guest's driver for the socket device.
#![allow(dead_code, clippy::unwrap_used, clippy::panic)]

use std::{
    collections::VecDeque,
    io::{Read, Write},
    os::{
        linux::net::SocketAddrExt,
        unix::net::{SocketAddr, UnixListener, UnixStream},
    },
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering, fence},
        mpsc,
    },
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
use minivmm_vsock::{
    Answers, HOST_CID, Ports, VsockDevice, VsockOptions,
    packet::{HEADER, Header, Op, STREAM},
};
use virtio_bindings::{
    virtio_config::VIRTIO_CONFIG_S_NEEDS_RESET, virtio_ring::VIRTIO_RING_F_EVENT_IDX,
};
use vm_memory::{Bytes, GuestAddress};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

pub const SOON: Duration = Duration::from_secs(20);
pub const CID: u64 = 7;
/// The guest's room on every stream.
pub const ROOM: u32 = 0x4_0000;
/// Bytes of each buffer for packets from the device, as Linux has them.
pub const BUFFER: u32 = 4096;
/// How many.
pub const BUFFERS: u64 = 64;

const RX_RING: u64 = 0x1_0000;
const TX_RING: u64 = 0x2_0000;
const RX_BUFFERS: u64 = 0x10_0000;
const TX_BUFFER: u64 = 0x20_0000;
const MEMORY: usize = 0x40_0000;

/// What the device asked and told.
pub struct Asked {
    pub questions: mpsc::Receiver<(u64, u32)>,
    pub texts: mpsc::Receiver<Vec<u8>>,
    pub answers: Arc<Answers>,
    pub address: SocketAddr,
}

impl Asked {
    /// A client that has connected to the device and said nothing yet.
    pub fn client(&self) -> UnixStream {
        let client = UnixStream::connect_addr(&self.address).unwrap();
        client.set_read_timeout(Some(SOON)).unwrap();
        client.set_write_timeout(Some(SOON)).unwrap();
        client
    }

    pub fn client_to(&self, port: u32) -> UnixStream {
        let mut client = self.client();
        writeln!(client, "CONNECT {port}").unwrap();
        client
    }
}

/// A device; port 22 of the guest and 9000 of the host may be connected to.
pub fn device() -> (VsockDevice, Asked) {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let name = format!("minivmm-vsock-{}-{count}", std::process::id());
    let address = SocketAddr::from_abstract_name(name).unwrap();
    let listener = UnixListener::bind_addr(&address).unwrap();
    listener.set_nonblocking(true).unwrap();
    let answers = Arc::new(Answers::new().unwrap());
    let (ask, questions) = mpsc::channel();
    let (tell, texts) = mpsc::channel();
    let (ask, tell) = (Mutex::new(ask), Mutex::new(tell));
    let device = VsockDevice::new(VsockOptions {
        cid: CID as u32,
        listener: Some(listener),
        to_guest: Ports::from_iter([22]),
        to_host: Ports::from_iter([9000]),
        ask: Box::new(move |id, port| ask.lock().unwrap().send((id, port)).is_ok()),
        answers: answers.clone(),
        on_notify: Some(Box::new(move |text| {
            let _ = tell.lock().unwrap().send(text.to_vec());
        })),
    });
    let asked = Asked {
        questions,
        texts,
        answers,
        address,
    };
    (device, asked)
}

struct Side {
    driver: DriverQueue,
    notify: EventFd,
    call: Arc<EventFd>,
}

impl Side {
    fn new(memory: &Arc<GuestMemory>, at: u64) -> Self {
        Self {
            driver: DriverQueue::new(memory, at, 128),
            notify: EventFd::new(EFD_NONBLOCK).unwrap(),
            call: Arc::new(EventFd::new(EFD_NONBLOCK).unwrap()),
        }
    }

    fn active(&self, index: u16, event_idx: bool) -> ActiveQueue {
        ActiveQueue {
            index,
            queue: match event_idx {
                true => self.driver.queue_with_event_idx(),
                false => self.driver.queue(),
            },
            notify: self.notify.try_clone().unwrap(),
            interrupt: QueueInterrupt::new(Some(self.call.clone())),
        }
    }

    fn used(&mut self, timeout: Duration) -> Option<(u16, u32)> {
        loop {
            // With VIRTIO_F_EVENT_IDX no interrupt comes that was not asked for.
            self.driver.set_used_event(self.driver.next_used());
            fence(Ordering::SeqCst);
            if let Some(used) = self.driver.take_used() {
                return Some(used);
            }
            if !readable(&*self.call, timeout) {
                return None;
            }
            self.call.read().unwrap();
        }
    }
}

/// A guest whose driver has activated the device.
pub struct Guest {
    memory: Arc<GuestMemory>,
    rx: Side,
    tx: Side,
    name: String,
    status: DeviceStatus,
    broken: Arc<EventFd>,
    worker: Worker,
    /// Packets that were received before one was waited for.
    early: VecDeque<(Header, Vec<u8>)>,
}

impl Guest {
    pub fn activate(device: Box<dyn VirtioDevice>) -> Self {
        let mut guest = Self::without_buffers(device, false);
        guest.offer(BUFFERS);
        guest
    }

    pub fn without_buffers(device: Box<dyn VirtioDevice>, event_idx: bool) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let memory = guest_memory(MEMORY);
        let (rx, tx) = (Side::new(&memory, RX_RING), Side::new(&memory, TX_RING));
        let status = DeviceStatus::default();
        let broken = Arc::new(EventFd::new(EFD_NONBLOCK).unwrap());
        let name = format!("vsock{}", COUNT.fetch_add(1, Ordering::Relaxed));
        let worker = device
            .activate(Activation {
                memory: memory.clone(),
                features: u64::from(event_idx) << VIRTIO_RING_F_EVENT_IDX,
                queues: vec![rx.active(0, event_idx), tx.active(1, event_idx)],
                interrupt: DeviceInterrupt::new(
                    name.as_str().into(),
                    status.clone(),
                    QueueInterrupt::new(Some(broken.clone())),
                ),
            })
            .unwrap();
        Self {
            memory,
            rx,
            tx,
            name,
            status,
            broken,
            worker,
            early: VecDeque::new(),
        }
    }

    pub fn deactivate(self) -> Box<dyn VirtioDevice> {
        self.worker.stop();
        self.worker.join().unwrap()
    }

    /// Gives the device so many buffers, at most [`BUFFERS`] altogether.
    pub fn offer(&mut self, count: u64) {
        for n in 0..count {
            self.rx
                .driver
                .add(&[], &[(RX_BUFFERS + n * u64::from(BUFFER), BUFFER)]);
        }
        self.rx.notify.write(1).unwrap();
    }

    /// Waits for a packet, and gives the device its buffer back.
    pub fn receive(&mut self) -> (Header, Vec<u8>) {
        self.receive_within(SOON).expect("a packet")
    }

    pub fn receive_within(&mut self, timeout: Duration) -> Option<(Header, Vec<u8>)> {
        if let Some(packet) = self.early.pop_front() {
            return Some(packet);
        }
        let (head, len) = self.rx.used(timeout)?;
        // Every buffer is one descriptor, and all are used in turn.
        let at = RX_RING + 16 * u64::from(head);
        let address: u64 = self.memory.read_obj(GuestAddress(at)).unwrap();
        let mut bytes = vec![0; len as usize];
        self.memory
            .read_slice(&mut bytes, GuestAddress(address))
            .unwrap();
        self.rx.driver.publish(head);
        self.rx.notify.write(1).unwrap();
        let header = Header::from_bytes(bytes[..HEADER].try_into().unwrap());
        assert_eq!(header.src_cid, HOST_CID);
        assert_eq!(header.dst_cid, CID);
        assert_eq!(header.kind, STREAM);
        assert_eq!(header.len as usize, bytes.len() - HEADER);
        Some((header, bytes.split_off(HEADER)))
    }

    /// Waits for a packet that is no word about room.
    pub fn receive_op(&mut self, op: Op) -> (Header, Vec<u8>) {
        loop {
            let packet = self.receive();
            if packet.0.op == op as u16 {
                return packet;
            }
            let other = Op::new(packet.0.op).unwrap();
            assert!(
                matches!(other, Op::CreditUpdate | Op::CreditRequest),
                "{other:?} instead of {op:?}"
            );
        }
    }

    /// Nothing comes.
    pub fn hears_nothing(&mut self) {
        let heard = self.receive_within(Duration::from_millis(100));
        assert!(heard.is_none(), "{heard:?}");
    }

    /// Sends a packet as it is, and waits until the device has taken it.
    pub fn send(&mut self, header: &Header, data: &[u8]) {
        self.push(header, data);
        self.tx.used(SOON).expect("the packet is taken");
    }

    /// Sends a packet in two pieces, the header and its bytes.
    pub fn push(&mut self, header: &Header, data: &[u8]) {
        self.push_raw(&header.to_bytes(), data);
    }

    pub fn push_raw(&mut self, header: &[u8], data: &[u8]) {
        let bytes = [header, data].concat();
        self.memory
            .write_slice(&bytes, GuestAddress(TX_BUFFER))
            .unwrap();
        let parts = [
            (TX_BUFFER, header.len() as u32),
            (TX_BUFFER + header.len() as u64, data.len() as u32),
        ];
        let count = if data.is_empty() { 1 } else { 2 };
        self.tx.driver.add(&parts[..count], &[]);
        self.tx.notify.write(1).unwrap();
    }

    /// Whether the device took a packet that was [pushed](Self::push).
    pub fn is_taken(&mut self, timeout: Duration) -> bool {
        self.tx.used(timeout).is_some()
    }

    /// Makes the transmit ring claim more than it can have.
    pub fn break_ring(&mut self) {
        let index = self.tx.driver.avail_idx().wrapping_add(200);
        self.tx.driver.set_avail_idx(index);
        self.tx.notify.write(1).unwrap();
    }

    pub fn wait_until_broken(&self) {
        assert!(readable(&*self.broken, SOON));
        assert_ne!(self.status.get() & VIRTIO_CONFIG_S_NEEDS_RESET as u8, 0);
    }

    pub fn is_fine(&self) -> bool {
        self.status.get() & VIRTIO_CONFIG_S_NEEDS_RESET as u8 == 0
    }

    /// How often the device's thread has gone to sleep so far.
    pub fn sleeps(&self) -> u64 {
        let name = format!("{}\n", self.name);
        let tasks = std::fs::read_dir("/proc/self/task").unwrap();
        let mut tasks = tasks.map(|task| task.unwrap().path());
        let task = tasks
            .find(|task| std::fs::read_to_string(task.join("comm")).is_ok_and(|c| c == name))
            .unwrap();
        let status = std::fs::read_to_string(task.join("status")).unwrap();
        let line = "voluntary_ctxt_switches:";
        let line = status.lines().find_map(|l| l.strip_prefix(line)).unwrap();
        line.trim().parse().unwrap()
    }
}

/// The guest's end of a stream.
pub struct Stream {
    pub host: u32,
    pub guest: u32,
    pub buf_alloc: u32,
    pub fwd_cnt: u32,
}

impl Stream {
    pub fn new(host: u32, guest: u32) -> Self {
        Self {
            host,
            guest,
            buf_alloc: ROOM,
            fwd_cnt: 0,
        }
    }

    pub fn header(&self, op: Op, flags: u32, len: usize) -> Header {
        Header {
            src_cid: CID,
            dst_cid: HOST_CID,
            src_port: self.guest,
            dst_port: self.host,
            len: len as u32,
            kind: STREAM,
            op: op as u16,
            flags,
            buf_alloc: self.buf_alloc,
            fwd_cnt: self.fwd_cnt,
        }
    }

    pub fn send(&self, guest: &mut Guest, op: Op, flags: u32) {
        guest.send(&self.header(op, flags, 0), &[]);
    }

    pub fn send_data(&self, guest: &mut Guest, data: &[u8]) {
        guest.send(&self.header(Op::Data, 0, data.len()), data);
    }

    /// Waits for bytes.
    pub fn receive_data(&mut self, guest: &mut Guest) -> Vec<u8> {
        let (header, data) = guest.receive_op(Op::Data);
        assert_eq!((header.src_port, header.dst_port), (self.host, self.guest));
        self.fwd_cnt = self.fwd_cnt.wrapping_add(header.len);
        data
    }

    /// Waits for a packet of that kind for this stream, and gives its flags.
    pub fn receive(&self, guest: &mut Guest, op: Op) -> u32 {
        let (header, _) = guest.receive_op(op);
        assert_eq!((header.src_port, header.dst_port), (self.host, self.guest));
        header.flags
    }
}

/// A stream that a client of the host wanted to port 22, accepted.
pub fn from_host(asked: &Asked, guest: &mut Guest) -> (Stream, UnixStream) {
    let mut client = asked.client_to(22);
    let (header, _) = guest.receive_op(Op::Request);
    assert_eq!(header.dst_port, 22);
    let stream = Stream::new(header.src_port, 22);
    stream.send(guest, Op::Response, 0);
    let expected = format!("OK {}\n", header.src_port);
    let mut line = vec![0; expected.len()];
    client.read_exact(&mut line).unwrap();
    assert_eq!(line, expected.as_bytes());
    (stream, client)
}

/// A stream that the guest wanted to port 9000 of the host, from `port`, accepted.
pub fn from_guest(asked: &Asked, guest: &mut Guest, port: u32) -> (Stream, UnixStream) {
    let stream = Stream::new(9000, port);
    stream.send(guest, Op::Request, 0);
    let (id, host) = asked.questions.recv_timeout(SOON).unwrap();
    assert_eq!(host, 9000);
    let (ours, theirs) = UnixStream::pair().unwrap();
    ours.set_read_timeout(Some(SOON)).unwrap();
    asked.answers.answer(id, Some(theirs));
    stream.receive(guest, Op::Response);
    (stream, ours)
}

/// Everything that a stream still gives.
pub fn rest(stream: &mut UnixStream) -> String {
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    text
}
