//! The virtio-fs device with a back end whose every answer the fuzzer wrote, while its driver takes it into use and
//! resets it: it works, or is lost, and comes back at once in either case.
#![no_main]

use std::{
    fs::File,
    io::Write,
    net::Shutdown,
    os::unix::net::UnixStream,
    sync::Arc,
    time::{Duration, Instant},
};

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use minivmm_devices::{
    GuestMemory,
    pci::{MmioWindow, PciBus, Slot},
    test_utils::{DriverQueue, FakeHypervisor, PciDriver},
    virtio::pci::VirtioPci,
};
use minivmm_fs::FsDevice;
use vm_memory::{FileOffset, GuestAddress};

const WINDOW: MmioWindow = MmioWindow {
    base: 0xc000_0000,
    size: 0x2_0000,
};
const MEMORY: usize = 0x1_0000;

/// What is answered and with what, in the order of the requests: negotiation, hand-over of two queues, their return and
/// the reset, and from the hand-over on again.
const NEGOTIATION: [(u32, u64); 3] = [(1, 1 << 30 | 1 << 32), (15, 1 | 1 << 3 | 1 << 13), (17, 2)];
const ACTIVATION: [u32; 19] = [
    2, 5, 8, 9, 10, 13, 12, 8, 9, 10, 13, 12, 18, 18, 18, 11, 18, 11, 34,
];

#[derive(Arbitrary, Debug)]
enum Answer {
    /// As the protocol wants it.
    Right,
    /// The right header with another number.
    Number(u64),
    /// Another header, with what follows it.
    Other {
        code: u8,
        flags: u8,
        size: u32,
        body: Vec<u8>,
    },
    /// No answer; the next one is read in its place.
    Missing,
}

fn header(bytes: &mut Vec<u8>, code: u32, flags: u32, size: u32) {
    bytes.extend([code, flags, size].map(u32::to_le_bytes).concat());
}

fn answers(script: &[Answer]) -> Vec<u8> {
    let activation = ACTIVATION.map(|code| (code, 0));
    let right = NEGOTIATION
        .iter()
        .chain(activation.iter().cycle())
        .take(NEGOTIATION.len() + 2 * ACTIVATION.len());
    let mut bytes = Vec::new();
    let mut script = script.iter();
    for &(code, number) in right {
        match script.next().unwrap_or(&Answer::Right) {
            // The index of a queue comes back as a state of two words.
            Answer::Right => {
                header(&mut bytes, code, 5, 8);
                bytes.extend(number.to_le_bytes());
            }
            Answer::Number(number) => {
                header(&mut bytes, code, 5, 8);
                bytes.extend(number.to_le_bytes());
            }
            Answer::Other {
                code,
                flags,
                size,
                body,
            } => {
                header(&mut bytes, (*code).into(), (*flags).into(), *size);
                bytes.extend(body.iter().take(4096));
            }
            Answer::Missing => {}
        }
    }
    bytes
}

fuzz_target!(|script: Vec<Answer>| {
    let (ours, mut theirs) = UnixStream::pair().expect("a socket pair");
    // All at once and then the end, so that nothing is waited for.
    theirs.write_all(&answers(&script)).expect("it fits");
    theirs.shutdown(Shutdown::Write).expect("it is connected");
    let tag = "fuzz".parse().expect("a tag");
    let Ok(device) = FsDevice::connect(ours, &tag, Box::new(|| {})) else {
        return;
    };
    let fd = rustix::fs::memfd_create("fuzz", rustix::fs::MemfdFlags::CLOEXEC).expect("a memfd");
    let file = File::from(fd);
    file.set_len(MEMORY as u64).expect("a size");
    let range = (GuestAddress(0), MEMORY, Some(FileOffset::new(file, 0)));
    let memory = Arc::new(GuestMemory::from_ranges_with_files([range]).expect("memory"));
    let hypervisor = Arc::new(FakeHypervisor::default());
    let device = VirtioPci::new("fuzz", Box::new(device), memory.clone(), hypervisor)
        .expect("two queues are a device");
    let bus = PciBus::new(WINDOW);
    let slot = Slot::new(1).expect("there are 32");
    bus.add(slot, device.clone()).expect("there is room");
    let driver = PciDriver::new(&bus, slot, WINDOW.base);
    let deadline = Duration::from_secs(4);
    for _ in 0..2 {
        assert!(driver.negotiate(1 << 32));
        for (index, at) in [(0, 0x1000), (1, 0x4000)] {
            driver.enable_queue(index, &DriverQueue::new(&memory, at, 64));
        }
        assert!(driver.start());
        assert!(driver.reset(deadline), "the device does not come back");
    }
    device
        .stop(Instant::now() + deadline)
        .expect("a device stops, whatever its back end did");
});
