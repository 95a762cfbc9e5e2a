//! The network card on rings, buffers, headers and commands that the fuzzer wrote, on a real tap with frames to receive: it
//! serves what is there, or says that it needs a reset, and comes back either way.
//!
//! Needs root: it makes a network namespace, with a tap in it, for itself.
#![no_main]

use std::{net::UdpSocket, process::Command, sync::LazyLock};

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use minivmm_fuzz::{
    Access,
    virtio::{Layout, Machine, Ring, VERSION_1},
};
use minivmm_net::{NetDevice, NetOptions, Tap, TapOptions};
use rustix::thread::UnshareFlags;
use vm_memory::{Bytes, GuestAddress};

const MEMORY: usize = 0x4_0000;
const BUFFERS: u64 = 0x2_0000;
const LAYOUT: Layout = Layout {
    rings: 0x1000,
    size: 64,
    buffers: BUFFERS,
    address_mask: 0x3_ffff,
    len_mask: 0x1_ffff,
};
/// Two pairs and the control queue.
const QUEUES: usize = 5;

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
    let fds = host.tap.fds().map(|fd| fd.try_clone_to_owned());
    let fds = fds.collect::<Result<_, _>>().expect("there are more");
    let options = NetOptions {
        mac: "02:00:00:00:00:01".parse().expect("it is one"),
        mtu: Some(9000),
        offload: true,
    };
    let card = NetDevice::new(Tap::from_fds(fds).expect("it is a tap"), options);
    let machine = Machine::new(MEMORY, card);
    let (driver, memory) = (&machine.driver, &machine.memory);

    for round in rounds.iter().take(4) {
        let len = round.bytes.len().min(0x1000);
        memory
            .write_slice(&round.bytes[..len], GuestAddress(BUFFERS))
            .expect("it is memory");
        assert!(driver.negotiate(VERSION_1 | driver.device_features() & round.features));
        for access in round.config.iter().take(4) {
            access.run_at(&*machine.bus.window(), 0x2000, 0x1000);
        }
        for (index, ring) in (0..).zip(&round.rings) {
            let queue = LAYOUT.lay(memory, index, ring);
            if round.enabled >> index & 1 == 0 {
                driver.enable_queue(index, &queue);
            }
        }
        assert!(driver.start());
        for index in 0..QUEUES as u16 {
            driver.notify_slowly(index);
        }
        // What it does not take the tap keeps, or drops.
        let _ = host
            .socket
            .send(&vec![7; usize::from(round.datagram % 20_000)]);
        machine.reset();
    }
    machine.stop();
});
