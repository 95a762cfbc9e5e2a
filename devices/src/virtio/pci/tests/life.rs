//! The life of a device: reset, negotiation, work, reset, and what can go wrong on the way.

use std::{
    sync::{atomic::Ordering, mpsc},
    time::{Duration, Instant},
};

use virtio_bindings::virtio_config::{
    VIRTIO_CONFIG_S_DRIVER_OK as DRIVER_OK, VIRTIO_CONFIG_S_NEEDS_RESET as NEEDS_RESET,
};
use vm_memory::{Bytes, GuestAddress};

use super::*;
use crate::test_utils::{Call, DEADLINE};

impl Fixture {
    /// Sends `text` through queue `index` and gives what comes back.
    fn echo(&self, index: u16, rings: &mut DriverQueue, text: &[u8]) -> Vec<u8> {
        self.memory.write_slice(text, GuestAddress(BUFFER)).unwrap();
        let len = text.len() as u32;
        let head = rings.add(&[(BUFFER, len)], &[(BUFFER + 0x1000, len)]);
        assert!(self.hypervisor.notify(self.driver.notify_address(index)));
        assert!(
            self.hypervisor
                .wait_interrupt(u32::from(index) + 1, DEADLINE)
        );
        assert_eq!(rings.take_used(), Some((head, len)));
        let mut back = vec![0; text.len()];
        self.memory
            .read_slice(&mut back, GuestAddress(BUFFER + 0x1000))
            .unwrap();
        back
    }

    /// Whether any notification goes past the VMM.
    fn is_attached(&self) -> bool {
        !self.hypervisor.attached().is_empty()
    }

    fn activations(&self) -> u32 {
        self.control.activations.load(Ordering::Relaxed)
    }

    fn needs_reset(&self) -> bool {
        self.driver.status() & NEEDS_RESET != 0
    }
}

fn soon() -> Instant {
    Instant::now() + DEADLINE
}

#[test]
fn a_device_works_is_reset_and_works_again() {
    let f = fixture();
    for round in 1..=3 {
        assert!(f.driver.reset(DEADLINE));
        let mut queues = f.start();
        assert_eq!(f.activations(), round);
        assert_eq!(*f.control.features.lock().unwrap(), VERSION_1);
        for (index, rings) in (0..).zip(&mut queues) {
            assert_eq!(f.echo(index, rings, b"hello"), b"hello");
            assert_eq!(f.echo(index, rings, b"again"), b"again");
        }
    }
    assert!(f.driver.reset(DEADLINE));
    assert!(!f.is_attached());
}

#[test]
fn only_enabled_queues_are_given_to_the_device() {
    let f = fixture();
    assert!(f.driver.negotiate(VERSION_1));
    let mut rings = f.rings(1);
    f.driver.enable_queue(1, &rings);
    assert!(f.driver.start());
    assert_eq!(f.hypervisor.attached(), [f.driver.notify_address(1)]);
    assert_eq!(f.echo(1, &mut rings, b"one"), b"one");
}

#[test]
fn a_notification_that_reaches_the_vmm_counts_too() {
    let f = fixture();
    f.hypervisor.set_failing(true);
    let [mut rings, _] = f.start();
    f.hypervisor.set_failing(false);
    assert!(!f.is_attached());
    let head = rings.add(&[], &[]);
    rings.write_descriptor(head, BUFFER, 1, 0, 0);
    rings.publish(head);
    f.driver.notify_slowly(0);
    assert!(f.hypervisor.wait_interrupt(1, DEADLINE));
    assert_eq!(rings.take_used(), Some((head, 0)));
}

#[test]
fn notifications_follow_the_bar() {
    let mut f = fixture();
    let [mut rings, _] = f.start();
    let old = f.hypervisor.attached();
    f.hypervisor.take_calls();
    f.driver.move_bar(0xe00f_8000);
    assert_eq!(
        f.hypervisor.take_calls(),
        [
            Call::DetachNotify(old[0]),
            Call::DetachNotify(old[1]),
            Call::AttachNotify(0xe00f_b000),
            Call::AttachNotify(0xe00f_b004),
        ]
    );
    assert_eq!(f.echo(0, &mut rings, b"moved"), b"moved");
    f.driver.write_config(4, &[0, 0]);
    assert!(!f.is_attached(), "memory decoding is off");
    f.driver.write_config(4, &[6, 0]);
    assert_eq!(f.echo(0, &mut rings, b"back"), b"back");
}

#[test]
fn a_bar_that_moves_before_the_device_runs_costs_no_call() {
    let mut f = fixture();
    f.hypervisor.take_calls();
    f.driver.move_bar(0xe000_8000);
    f.driver.write_config(4, &[0, 0]);
    f.driver.write_config(4, &[6, 0]);
    assert_eq!(f.hypervisor.take_calls(), []);
    f.start();
    assert_eq!(f.hypervisor.attached(), [0xe000_b000, 0xe000_b004]);
}

#[test]
fn a_reset_is_not_over_before_the_device_is_back() {
    let f = fixture();
    let [mut rings, _] = f.start();
    let (leave, leave_to_stop) = mpsc::channel();
    *f.control.leave_to_stop.lock().unwrap() = Some(leave_to_stop);
    f.driver.write_common(0x14, &[0]);
    assert_ne!(f.driver.status(), 0);
    assert!(!f.driver.reset(Duration::from_millis(1)));
    assert!(!f.is_attached());

    let before: [u8; 0x38] = f.driver.read_common(0);
    f.driver.set_features(u64::MAX);
    f.driver.add_status(0x80);
    f.driver.write_common(0x10, &[2, 0]);
    f.driver.write_device(0, &[9; 8]);
    assert_eq!(
        f.driver.read_common::<0x38>(0),
        before,
        "writes are ignored"
    );
    assert_eq!(f.driver.read_device(0), [0; 8]);

    leave.send(()).unwrap();
    assert!(f.driver.reset(DEADLINE));
    assert_eq!(f.driver.read_common(0x10), [0xff; 2]);
    let [mut fresh, _] = f.start();
    assert_eq!(rings.take_used(), None);
    assert_eq!(f.echo(0, &mut fresh, b"back"), b"back");
}

#[test]
fn a_broken_ring_is_told_by_status_and_interrupt_and_cured_by_a_reset() {
    let f = fixture();
    let [rings, _] = f.start();
    rings.publish(8);
    assert!(f.hypervisor.notify(f.driver.notify_address(0)));
    assert!(f.hypervisor.wait_interrupt(0, DEADLINE));
    assert!(f.needs_reset());
    assert!(f.driver.reset(DEADLINE));
    let [mut rings, _] = f.start();
    assert!(!f.needs_reset());
    assert_eq!(f.echo(0, &mut rings, b"cured"), b"cured");
}

#[test]
fn rings_that_are_misaligned_or_outside_memory_do_not_start_the_device() {
    let end = RAM as u64;
    for (register, address) in [
        (0x20, 0x1008),
        (0x20, end - 64),
        (0x20, u64::MAX - 15),
        (0x28, 0x1001),
        (0x28, end - 16),
        (0x28, u64::MAX - 1),
        (0x30, 0x1002),
        (0x30, end - 64),
        (0x30, u64::MAX - 3),
    ] {
        let f = fixture();
        assert!(f.driver.negotiate(VERSION_1));
        f.driver.enable_queue(1, &f.rings(1));
        f.driver.write_common(0x16, &[0, 0]);
        for other in [0x20, 0x28, 0x30] {
            f.driver.write_common(other, &0x4000_u64.to_le_bytes());
        }
        f.driver.write_common(register, &address.to_le_bytes());
        f.driver.write_common(0x1c, &[1, 0]);
        assert!(f.driver.start());
        assert!(f.needs_reset(), "{register:#x}: {address:#x}");
        assert!(f.hypervisor.take_interrupt(0));
        assert_eq!(f.activations(), 0);
        assert!(!f.is_attached());

        assert!(f.driver.reset(DEADLINE));
        f.start();
        assert_eq!(f.activations(), 1, "a reset makes it good");
    }
}

#[test]
fn a_device_that_cannot_start_is_lost_but_harmless() {
    let f = fixture();
    f.control.refuse_activation.store(true, Ordering::Relaxed);
    f.start();
    assert!(f.needs_reset());
    assert!(f.driver.reset(DEADLINE));
    f.start();
    assert!(f.needs_reset());
    assert_eq!(f.activations(), 1);
    f.function.stop(soon()).unwrap();
}

#[test]
fn a_worker_that_dies_is_told_of_and_harmless() {
    let f = fixture();
    f.start();
    f.control.panic_at_next_event.store(true, Ordering::Relaxed);
    f.driver.notify_slowly(0);
    let until = soon();
    while !f.needs_reset() {
        assert!(Instant::now() < until);
        std::thread::yield_now();
    }
    assert!(f.hypervisor.take_interrupt(0));
    assert!(!f.is_attached());
    assert!(f.driver.reset(DEADLINE));
    f.start();
    assert!(f.needs_reset());
}

#[test]
fn a_late_word_of_the_last_activation_does_not_reach_the_next() {
    let f = fixture();
    f.start();
    let old = f.control.interrupt.lock().unwrap().take().unwrap();
    assert!(f.driver.reset(DEADLINE));
    f.start();
    old.needs_reset(&"too late");
    assert!(!f.needs_reset());
}

#[test]
fn what_was_signalled_before_a_reset_is_not_seen_after_it() {
    let f = fixture();
    f.driver.notify_slowly(0);
    f.function.msix.event(1).unwrap().write(1).unwrap();
    assert!(
        f.hypervisor.take_interrupt(1),
        "connected: the guest's already"
    );
    let msix = f.driver.capabilities(0x11)[0];
    f.driver.write_config(msix + 2, &0xc000_u16.to_le_bytes());
    f.function.msix.event(1).unwrap().write(1).unwrap();
    assert_eq!(f.driver.read_bar(0x6000), [2, 0], "pending while masked");
    assert!(f.driver.reset(DEADLINE));
    assert_eq!(f.driver.read_bar(0x6000), [0, 0]);
    assert!(f.function.notify[0].read().is_err());
}

#[test]
fn a_configuration_change_interrupts() {
    let f = fixture();
    f.start();
    let interrupt = f.control.interrupt.lock().unwrap().clone().unwrap();
    interrupt.config_changed();
    assert!(f.hypervisor.take_interrupt(0));
}

#[test]
fn a_stop_ends_the_worker() {
    let f = fixture();
    f.function.stop(soon()).unwrap();
    let f = fixture();
    f.start();
    f.function.stop(soon()).unwrap();
    f.function.stop(soon()).unwrap();
    assert!(!f.is_attached());
    assert_eq!(Arc::strong_count(&f.control), 2, "the device is gone");
    assert!(f.driver.status() & DRIVER_OK != 0, "registers answer still");
}

#[test]
fn a_stop_says_which_device_does_not_end() {
    let f = fixture();
    f.start();
    let (leave, leave_to_stop) = mpsc::channel();
    *f.control.leave_to_stop.lock().unwrap() = Some(leave_to_stop);
    let error = f
        .function
        .stop(Instant::now() + Duration::from_millis(1))
        .unwrap_err();
    assert_eq!(error.to_string(), "echo did not stop in time");
    drop(leave);
}

#[test]
fn devices_that_are_asked_to_stop_do_so_side_by_side() {
    let [slow, quick] = [fixture(), fixture()];
    let (leave, leave_to_stop) = mpsc::channel();
    *slow.control.leave_to_stop.lock().unwrap() = Some(leave_to_stop);
    slow.start();
    quick.start();
    let [slow, quick] = [slow, quick].map(|f| f.function.begin_stop());
    quick.wait(soon()).unwrap();
    drop(leave);
    slow.wait(soon()).unwrap();
}

#[test]
fn a_stop_during_a_reset_ends_the_worker() {
    let f = fixture();
    f.start();
    f.driver.write_common(0x14, &[0]);
    f.function.stop(soon()).unwrap();
}

#[test]
fn vcpus_may_call_in_at_the_same_time() {
    let f = fixture();
    f.start();
    let driver = &f.driver;
    std::thread::scope(|vcpus| {
        vcpus.spawn(|| {
            for round in 0..300_u32 {
                driver.write_config(0x10, &(0xe000_0000 + 0x8000 * (round % 8)).to_le_bytes());
                driver.write_config(4, &[if round % 5 == 0 { 0 } else { 6 }, 0]);
            }
            driver.write_config(0x10, &0xe000_0000_u32.to_le_bytes());
            driver.write_config(4, &[6, 0]);
        });
        vcpus.spawn(|| {
            for _ in 0..300 {
                driver.write_common(0x14, &[0]);
                driver.negotiate(VERSION_1);
                driver.start();
            }
        });
        vcpus.spawn(|| {
            for vector in (0..3).cycle().take(300) {
                driver.write_bar(0x4000 + 16 * vector + 12, &1_u32.to_le_bytes());
                driver.read_bar::<8>(0x6000);
                driver.write_bar(0x4000 + 16 * vector + 12, &0_u32.to_le_bytes());
                driver.notify_slowly(1);
            }
        });
    });
    assert!(f.driver.reset(DEADLINE));
    let driver = PciDriver::new(&f.bus, Slot::new(1).unwrap(), WINDOW.base);
    let f = Fixture { driver, ..f };
    let [mut rings, _] = f.start();
    assert_eq!(f.echo(0, &mut rings, b"still here"), b"still here");
}
