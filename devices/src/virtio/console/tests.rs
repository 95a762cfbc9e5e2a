#![allow(clippy::unwrap_used)]

use proptest::prelude::*;
use virtio_bindings::virtio_config::{VIRTIO_CONFIG_S_NEEDS_RESET, VIRTIO_F_VERSION_1};
use vm_memory::{Bytes, GuestAddress};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::*;
use crate::{
    console::Output,
    pci::{MmioWindow, PciBus, Slot},
    test_utils::{DEADLINE, DriverQueue, FakeHypervisor, PciDriver, guest_memory, readable},
    virtio::{QueueInterrupt, VirtioPci},
};

const RAM: usize = 0x40_0000;
const BUFFER: u64 = 0x10_0000;

struct Fixture {
    memory: Arc<GuestMemory>,
    driver: DriverQueue,
    active: ActiveQueue,
    output: ConsoleSink,
    input: ConsoleInput,
    chain: Chain,
}

fn fixture(index: u16) -> Fixture {
    let memory = guest_memory(RAM);
    let driver = DriverQueue::new(&memory, 0x1000, QUEUE_SIZES[usize::from(index)]);
    let active = ActiveQueue {
        index,
        queue: driver.queue(),
        notify: EventFd::new(EFD_NONBLOCK).unwrap(),
        interrupt: QueueInterrupt::new(None),
    };
    Fixture {
        memory,
        driver,
        active,
        output: ConsoleSink::new().unwrap(),
        input: ConsoleInput::new().unwrap(),
        chain: Chain::new(),
    }
}

impl Fixture {
    fn transmit(&mut self) -> Result<bool, BrokenRing> {
        transmit(
            &mut self.active,
            &self.memory,
            &self.output,
            &mut self.chain,
        )
    }

    fn receive(&mut self) -> Result<bool, BrokenRing> {
        receive(&mut self.active, &self.memory, &self.input, &mut self.chain)
    }

    fn write(&self, offset: u64, bytes: &[u8]) {
        let at = GuestAddress(BUFFER + offset);
        self.memory.write_slice(bytes, at).unwrap();
    }

    fn read(&self, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.memory
            .read_slice(&mut bytes, GuestAddress(BUFFER))
            .unwrap();
        bytes
    }
}

fn taken(sink: &ConsoleSink) -> Vec<u8> {
    let mut output = Output::default();
    sink.take(&mut output);
    assert!(output.pieces().all(|(origin, _)| origin == Origin::Virtio));
    output.bytes().to_vec()
}

#[test]
fn every_readable_buffer_is_printed() {
    let mut f = fixture(TRANSMIT);
    f.write(0, b"one two\n");
    let head = f.driver.add(&[(BUFFER, 4), (BUFFER + 4, 4)], &[]);
    assert!(f.transmit().unwrap());
    assert_eq!(f.driver.take_used(), Some((head, 0)));
    assert_eq!(taken(&f.output), b"one two\n");
    assert!(!f.transmit().unwrap(), "nothing more was used");
}

#[test]
fn of_a_buffer_64_kib_are_printed_however_long_it_is() {
    let mut f = fixture(TRANSMIT);
    let page = (BUFFER, 0x10_0000);
    let head = f.driver.add(&[page; 8], &[]);
    assert!(f.transmit().unwrap());
    assert_eq!(f.driver.take_used(), Some((head, 0)));
    assert_eq!(f.output.written(), MAX_OUTPUT as u64);
}

#[test]
fn a_guest_that_prints_without_pause_does_not_keep_the_thread() {
    let mut f = fixture(TRANSMIT);
    for _ in 0..QUEUE_SIZES[usize::from(TRANSMIT)] {
        f.driver.add(&[(BUFFER, 1)], &[]);
    }
    assert!(f.transmit().unwrap());
    assert!(f.active.notify.read().is_ok(), "it looks again by itself");
}

#[test]
fn what_is_typed_before_there_are_buffers_waits_and_comes_in_one() {
    let mut f = fixture(RECEIVE);
    assert!(!f.receive().unwrap());
    f.input.push(b"to the serial port");
    assert!(!readable(f.input.filled(), std::time::Duration::ZERO));
    let head = f.driver.add(&[], &[(BUFFER, 3), (BUFFER + 3, 4093)]);
    assert!(f.receive().unwrap());
    assert_eq!(f.driver.take_used(), Some((head, 18)));
    assert_eq!(f.read(18), b"to the serial port");
    f.input.push(b"ls\n");
    assert!(f.input.filled().read().is_ok());
    assert!(!f.receive().unwrap(), "there is no buffer");
    f.driver.add(&[], &[(BUFFER, 2)]);
    let last = f.driver.add(&[], &[(BUFFER + 2, 2)]);
    assert!(f.receive().unwrap());
    assert_eq!(f.read(3), b"ls\n");
    f.driver.take_used();
    assert_eq!(f.driver.take_used(), Some((last, 1)));
}

#[test]
fn buffers_without_room_are_used_without_a_byte_and_lose_none() {
    let mut f = fixture(RECEIVE);
    for _ in 0..QUEUE_SIZES[usize::from(RECEIVE)] {
        f.driver.add(&[(BUFFER, 4)], &[]);
    }
    f.input.push(b"x");
    assert!(f.receive().unwrap());
    assert_eq!(f.driver.take_used(), Some((0, 0)));
    assert!(!f.input.is_empty());
}

/// The driver's side of a device on a bus.
#[test]
fn a_driver_prints_and_is_typed_to_and_after_a_broken_ring_and_a_reset_again() {
    let memory = guest_memory(RAM);
    let hypervisor = Arc::new(FakeHypervisor::default());
    let (output, input) = (ConsoleSink::new().unwrap(), ConsoleInput::new().unwrap());
    let device = Box::new(Console::new(output.clone(), input.clone()));
    let console = VirtioPci::new("console", device, memory.clone(), hypervisor.clone()).unwrap();
    let window = MmioWindow {
        base: 0xe000_0000,
        size: 0x10_0000,
    };
    let bus = PciBus::new(window);
    let slot = Slot::new(2).unwrap();
    bus.add(slot, console).unwrap();
    let driver = PciDriver::new(&bus, slot, window.base);
    for round in 0..2 {
        assert!(driver.reset(DEADLINE));
        assert!(driver.negotiate(1 << VIRTIO_F_VERSION_1));
        let mut receive = DriverQueue::new(&memory, 0x1000, 8);
        let mut transmit = DriverQueue::new(&memory, 0x2000, 8);
        driver.enable_queue(RECEIVE, &receive);
        driver.enable_queue(TRANSMIT, &transmit);
        assert!(driver.start());
        assert_eq!(driver.read_device::<12>(0), [0; 12]);

        memory.write_slice(b"hi", GuestAddress(BUFFER)).unwrap();
        transmit.add(&[(BUFFER, 2)], &[]);
        assert!(hypervisor.notify(driver.notify_address(TRANSMIT)));
        assert!(hypervisor.wait_interrupt(2, DEADLINE), "round {round}");
        assert!(transmit.take_used().is_some());
        assert_eq!(taken(&output), b"hi");

        receive.add(&[], &[(BUFFER + 64, 16)]);
        assert!(hypervisor.notify(driver.notify_address(RECEIVE)));
        assert!(readable(input.drained(), DEADLINE), "it listens");
        let _ = input.drained().read();
        input.push(b"echo\n");
        assert!(hypervisor.wait_interrupt(1, DEADLINE));
        assert_eq!(receive.take_used(), Some((0, 5)));

        transmit.add(&[(RAM as u64, 1)], &[]);
        assert!(hypervisor.notify(driver.notify_address(TRANSMIT)));
        assert!(hypervisor.wait_interrupt(0, DEADLINE));
        assert_ne!(driver.status() & VIRTIO_CONFIG_S_NEEDS_RESET, 0);
        assert!(
            hypervisor.notify(driver.notify_address(RECEIVE)),
            "harmless"
        );
        let _ = input.drained().read();
    }
}

proptest! {
    /// Whatever pieces input comes in and buffers have, the guest reads the same bytes in the same order.
    #[test]
    fn input_arrives_whole_and_in_order(
        pieces in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..40), 0..12),
        rooms in proptest::collection::vec(1u32..30, 1..16),
    ) {
        let mut f = fixture(RECEIVE);
        let sent = pieces.concat();
        let mut at = 0;
        for room in &rooms {
            f.driver.add(&[], &[(BUFFER + at, *room)]);
            at += 64;
        }
        for piece in &pieces {
            f.input.push(piece);
            f.receive().unwrap();
        }
        let (mut got, mut at) = (Vec::new(), 0);
        while let Some((_, n)) = f.driver.take_used() {
            let mut bytes = vec![0; n as usize];
            f.memory.read_slice(&mut bytes, GuestAddress(BUFFER + at)).unwrap();
            got.append(&mut bytes);
            at += 64;
        }
        let mut rest = vec![0; sent.len()];
        let n = f.input.take(&mut rest);
        got.extend_from_slice(&rest[..n]);
        prop_assert_eq!(got, sent);
    }
}
