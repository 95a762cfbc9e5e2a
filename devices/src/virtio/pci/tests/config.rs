//! Configuration space of whole functions, as a guest's PCI code goes through it.

use vm_memory::Bytes;

use super::*;
use crate::bus::BusDevice;

/// Bytes of a function in ECAM.
const SIZE: u64 = 0x1000;
/// Registers that only say what the function is: IDs, revision and class, header type, subsystem, capability pointer,
/// interrupt pin.
const CONSTANT: [std::ops::Range<u64>; 6] = [
    0x00..0x04,
    0x08..0x0c,
    0x0e..0x0f,
    0x2c..0x30,
    0x34..0x35,
    0x3d..0x3e,
];

/// Host bridge, a device with two queues, one with as many as there may be, and an empty slot.
const SLOTS: [u64; 4] = [0, 1, 2, 3];

fn bus() -> (Fixture, Arc<dyn BusDevice>) {
    let f = fixture();
    let device = device::Echo::with_queues(Arc::default(), &[16; MAX_QUEUES]);
    let hypervisor = f.hypervisor.clone();
    let large = VirtioPci::new("large", Box::new(device), f.memory.clone(), hypervisor).unwrap();
    f.bus.add(Slot::new(2).unwrap(), large).unwrap();
    let ecam = f.bus.ecam();
    (f, ecam)
}

fn read(ecam: &dyn BusDevice, slot: u64, offset: u64, size: usize) -> Vec<u8> {
    let mut data = vec![0xaa; size];
    ecam.read(slot << 15 | offset, &mut data);
    data
}

fn snapshot(ecam: &dyn BusDevice, slot: u64) -> Vec<u8> {
    (0..SIZE)
        .flat_map(|offset| read(ecam, slot, offset, 1))
        .collect()
}

#[test]
fn every_offset_and_size_reads_the_same_bytes() {
    let (_f, ecam) = bus();
    for slot in SLOTS {
        let bytes = snapshot(&*ecam, slot);
        for size in [2, 4, 8] {
            for offset in 0..=SIZE as usize - size {
                assert_eq!(
                    read(&*ecam, slot, offset as u64, size),
                    bytes[offset..offset + size],
                    "slot {slot}, {size} bytes at {offset:#x}"
                );
            }
        }
    }
}

#[test]
fn all_ones_everywhere_change_no_constant_and_can_be_undone() {
    let (f, ecam) = bus();
    let memory: Vec<u8> = (0..RAM).map(|n| n as u8).collect();
    f.memory
        .write_slice(&memory, vm_memory::GuestAddress(0))
        .unwrap();
    for slot in SLOTS {
        let before = snapshot(&*ecam, slot);
        for size in [1, 2, 4] {
            for offset in (0..=SIZE - size as u64).step_by(size) {
                ecam.write(slot << 15 | offset, &vec![0xff; size]);
                let now = snapshot_of_constants(&*ecam, slot);
                assert_eq!(
                    now,
                    constants(&before),
                    "slot {slot}, {size} bytes at {offset:#x}"
                );
                let at = offset as usize;
                ecam.write(slot << 15 | offset, &before[at..at + size]);
            }
            // Bits that clear when they are written as ones there are none; a BAR takes no part of an address.
            assert_eq!(snapshot(&*ecam, slot), before, "slot {slot}, by {size}");
        }
    }
    let mut after = vec![0; RAM];
    f.memory
        .read_slice(&mut after, vm_memory::GuestAddress(0))
        .unwrap();
    assert!(after == memory);
}

fn constants(bytes: &[u8]) -> Vec<u8> {
    let ranges = CONSTANT.into_iter();
    ranges
        .flat_map(|range| bytes[range.start as usize..range.end as usize].to_vec())
        .collect()
}

fn snapshot_of_constants(ecam: &dyn BusDevice, slot: u64) -> Vec<u8> {
    let ranges = CONSTANT.into_iter();
    ranges
        .flat_map(|range| read(ecam, slot, range.start, (range.end - range.start) as usize))
        .collect()
}

#[test]
fn sizing_every_bar_leaves_it_where_it_was() {
    let (_f, ecam) = bus();
    for slot in [1, 2] {
        let before = snapshot(&*ecam, slot);
        for bar in (0x10..0x28).step_by(4) {
            ecam.write(slot << 15 | bar, &[0xff; 4]);
            let size = u32::from_le_bytes(read(&*ecam, slot, bar, 4).try_into().unwrap());
            let is_there = bar == 0x10;
            assert_eq!(size, if is_there { !(layout::BAR_SIZE - 1) } else { 0 });
            ecam.write(slot << 15 | bar, &before[bar as usize..bar as usize + 4]);
        }
        assert_eq!(snapshot(&*ecam, slot), before);
    }
}
