#![allow(clippy::unwrap_used, clippy::panic)]

use std::io::Write;

use virtio_bindings::virtio_config::{VIRTIO_CONFIG_S_NEEDS_RESET, VIRTIO_F_VERSION_1};
use vm_memory::{Bytes, GuestAddress};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::*;
use crate::{
    pci::{MmioWindow, PciBus, Slot},
    test_utils::{DEADLINE, DriverQueue, FakeHypervisor, PciDriver, guest_memory},
    virtio::{QueueInterrupt, VirtioPci},
};

const RAM: usize = 0x40_0000;
const BUFFER: u64 = 0x10_0000;

/// A source whose bytes can be told from zeroed memory and that has `len` of them.
fn source(len: usize) -> File {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(&vec![0x5a; len]).unwrap();
    std::io::Seek::rewind(&mut file).unwrap();
    file
}

fn read(memory: &GuestMemory, len: usize) -> Vec<u8> {
    let mut data = vec![0; len];
    memory.read_slice(&mut data, GuestAddress(BUFFER)).unwrap();
    data
}

struct Fixture {
    memory: Arc<GuestMemory>,
    driver: DriverQueue,
    active: ActiveQueue,
    chain: Chain,
}

fn fixture() -> Fixture {
    let memory = guest_memory(RAM);
    let driver = DriverQueue::new(&memory, 0x1000, QUEUE_SIZES[0]);
    let active = ActiveQueue {
        index: 0,
        queue: driver.queue(),
        notify: EventFd::new(EFD_NONBLOCK).unwrap(),
        interrupt: QueueInterrupt::new(None),
    };
    Fixture {
        memory,
        driver,
        active,
        chain: Chain::new(),
    }
}

impl Fixture {
    fn serve(&mut self, source: &mut File) -> Result<bool, Error> {
        serve(&mut self.active, &self.memory, source, &mut self.chain)
    }
}

#[test]
fn every_writable_buffer_of_a_request_is_filled() {
    let mut f = fixture();
    let head = f
        .driver
        .add(&[(BUFFER, 4)], &[(BUFFER + 4, 3), (BUFFER + 9, 1)]);
    assert!(f.serve(&mut source(64)).unwrap());
    assert_eq!(f.driver.take_used(), Some((head, 4)));
    assert_eq!(
        read(&f.memory, 11),
        [0, 0, 0, 0, 0x5a, 0x5a, 0x5a, 0, 0, 0x5a, 0]
    );
    assert!(!f.serve(&mut source(64)).unwrap(), "nothing more was used");
}

#[test]
fn a_request_gets_64_kib_however_much_it_asks_for() {
    let mut f = fixture();
    let head = f.driver.add(&[], &[(BUFFER, 1), (BUFFER + 1, 0x20_0000)]);
    assert!(f.serve(&mut source(2 * MAX_REQUEST)).unwrap());
    assert_eq!(f.driver.take_used(), Some((head, MAX_REQUEST as u32)));
    let data = read(&f.memory, MAX_REQUEST + 1);
    assert_eq!((data[MAX_REQUEST - 1], data[MAX_REQUEST]), (0x5a, 0));
}

#[test]
fn a_request_without_room_is_used_without_a_byte() {
    let mut f = fixture();
    let head = f.driver.add(&[(BUFFER, 4)], &[]);
    assert!(f.serve(&mut source(0)).unwrap());
    assert_eq!(f.driver.take_used(), Some((head, 0)));
}

#[test]
fn a_guest_that_keeps_the_ring_full_does_not_keep_the_thread() {
    let mut f = fixture();
    for _ in 0..QUEUE_SIZES[0] {
        f.driver.add(&[], &[(BUFFER, 1)]);
    }
    assert!(f.serve(&mut source(64)).unwrap());
    assert!(f.active.notify.read().is_ok(), "it looks again by itself");
    assert_eq!(f.driver.used_idx(), QUEUE_SIZES[0]);
}

#[test]
fn an_entropy_source_that_ends_is_an_error() {
    let mut f = fixture();
    f.driver.add(&[], &[(BUFFER, 4)]);
    assert!(matches!(f.serve(&mut source(3)), Err(Error::Source(_))));
    assert_eq!(f.driver.take_used(), None);
}

#[test]
fn a_driver_gets_entropy_and_after_a_broken_ring_and_a_reset_again() {
    let memory = guest_memory(RAM);
    let hypervisor = Arc::new(FakeHypervisor::default());
    let device = Box::new(Rng::new(File::open("/dev/urandom").unwrap()));
    let rng = VirtioPci::new("rng", device, memory.clone(), hypervisor.clone()).unwrap();
    let window = MmioWindow {
        base: 0xe000_0000,
        size: 0x10_0000,
    };
    let bus = PciBus::new(window);
    let slot = Slot::new(1).unwrap();
    bus.add(slot, rng).unwrap();
    let driver = PciDriver::new(&bus, slot, window.base);
    for round in 0..2 {
        assert!(driver.reset(DEADLINE));
        assert!(driver.negotiate(1 << VIRTIO_F_VERSION_1));
        let mut queue = DriverQueue::new(&memory, 0x1000, 8);
        driver.enable_queue(0, &queue);
        assert!(driver.start());

        let head = queue.add(&[], &[(BUFFER, 64)]);
        assert!(hypervisor.notify(driver.notify_address(0)));
        assert!(hypervisor.wait_interrupt(1, DEADLINE), "round {round}");
        assert_eq!(queue.take_used(), Some((head, 64)));
        assert_ne!(read(&memory, 64), [0; 64]);

        queue.add(&[], &[(RAM as u64, 1)]);
        assert!(hypervisor.notify(driver.notify_address(0)));
        assert!(hypervisor.wait_interrupt(0, DEADLINE));
        assert_ne!(driver.status() & VIRTIO_CONFIG_S_NEEDS_RESET, 0);
        assert!(hypervisor.notify(driver.notify_address(0)), "harmless");
    }
}
