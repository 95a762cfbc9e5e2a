#![allow(clippy::unwrap_used, clippy::panic)]

mod model;

use super::*;
use crate::test_utils::{Call, FakeHypervisor};

const ENABLED: u16 = CONTROL_ENABLE;
const MASKED: u16 = CONTROL_ENABLE | CONTROL_FUNCTION_MASK;
const FIRST: Gsi = Gsi(24);
const SECOND: Gsi = Gsi(25);

fn msix() -> (Arc<FakeHypervisor>, Msix) {
    let hypervisor = Arc::new(FakeHypervisor::default());
    let msix = Msix::new("test".into(), 10, hypervisor.clone()).unwrap();
    (hypervisor, msix)
}

fn message(data: u32) -> MsiMessage {
    MsiMessage {
        address: 0xfee0_1000,
        data,
    }
}

/// Writes a vector's message as Linux does, which does not touch its mask.
fn set_message(msix: &Msix, vector: u32, data: u32) {
    let at = vector * ENTRY_SIZE;
    msix.write_table(at, &0xfee0_1000_u32.to_le_bytes());
    msix.write_table(at + 4, &0_u32.to_le_bytes());
    msix.write_table(at + 8, &data.to_le_bytes());
}

fn set_mask(msix: &Msix, vector: u32, masked: bool) {
    msix.write_table(vector * ENTRY_SIZE + 12, &u32::from(masked).to_le_bytes());
}

fn signal(msix: &Msix, vector: u16) {
    msix.event(vector).unwrap().write(1).unwrap();
}

fn pba(msix: &Msix) -> u64 {
    let mut data = [0xff; 8];
    msix.read_pba(0, &mut data);
    u64::from_le_bytes(data)
}

#[test]
fn the_capability_names_table_and_pending_bits() {
    let (body, writable) = capability(3, 1, 0x4000, 0x6000);
    assert_eq!(body, [2, 0, 1, 0x40, 0, 0, 1, 0x60, 0, 0]);
    assert_eq!(writable, [0, 0xc0]);
}

#[test]
fn vectors_begin_masked_and_off() {
    let (hypervisor, msix) = msix();
    let mut entry = [0xff; 16];
    msix.read_table(9 * ENTRY_SIZE, &mut entry);
    assert_eq!(entry, [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0]);
    msix.set_control(ENABLED);
    assert_eq!(hypervisor.take_calls(), []);
    assert!(msix.event(9).is_some() && msix.event(10).is_none());
}

#[test]
fn a_vector_is_connected_when_it_is_unmasked_and_enabled() {
    let (hypervisor, msix) = msix();
    set_message(&msix, 3, 0x41);
    set_mask(&msix, 3, false);
    assert_eq!(hypervisor.take_calls(), [], "MSI-X is off");
    msix.set_control(MASKED);
    assert_eq!(hypervisor.take_calls(), [], "the function is masked");
    msix.set_control(ENABLED);
    assert_eq!(
        hypervisor.take_calls(),
        [
            Call::AllocateGsi(FIRST),
            Call::ConnectMsi(FIRST, message(0x41))
        ]
    );
    signal(&msix, 3);
    assert!(hypervisor.take_interrupt(0x41));
    msix.set_control(MASKED);
    assert_eq!(hypervisor.take_calls(), [Call::DisconnectMsi(FIRST)]);
}

#[test]
fn each_vector_has_one_route_for_good() {
    let (hypervisor, msix) = msix();
    msix.set_control(ENABLED);
    for vector in [4, 2] {
        set_message(&msix, vector, vector);
        set_mask(&msix, vector, false);
    }
    set_mask(&msix, 4, true);
    set_mask(&msix, 4, false);
    assert_eq!(
        hypervisor.take_calls(),
        [
            Call::AllocateGsi(FIRST),
            Call::ConnectMsi(FIRST, message(4)),
            Call::AllocateGsi(SECOND),
            Call::ConnectMsi(SECOND, message(2)),
            Call::DisconnectMsi(FIRST),
            Call::ConnectMsi(FIRST, message(4)),
        ]
    );
}

#[test]
fn what_changes_nothing_does_not_reach_the_hypervisor() {
    let (hypervisor, msix) = msix();
    msix.set_control(ENABLED);
    set_message(&msix, 0, 1);
    set_mask(&msix, 0, false);
    hypervisor.take_calls();

    msix.set_control(ENABLED);
    set_mask(&msix, 0, false);
    set_message(&msix, 0, 1);
    set_message(&msix, 1, 7);
    set_mask(&msix, 1, true);
    assert_eq!(hypervisor.take_calls(), []);

    msix.write_table(8, &2_u32.to_le_bytes());
    assert_eq!(
        hypervisor.take_calls(),
        [Call::ConnectMsi(FIRST, message(2))],
        "an unmasked vector's new message counts at once"
    );
}

#[test]
fn a_signal_while_masked_is_pending_and_delivered_at_the_unmask() {
    let (hypervisor, msix) = msix();
    msix.set_control(ENABLED);
    set_message(&msix, 9, 0x30);
    signal(&msix, 9);
    signal(&msix, 9);
    assert_eq!(pba(&msix), 1 << 9);
    assert_eq!(pba(&msix), 1 << 9, "reading does not clear it");
    assert!(!hypervisor.take_interrupt(0x30));

    set_mask(&msix, 9, false);
    assert_eq!(pba(&msix), 0);
    assert!(hypervisor.take_interrupt(0x30));
    assert!(!hypervisor.take_interrupt(0x30));

    set_mask(&msix, 9, true);
    assert_eq!(pba(&msix), 0);
}

#[test]
fn a_reset_forgets_what_is_pending() {
    let (_, msix) = msix();
    signal(&msix, 0);
    msix.clear_pending();
    assert_eq!(pba(&msix), 0);
}

#[test]
fn a_quadword_writes_half_an_entry() {
    let (hypervisor, msix) = msix();
    msix.set_control(ENABLED);
    msix.write_table(ENTRY_SIZE, &0x1_fee0_1003_u64.to_le_bytes());
    msix.write_table(ENTRY_SIZE + 8, &0x22_u64.to_le_bytes());
    let mut entry = [0; 16];
    msix.read_table(ENTRY_SIZE, &mut entry);
    assert_eq!(
        entry,
        [0, 0x10, 0xe0, 0xfe, 1, 0, 0, 0, 0x22, 0, 0, 0, 0, 0, 0, 0]
    );
    let message = MsiMessage {
        address: 0x1_fee0_1000,
        data: 0x22,
    };
    assert_eq!(
        hypervisor.take_calls(),
        [Call::AllocateGsi(FIRST), Call::ConnectMsi(FIRST, message)]
    );
}

#[test]
fn odd_accesses_are_harmless() {
    let (hypervisor, msix) = msix();
    msix.set_control(ENABLED);
    for offset in [0, 1, 2, 12, 10 * ENTRY_SIZE, 0xffff_fff8, u32::MAX] {
        for len in [0, 1, 2, 3, 4, 8, 16] {
            let mut before = [0; 160];
            msix.read_table(0, &mut before);
            if offset == 12 && len == 4 {
                continue;
            }
            msix.write_table(offset, &vec![0xfe; len]);
            msix.read_table(offset, &mut vec![0; len]);
            msix.read_pba(offset, &mut vec![0; len]);
            let mut after = [0; 160];
            msix.read_table(0, &mut after);
            let is_valid =
                offset < 12 && matches!(len, 4 | 8) && (offset as usize).is_multiple_of(len);
            assert_eq!(before == after, !is_valid, "{len} bytes at {offset}");
            msix.write_table(0, &[0; 8]);
            msix.write_table(8, &[0, 0, 0, 0, 1, 0, 0, 0]);
        }
    }
    let mut beyond = [0xff; 4];
    msix.read_table(10 * ENTRY_SIZE, &mut beyond);
    assert_eq!(beyond, [0; 4]);
    assert_eq!(hypervisor.take_calls(), []);
}

#[test]
fn a_hypervisor_that_refuses_is_asked_again_at_the_next_change() {
    let (hypervisor, msix) = msix();
    msix.set_control(ENABLED);
    set_message(&msix, 0, 5);
    hypervisor.set_failing(true);
    set_mask(&msix, 0, false);
    signal(&msix, 0);
    assert_eq!(pba(&msix), 1);
    hypervisor.set_failing(false);
    set_mask(&msix, 0, false);
    assert!(hypervisor.take_interrupt(5));
}
