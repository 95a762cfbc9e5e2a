//! The socket device: packets that the fuzzer made up on rings that are in order, or rings that it wrote too; clients of
//! the host who say, write and close what it says, and a host that connects the guest or does not. Every stream may break,
//! and the device comes back.
#![no_main]

use std::{
    io::Write,
    os::{
        linux::net::SocketAddrExt,
        unix::net::{SocketAddr, UnixListener, UnixStream},
    },
    sync::{Arc, LazyLock, Mutex},
    thread,
    time::{Duration, Instant},
};

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use minivmm_devices::test_utils::DriverQueue;
use minivmm_fuzz::virtio::{Layout, Machine, Ring, VERSION_1};
use minivmm_vsock::{
    Answers, NOTIFY_PORT, NOTIFY_TEXT, Ports, VsockDevice, VsockOptions,
    packet::{HEADER, Header},
};
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
const RX_BUFFERS: u64 = 0x2_0000;
const RX_BUFFER: u32 = 4096;
const DATA: u64 = 0x6_0000;
const CID: u64 = 3;
/// Ports of the host that make a difference: a service, the one that systemd tells, one that is forbidden, and the first
/// ones that clients get.
const HOST_PORTS: [u32; 8] = [
    9000,
    NOTIFY_PORT,
    9001,
    (1 << 30) + 1,
    (1 << 30) + 2,
    (1 << 30) + 3,
    0,
    u32::MAX,
];
const LINES: [&[u8]; 4] = [
    b"CONNECT 22\n",
    b"CONNECT 22\nearly",
    b"CONN",
    b"CONNECT 23\n",
];

#[derive(Arbitrary, Debug)]
struct Packet {
    /// The ports: three bits for the host's, one for the guest's; the others make the addresses and the kind wrong.
    ports: u8,
    /// Mostly one of the seven.
    op: u8,
    flags: u8,
    len: u16,
    /// Added to the length in the header.
    lie: u8,
    buf_alloc: u16,
    fwd_cnt: u16,
}

#[derive(Arbitrary, Debug)]
struct Client {
    line: u8,
    bytes: u16,
    closes: bool,
}

#[derive(Arbitrary, Debug)]
struct Round {
    event_idx: bool,
    wild: Option<[Ring; 2]>,
    buffers: u8,
    clients: Vec<Client>,
    before: Vec<Packet>,
    after: Vec<Packet>,
    /// What the host's service does: bytes that it writes; closed at once if odd, refused if 0.
    service: u16,
}

static LISTENER: LazyLock<(UnixListener, SocketAddr)> = LazyLock::new(|| {
    let name = format!("minivmm-fuzz-{}", std::process::id());
    let address = SocketAddr::from_abstract_name(name).expect("it is a name");
    let listener = UnixListener::bind_addr(&address).expect("nobody else has it");
    listener.set_nonblocking(true).expect("it can be");
    (listener, address)
});

/// The ends of services that stay.
static KEPT: Mutex<Vec<UnixStream>> = Mutex::new(Vec::new());

fuzz_target!(|rounds: Vec<Round>| {
    let (listener, address) = &*LISTENER;
    // Those of the input before.
    while listener.accept().is_ok() {}
    for round in rounds.iter().take(2) {
        let answers = Arc::new(Answers::new().expect("there are more"));
        let (to, service) = (answers.clone(), round.service);
        let device = VsockDevice::new(VsockOptions {
            cid: CID as u32,
            listener: Some(listener.try_clone().expect("there are more")),
            to_guest: Ports::from_iter([22]),
            to_host: Ports::from_iter([9000]),
            ask: Box::new(move |id, port| {
                assert_eq!(port, 9000);
                to.answer(id, serve(service));
                service != 2
            }),
            answers,
            on_notify: Some(Box::new(|text| {
                assert!((1..=NOTIFY_TEXT).contains(&text.len()));
            })),
        });
        run(&Machine::new(MEMORY, device), round, address);
    }
});

fn serve(service: u16) -> Option<UnixStream> {
    if service == 0 {
        return None;
    }
    let (mut ours, theirs) = UnixStream::pair().ok()?;
    ours.set_nonblocking(true).ok()?;
    let _ = ours.write(&vec![7; service.into()]);
    // Half of them stay, and nobody reads there.
    if service.is_multiple_of(2)
        && let Ok(mut kept) = KEPT.lock()
    {
        kept.push(ours);
    }
    Some(theirs)
}

fn run(machine: &Machine, round: &Round, address: &SocketAddr) {
    let (driver, memory) = (&machine.driver, &machine.memory);
    let mut clients = Vec::new();
    for Client {
        line,
        bytes,
        closes,
    } in round.clients.iter().take(4)
    {
        let mut client = UnixStream::connect_addr(address).expect("it listens");
        client.set_nonblocking(true).expect("it can be");
        let _ = client.write(LINES[usize::from(line % 4)]);
        let _ = client.write(&vec![8; (*bytes).into()]);
        if !closes {
            clients.push(client);
        }
    }
    let features = u64::from(round.event_idx) << 29;
    assert!(driver.negotiate(VERSION_1 | features));
    if let Some(rings) = &round.wild {
        for (index, ring) in (0..).zip(rings) {
            driver.enable_queue(index, &LAYOUT.lay(memory, index, ring));
        }
        for (index, packet) in (0..64).zip(&round.before) {
            write(machine, BUFFERS + 64 * index, packet);
        }
        assert!(driver.start());
        driver.notify_slowly(0);
        driver.notify_slowly(1);
    } else {
        let mut rx = DriverQueue::new(memory, 0x1000, 64);
        let mut tx = DriverQueue::new(memory, 0x3000, 64);
        for index in 0..u64::from(round.buffers % 64) {
            rx.add(
                &[],
                &[(RX_BUFFERS + index * u64::from(RX_BUFFER), RX_BUFFER)],
            );
        }
        driver.enable_queue(0, &rx);
        driver.enable_queue(1, &tx);
        let before = round.before.iter().take(16);
        for (index, packet) in (0..).zip(before) {
            push(machine, &mut tx, index, packet);
        }
        assert!(driver.start());
        wait(&tx);
        for (index, packet) in (16..).zip(round.after.iter().take(16)) {
            push(machine, &mut tx, index, packet);
        }
        driver.notify_slowly(1);
        wait(&tx);
        // Whatever the guest said, its rings were in order.
        assert_eq!(driver.status() & 0x40, 0, "the device needs a reset");
        while let Some((_, len)) = rx.take_used() {
            assert!((HEADER as u32..=RX_BUFFER).contains(&len));
        }
    }
    machine.reset();
    KEPT.lock().expect("nobody panics").clear();
}

/// Until the device has taken everything; one that has no buffers for its answers need not.
fn wait(queue: &DriverQueue) {
    let deadline = Instant::now() + Duration::from_millis(2);
    while queue.used_idx() != queue.avail_idx() && Instant::now() < deadline {
        thread::yield_now();
    }
}

/// Puts a packet there, and gives the bytes that follow its header.
fn write(machine: &Machine, at: u64, packet: &Packet) -> u32 {
    let len = u32::from(packet.len & 0x1fff);
    let wrong = |bits: u8| u64::from(packet.ports & bits == bits);
    let header = Header {
        src_cid: CID + wrong(0xe0),
        dst_cid: 2 + wrong(0xd0),
        src_port: match packet.ports & 8 {
            0 => 22,
            _ => 1000,
        },
        dst_port: HOST_PORTS[usize::from(packet.ports & 7)],
        len: len + u32::from(packet.lie) * u32::from(packet.lie & 0x80 != 0),
        kind: 1 + wrong(0xb0) as u16,
        op: u16::from(packet.op % 9),
        flags: packet.flags.into(),
        buf_alloc: packet.buf_alloc.into(),
        fwd_cnt: packet.fwd_cnt.into(),
    };
    let memory = &machine.memory;
    memory
        .write_slice(&header.to_bytes(), GuestAddress(at))
        .expect("it is memory");
    len
}

fn push(machine: &Machine, queue: &mut DriverQueue, index: u64, packet: &Packet) {
    let at = BUFFERS + 64 * index;
    let len = write(machine, at, packet);
    queue.add(&[(at, HEADER as u32), (DATA, len)], &[]);
}
