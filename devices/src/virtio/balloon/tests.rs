#![allow(clippy::unwrap_used)]

mod questions;

use std::sync::Arc;

use proptest::prelude::*;
use virtio_bindings::{
    virtio_config::{VIRTIO_CONFIG_S_NEEDS_RESET, VIRTIO_F_VERSION_1},
    virtio_ring::VRING_DESC_F_INDIRECT,
};
use vm_memory::{Bytes, GuestAddress};

use super::*;
use crate::{
    GuestMemory,
    pci::{MmioWindow, PciBus, Slot},
    test_utils::{DEADLINE, DriverQueue, FakeHypervisor, PciDriver, guest_memory},
    virtio::VirtioPci,
};

const VERSION_1: u64 = 1 << VIRTIO_F_VERSION_1;
const RAM: u64 = 0x40_0000;
/// Where the tests' lists of pages are.
const LIST: u64 = 0x1_0000;
/// Where pages begin that are filled with ones.
const PAGES: u64 = 0x20_0000;

const OPTIONS: BalloonOptions = BalloonOptions {
    memory: RAM,
    size: 0,
    deflate_on_oom: true,
    free_page_reporting: true,
    statistics: true,
};

struct Machine {
    memory: Arc<GuestMemory>,
    hypervisor: Arc<FakeHypervisor>,
    control: BalloonControl,
    driver: PciDriver,
    _bus: PciBus,
}

impl Machine {
    fn new(options: BalloonOptions) -> Self {
        let memory = guest_memory(RAM as usize);
        let hypervisor = Arc::new(FakeHypervisor::default());
        let device = Balloon::new(options).unwrap();
        let control = device.control();
        let device = Box::new(device);
        let device = VirtioPci::new("balloon", device, memory.clone(), hypervisor.clone()).unwrap();
        let window = MmioWindow {
            base: 0xe000_0000,
            size: 0x10_0000,
        };
        let bus = PciBus::new(window);
        let slot = Slot::new(3).unwrap();
        bus.add(slot, device).unwrap();
        let driver = PciDriver::new(&bus, slot, window.base);
        let machine = Self {
            memory,
            hypervisor,
            control,
            driver,
            _bus: bus,
        };
        machine.fill();
        machine
    }

    /// Fills the upper half of the memory.
    fn fill(&self) {
        let ones = vec![1; (RAM - PAGES) as usize];
        self.memory.write_slice(&ones, GuestAddress(PAGES)).unwrap();
    }

    /// Starts a driver with these queues, which are laid out one after the other.
    fn start<const N: usize>(&self, features: u64, queues: [u16; N]) -> [DriverQueue; N] {
        self.start_with(features, queues, || ())
    }

    fn start_with<const N: usize>(
        &self,
        features: u64,
        queues: [u16; N],
        before: impl FnOnce(),
    ) -> [DriverQueue; N] {
        assert!(self.driver.reset(DEADLINE));
        assert!(self.driver.negotiate(VERSION_1 | features));
        before();
        let queues = queues.map(|index| {
            let queue = DriverQueue::new(&self.memory, 0x1000 * u64::from(index + 1), 16);
            self.driver.enable_queue(index, &queue);
            queue
        });
        assert!(self.driver.start());
        queues
    }

    /// Notifies queue `index` and waits until it has used a buffer.
    fn done(&self, index: u16, queue: &mut DriverQueue) {
        let address = self.driver.notify_address(index);
        assert!(self.hypervisor.notify(address));
        while queue.take_used().is_none() {
            let vector = u32::from(index) + 1;
            assert!(self.hypervisor.wait_interrupt(vector, DEADLINE));
        }
    }

    /// Names pages in the first queue.
    fn inflate(&self, queue: &mut DriverQueue, pages: &[u32]) {
        let list: Vec<u8> = pages.iter().flat_map(|page| page.to_le_bytes()).collect();
        self.memory.write_slice(&list, GuestAddress(LIST)).unwrap();
        queue.add(&[(LIST, list.len() as u32)], &[]);
        self.done(0, queue);
    }

    /// Whether the page at `address` reads as zero.
    fn is_zero(&self, address: u64) -> bool {
        let byte: u8 = self.memory.read_obj(GuestAddress(address)).unwrap();
        byte == 0
    }

    fn is_broken(&self) -> bool {
        self.driver.status() & VIRTIO_CONFIG_S_NEEDS_RESET != 0
    }
}

#[test]
fn what_is_offered_is_what_was_asked_for() {
    let features = |options| Machine::new(options).driver.device_features() & 0xff;
    let all = feature::STATS_VQ
        | feature::DEFLATE_ON_OOM
        | feature::PAGE_POISON
        | feature::PAGE_REPORTING;
    assert_eq!(features(OPTIONS), all);
    let nothing = BalloonOptions {
        deflate_on_oom: false,
        free_page_reporting: false,
        statistics: false,
        ..OPTIONS
    };
    assert_eq!(features(nothing), 0);
}

#[test]
fn a_queue_has_the_role_that_the_standard_or_linux_gives_it() {
    use Role::*;
    let roles = |features| [0, 1, 2, 3, 4, 5].map(|index| Role::of(index, features));
    let (first, reporting) = ([Some(Inflate), Some(Deflate)], Some(Reporting));
    let all = roles(feature::STATS_VQ | feature::PAGE_REPORTING);
    assert_eq!(all[..2], first);
    assert_eq!(all[2..], [Some(Statistics), reporting, reporting, None]);
    let without = roles(feature::PAGE_REPORTING);
    assert_eq!(without[2..], [reporting, reporting, reporting, None]);
    assert_eq!(roles(0)[2..], [None; 4]);
}

#[test]
fn what_the_guest_reports_goes_back_whichever_number_its_queue_has() {
    for (features, index) in [
        (feature::STATS_VQ | feature::PAGE_REPORTING, 4),
        (feature::STATS_VQ | feature::PAGE_REPORTING, 3),
        (feature::PAGE_REPORTING, 2),
    ] {
        let machine = Machine::new(OPTIONS);
        let [mut queue] = machine.start(features, [index]);
        let page = PAGE as u32;
        queue.add(
            &[(PAGES + 5 * PAGE, page)],
            &[
                (PAGES, 2 * page),
                (PAGES + 3 * PAGE + 1, page),
                (PAGES + 8 * PAGE, page),
            ],
        );
        machine.done(index, &mut queue);
        let zero = (0..10).filter(|n| machine.is_zero(PAGES + n * PAGE));
        assert_eq!(zero.collect::<Vec<_>>(), [0, 1, 8], "queue {index}");
        let state = machine.control.state();
        assert_eq!((state.reported, state.inflated), (3 * PAGE, 0));
    }
}

#[test]
fn a_guest_that_counts_on_another_value_than_zero_keeps_what_it_reports() {
    let poison = feature::PAGE_REPORTING | feature::PAGE_POISON;
    for (features, value, goes) in [
        (poison, 0xaaaa_aaaa_u32, false),
        (poison, 0, true),
        // Without the feature the field means nothing.
        (feature::PAGE_REPORTING, 0xaaaa_aaaa, true),
    ] {
        let machine = Machine::new(OPTIONS);
        let [mut inflate, mut report] = machine.start_with(features, [0, 2], || {
            machine.driver.write_device(12, &value.to_le_bytes());
        });
        report.add(&[], &[(PAGES, PAGE as u32)]);
        machine.done(2, &mut report);
        assert_eq!(machine.is_zero(PAGES), goes, "{value:#x}");
        let reported = machine.control.state().reported;
        assert_eq!(reported, if goes { PAGE } else { 0 });
        // What is in the balloon is filled again by the guest when it takes it out.
        machine.inflate(&mut inflate, &[(PAGES / PAGE) as u32]);
        assert!(machine.is_zero(PAGES));
    }
}

#[test]
fn a_guest_is_told_a_target_gets_there_and_takes_pages_back() {
    let machine = Machine::new(BalloonOptions {
        size: 4 * PAGE,
        ..OPTIONS
    });
    let num_pages = || u32::from_le_bytes(machine.driver.read_device(0));
    assert_eq!(num_pages(), 4);
    let [mut inflate, mut deflate] = machine.start(feature::DEFLATE_ON_OOM, [0, 1]);
    let first = (PAGES / PAGE) as u32;
    machine.inflate(&mut inflate, &[first + 3, first + 2, first + 1, first]);
    machine.driver.write_device(4, &4_u32.to_le_bytes());
    let expected = BalloonState {
        target: 4 * PAGE,
        size: 4 * PAGE,
        inflated: 4 * PAGE,
        ..BalloonState::default()
    };
    assert_eq!(machine.control.state(), expected);
    assert!(machine.is_zero(PAGES) && machine.is_zero(PAGES + 3 * PAGE));
    assert!(!machine.is_zero(PAGES + 4 * PAGE));

    let generation = || machine.driver.read_common::<1>(0x15);
    let before = generation();
    machine.control.set_target(PAGE + 1);
    assert!(machine.hypervisor.wait_interrupt(0, DEADLINE));
    assert_eq!(num_pages(), 1);
    assert_ne!(generation(), before);
    deflate.add(&[(LIST, 4)], &[]);
    machine.done(1, &mut deflate);
    machine.driver.write_device(4, &1_u32.to_le_bytes());
    assert_eq!(machine.control.state().size, PAGE);
}

#[test]
fn a_size_is_announced_each_time_it_is_set_and_never_by_a_question() {
    let machine = Machine::new(OPTIONS);
    let [_, _, mut statistics] = machine.start(feature::STATS_VQ, [0, 1, 2]);
    statistics.add(&[(LIST, 10)], &[]);
    let address = machine.driver.notify_address(2);
    assert!(machine.hypervisor.notify(address));
    let (teller, told) = std::sync::mpsc::channel();
    machine.control.ask(Box::new(move |_| {
        let _ = teller.send(());
    }));
    told.recv_timeout(2 * DEADLINE).unwrap();
    assert!(!machine.hypervisor.take_interrupt(0));
    for _ in 0..2 {
        machine.control.set_target(4 * PAGE);
        assert!(machine.hypervisor.wait_interrupt(0, DEADLINE));
    }
}

#[test]
fn nobody_wants_or_believes_more_than_there_is() {
    let machine = Machine::new(OPTIONS);
    machine.control.set_target(u64::MAX);
    machine.driver.write_device(4, &[0xff; 4]);
    let state = machine.control.state();
    assert_eq!((state.target, state.size), (RAM, RAM));
}

#[test]
fn pages_that_do_not_exist_are_passed_over_and_the_device_goes_on() {
    let machine = Machine::new(OPTIONS);
    let [mut inflate] = machine.start(0, [0]);
    let first = (PAGES / PAGE) as u32;
    let last = (RAM / PAGE) as u32 - 1;
    let pages = [u32::MAX, last + 1, last, 0xfee00, 0xe0000, first, u32::MAX];
    machine.inflate(&mut inflate, &pages);
    assert!(machine.is_zero(PAGES) && machine.is_zero(RAM - PAGE));
    assert_eq!(machine.control.state().inflated, 2 * PAGE);
    assert!(!machine.is_broken());
}

#[test]
fn a_guest_that_gives_its_own_rings_away_harms_nobody_else() {
    let machine = Machine::new(OPTIONS);
    let [inflate] = machine.start(0, [0]);
    let all: Vec<u8> = (0..(RAM / PAGE) as u32)
        .flat_map(u32::to_le_bytes)
        .collect();
    machine
        .memory
        .write_slice(&all, GuestAddress(LIST))
        .unwrap();
    inflate.write_descriptor(0, LIST, all.len() as u32, 0, 0);
    inflate.publish(0);
    let address = machine.driver.notify_address(0);
    assert!(machine.hypervisor.notify(address));
    assert!(machine.driver.reset(DEADLINE));
    // Another driver finds a device as the first one did.
    machine.fill();
    let [mut inflate] = machine.start(0, [0]);
    machine.inflate(&mut inflate, &[(PAGES / PAGE) as u32]);
    assert!(machine.is_zero(PAGES));
}

#[test]
fn a_list_in_an_indirect_table_is_a_list() {
    let machine = Machine::new(OPTIONS);
    let [mut inflate] = machine.start(0, [0]);
    let table = LIST + 0x1000;
    for (n, page) in [(PAGES / PAGE) as u32, (PAGES / PAGE) as u32 + 2]
        .into_iter()
        .enumerate()
    {
        let at = LIST + 0x100 * n as u64;
        machine.memory.write_obj(page, GuestAddress(at)).unwrap();
        let next = if n == 0 { 1 } else { 0 };
        inflate.write_descriptor_at(table + 16 * n as u64, at, 4, next, 1);
    }
    inflate.write_descriptor(0, table, 32, VRING_DESC_F_INDIRECT, 0);
    inflate.publish(0);
    machine.done(0, &mut inflate);
    let zero = (0..4).filter(|n| machine.is_zero(PAGES + n * PAGE));
    assert_eq!(zero.collect::<Vec<_>>(), [0, 2]);
}

#[test]
fn long_lists_are_served_in_turns_and_all_of_them() {
    let machine = Machine::new(OPTIONS);
    let [mut inflate] = machine.start(0, [0]);
    // No page has a neighbour, so each is given back by itself.
    let pages: Vec<u8> = (0..pages::MAX_PAGES as u32)
        .flat_map(|n| (2 * n).wrapping_add(0x1000_0000).to_le_bytes())
        .collect();
    machine
        .memory
        .write_slice(&pages, GuestAddress(LIST))
        .unwrap();
    for _ in 0..16 {
        inflate.add(&[(LIST, pages.len() as u32)], &[]);
    }
    let address = machine.driver.notify_address(0);
    assert!(machine.hypervisor.notify(address));
    let mut used = 0;
    while used < 16 {
        match inflate.take_used() {
            Some(_) => used += 1,
            None => assert!(machine.hypervisor.wait_interrupt(1, DEADLINE)),
        }
    }
}

#[test]
fn a_reset_forgets_what_the_driver_has_said_and_not_what_is_wanted() {
    let machine = Machine::new(OPTIONS);
    machine.control.set_target(8 * PAGE);
    let poison = feature::PAGE_POISON | feature::PAGE_REPORTING;
    let [mut inflate] = machine.start_with(poison, [0], || {
        machine.driver.write_device(12, &7_u32.to_le_bytes());
    });
    machine.inflate(&mut inflate, &[(PAGES / PAGE) as u32]);
    machine.driver.write_device(4, &1_u32.to_le_bytes());
    assert!(machine.driver.reset(DEADLINE));
    let [num_pages, actual, hint, poison] =
        [0, 4, 8, 12].map(|at| u32::from_le_bytes(machine.driver.read_device(at)));
    assert_eq!([num_pages, actual, hint, poison], [8, 0, 0, 0]);
    let state = machine.control.state();
    assert_eq!((state.size, state.inflated), (0, PAGE));
}

#[test]
fn a_broken_ring_ends_the_device_until_its_driver_resets_it() {
    let machine = Machine::new(OPTIONS);
    for index in [0, 1, 2, 3] {
        let [mut queue] = machine.start(feature::STATS_VQ | feature::PAGE_REPORTING, [index]);
        queue.add(&[(RAM, 4)], &[]);
        assert!(
            machine
                .hypervisor
                .notify(machine.driver.notify_address(index))
        );
        assert!(machine.hypervisor.wait_interrupt(0, DEADLINE));
        assert!(machine.is_broken(), "queue {index}");
        assert!(
            machine
                .hypervisor
                .notify(machine.driver.notify_address(index))
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]
    #[test]
    fn exactly_the_pages_that_are_named_go_back(
        lists in prop::collection::vec(prop::collection::vec(any::<u32>(), 0..64), 1..8)
    ) {
        let machine = Machine::new(OPTIONS);
        let [mut inflate] = machine.start(0, [0]);
        let first = (PAGES / PAGE) as u32;
        let count = ((RAM - PAGES) / PAGE) as u32;
        let mut named = vec![false; count as usize];
        for list in lists {
            // Half of them above all memory.
            let list: Vec<u32> = list.iter().map(|n| first + n % (2 * count)).collect();
            for page in &list {
                if let Some(named) = named.get_mut((page - first) as usize) {
                    *named = true;
                }
            }
            machine.inflate(&mut inflate, &list);
        }
        for (n, named) in (0..).zip(named) {
            prop_assert_eq!(machine.is_zero(PAGES + n * PAGE), named);
        }
    }
}
