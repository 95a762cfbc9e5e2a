//! The network card on rings, buffers, headers and commands that the fuzzer wrote, on a real tap with frames to receive: it
//! serves what is there, or says that it needs a reset, and comes back either way.
//!
//! Needs root: it makes a network namespace, with a tap in it, for itself.
#![no_main]

use std::{
    net::UdpSocket,
    process::Command,
    sync::{Arc, LazyLock},
    time::{Duration, Instant},
};

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use minivmm_devices::{
    pci::{MmioWindow, PciBus, Slot},
    test_utils::{DriverQueue, FakeHypervisor, PciDriver, guest_memory},
    virtio::pci::VirtioPci,
};
use minivmm_fuzz::Access;
use minivmm_net::{NetDevice, NetOptions, Tap, TapOptions};
use rustix::thread::UnshareFlags;
use vm_memory::{Bytes, GuestAddress};

const WINDOW: MmioWindow = MmioWindow {
    base: 0xc000_0000,
    size: 0x2_0000,
};
const MEMORY: usize = 0x4_0000;
const RINGS: u64 = 0x1000;
const BUFFERS: u64 = 0x2_0000;
const VERSION_1: u64 = 1 << 32;
/// Two pairs and the control queue.
const QUEUES: usize = 5;
const SIZE: u16 = 64;

#[derive(Arbitrary, Debug)]
struct Descriptor {
    address: u32,
    len: u32,
    flags: u8,
    next: u16,
}

#[derive(Arbitrary, Debug, Default)]
struct Ring {
    descriptors: Vec<Descriptor>,
    heads: Vec<u8>,
    /// How far the available index is beyond the heads.
    lie: u8,
    used_event: u16,
}

#[derive(Arbitrary, Debug)]
struct Round {
    features: u64,
    enabled: u8,
    rings: [Ring; QUEUES],
    bytes: Vec<u8>,
    config: Vec<Access>,
    /// A datagram for the guest.
    datagram: u16,
}

struct Host {
    tap: Tap,
    socket: UdpSocket,
}

static HOST: LazyLock<Host> = LazyLock::new(|| {
    // SAFETY: this thread shares its network namespace with no other one of this program, and descriptors stay shared.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNET) }.expect("root may do this");
    let options = TapOptions {
        queues: 2,
        create: true,
        mtu: Some(9000),
        ..Default::default()
    };
    let tap = Tap::open("fuzz", &options).expect("root may make a tap");
    for words in [
        "address add 192.0.2.1/24 dev fuzz",
        "neighbour add 192.0.2.2 lladdr 02:00:00:00:00:01 dev fuzz",
    ] {
        let done = Command::new("ip").args(words.split(' ')).status();
        assert!(done.expect("iproute2 is there").success());
    }
    let socket = UdpSocket::bind("192.0.2.1:0").expect("the address is ours");
    socket.connect("192.0.2.2:9").expect("it has a route");
    Host { tap, socket }
});

fuzz_target!(|rounds: Vec<Round>| {
    let host = &*HOST;
    let memory = guest_memory(MEMORY);
    let fds = host.tap.fds().map(|fd| fd.try_clone_to_owned());
    let fds = fds.collect::<Result<_, _>>().expect("there are more");
    let options = NetOptions {
        mac: "02:00:00:00:00:01".parse().expect("it is one"),
        mtu: Some(9000),
        offload: true,
    };
    let card = NetDevice::new(Tap::from_fds(fds).expect("it is a tap"), options);
    let device = VirtioPci::new(
        "fuzz",
        Box::new(card),
        memory.clone(),
        Arc::new(FakeHypervisor::default()),
    )
    .expect("five queues are a device");
    let bus = PciBus::new(WINDOW);
    let slot = Slot::new(1).expect("there are 32");
    bus.add(slot, device.clone()).expect("there is room");
    let driver = PciDriver::new(&bus, slot, WINDOW.base);
    let deadline = Duration::from_secs(5);

    for round in rounds.iter().take(4) {
        let len = round.bytes.len().min(0x1000);
        memory
            .write_slice(&round.bytes[..len], GuestAddress(BUFFERS))
            .expect("it is memory");
        assert!(driver.negotiate(VERSION_1 | driver.device_features() & round.features));
        for access in round.config.iter().take(4) {
            access.run_at(&*bus.window(), 0x2000, 0x1000);
        }
        let mut queues = Vec::new();
        for (index, ring) in (0..).zip(&round.rings) {
            let at = RINGS + 0x1000 * u64::from(index);
            let queue = lay(&memory, at, ring);
            if round.enabled >> index & 1 == 0 {
                driver.enable_queue(index, &queue);
            }
            queues.push(queue);
        }
        assert!(driver.start());
        for index in 0..QUEUES as u16 {
            driver.notify_slowly(index);
        }
        // What it does not take the tap keeps, or drops.
        let _ = host
            .socket
            .send(&vec![7; usize::from(round.datagram % 20_000)]);
        assert!(driver.reset(deadline), "the device does not come back");
    }
    device
        .stop(Instant::now() + deadline)
        .expect("a device stops, whatever its guest did");
});

fn lay(memory: &Arc<minivmm_devices::GuestMemory>, at: u64, ring: &Ring) -> DriverQueue {
    let queue = DriverQueue::new(memory, at, SIZE);
    for (index, descriptor) in (0..SIZE).zip(&ring.descriptors) {
        let Descriptor {
            address,
            len,
            flags,
            next,
        } = *descriptor;
        // Most buffers are whole, most chains end.
        let address = BUFFERS + u64::from(address & 0x3_ffff);
        let flags = u32::from(flags & 7);
        queue.write_descriptor(index, address, len & 0x1_ffff, flags, next & 0x7f);
    }
    for head in ring.heads.iter().take(SIZE.into()) {
        queue.publish(u16::from(*head) % (SIZE + 1));
    }
    queue.set_avail_idx(queue.avail_idx().wrapping_add(u16::from(ring.lie & 0x7f)));
    queue.set_used_event(ring.used_event);
    queue
}
