#![allow(clippy::unwrap_used, clippy::panic)]

use super::*;
use crate::pci::Identity;

const WINDOW: MmioWindow = MmioWindow {
    base: 0xe000_0000,
    size: 0x1_0000,
};
const BAR_SIZE: u32 = 0x1000;

/// A function that keeps what it was told.
struct Function {
    bars: Vec<u32>,
    placed: Mutex<Vec<[Option<BarRange>; BAR_COUNT]>>,
    written: Mutex<Vec<(usize, u32, Vec<u8>)>>,
}

impl Function {
    fn new(bars: &[u32]) -> Arc<Self> {
        Arc::new(Self {
            bars: bars.to_vec(),
            placed: Mutex::default(),
            written: Mutex::default(),
        })
    }

    /// Where BAR 0 was put, each time.
    fn take_placed(&self) -> Vec<Option<u32>> {
        let placed = std::mem::take(&mut *self.placed.lock().unwrap());
        placed.iter().map(|bars| bars[0].map(|r| r.base)).collect()
    }
}

impl PciFunction for Function {
    fn config_space(&self) -> ConfigSpace {
        let mut config = ConfigSpace::new(&Identity {
            vendor: 0x1234,
            device: 0x5678,
            ..Identity::default()
        });
        for (index, size) in self.bars.iter().enumerate() {
            config.add_bar(index, *size).unwrap();
        }
        config
    }
    fn place(&self, bars: [Option<BarRange>; BAR_COUNT]) {
        self.placed.lock().unwrap().push(bars);
    }
    fn read_bar(&self, bar: usize, offset: u32, data: &mut [u8]) {
        data.fill(0);
        data[0] = offset as u8 | (bar as u8) << 7;
    }
    fn write_bar(&self, bar: usize, offset: u32, data: &[u8]) {
        let mut written = self.written.lock().unwrap();
        written.push((bar, offset, data.to_vec()));
    }
}

/// A bus with a function of one BAR in slots 1 and 2.
fn bus() -> (PciBus, Arc<Function>, Arc<Function>) {
    let bus = PciBus::new(WINDOW);
    let functions = [1, 2].map(|slot| {
        let function = Function::new(&[BAR_SIZE]);
        bus.add(Slot(slot), function.clone()).unwrap();
        function
    });
    let [first, second] = functions;
    (bus, first, second)
}

fn ecam(slot: u64, register: u64) -> u64 {
    slot << 15 | register
}

fn read_u32(device: &dyn BusDevice, offset: u64) -> u32 {
    let mut data = [0; 4];
    device.read(offset, &mut data);
    u32::from_le_bytes(data)
}

fn write_u32(device: &dyn BusDevice, offset: u64, value: u32) {
    device.write(offset, &value.to_le_bytes());
}

fn decode(bus: &PciBus, slot: u64, on: bool) {
    bus.ecam()
        .write(ecam(slot, 4), &[if on { 2 } else { 0 }, 0]);
}

fn bar(bus: &PciBus, slot: u64) -> u32 {
    read_u32(&*bus.ecam(), ecam(slot, 0x10))
}

fn set_bar(bus: &PciBus, slot: u64, base: u32) {
    write_u32(&*bus.ecam(), ecam(slot, 0x10), base);
}

#[test]
fn slot_0_has_a_host_bridge_and_empty_slots_read_all_ones() {
    let (bus, ..) = bus();
    let ecam_device = bus.ecam();
    assert_eq!(read_u32(&*ecam_device, ecam(0, 0)), 0x0008_1b36);
    assert_eq!(read_u32(&*ecam_device, ecam(0, 8)), 0x0600_0000);
    for slot in 3..32 {
        assert_eq!(read_u32(&*ecam_device, ecam(slot, 0)), u32::MAX);
        write_u32(&*ecam_device, ecam(slot, 4), u32::MAX);
    }
}

#[test]
fn a_slot_takes_one_function_and_there_are_32() {
    let (bus, ..) = bus();
    for slot in [0, 1, 2] {
        assert_eq!(
            bus.add(Slot(slot), Function::new(&[])),
            Err(Error::Occupied(Slot(slot)))
        );
    }
    assert_eq!(Slot::new(31), Ok(Slot(31)));
    assert_eq!(Slot::new(32), Err(Error::NoSuchSlot(32)));
    assert_eq!(Slot(31).to_string(), "00:1f.0");
}

#[test]
fn both_mechanisms_reach_the_same_registers() {
    let (bus, ..) = bus();
    let (ecam_device, ports) = (bus.ecam(), bus.config_ports());
    write_u32(&*ports, 0, 1 << 31 | 1 << 11 | 0x3c);
    assert_eq!(read_u32(&*ports, 0), 1 << 31 | 1 << 11 | 0x3c);
    ports.write(4, &[0x5a]);
    assert_eq!(read_u32(&*ecam_device, ecam(1, 0x3c)), 0x5a);

    write_u32(&*ports, 0, 1 << 31 | 1 << 11);
    let mut device_id = [0; 2];
    ports.read(6, &mut device_id);
    assert_eq!(u16::from_le_bytes(device_id), 0x5678);
    let mut byte = [0];
    ports.read(7, &mut byte);
    assert_eq!(byte, [0x56]);
}

#[test]
fn the_ports_answer_only_what_is_addressed_to_function_0_of_bus_0() {
    let (bus, ..) = bus();
    let ports = bus.config_ports();
    assert_eq!(read_u32(&*ports, 4), u32::MAX, "not enabled");
    for address in [
        1 << 11,
        1 << 31 | 1 << 16 | 1 << 11,
        1 << 31 | 1 << 11 | 1 << 8,
    ] {
        write_u32(&*ports, 0, address);
        assert_eq!(read_u32(&*ports, 4), u32::MAX, "{address:#x}");
        write_u32(&*ports, 4, 0);
    }
}

#[test]
fn odd_port_accesses_are_harmless() {
    let (bus, ..) = bus();
    let ports = bus.config_ports();
    write_u32(&*ports, 0, 1 << 31 | 1 << 11);
    for offset in 0..8 {
        for len in [1, 2, 3, 4, 8] {
            if (offset, len) != (0, 4) {
                ports.write(offset, &vec![0xff; len]);
                ports.read(offset, &mut vec![0; len]);
            }
        }
    }
    assert_eq!(read_u32(&*ports, 0), 1 << 31 | 1 << 11);
    assert_eq!(read_u32(&*ports, 4), 0x5678_1234);
    let mut byte = [0];
    ports.read(1, &mut byte);
    assert_eq!(byte, [0xff], "0xCF9 is not a part of the address register");
    assert_eq!(read_u32(&*ports, 6), u32::MAX, "beyond the data register");
}

#[test]
fn ecam_has_no_other_function_and_no_access_over_two() {
    let (bus, ..) = bus();
    let ecam_device = bus.ecam();
    for function in 1..8 {
        assert_eq!(read_u32(&*ecam_device, ecam(1, function << 12)), u32::MAX);
    }
    let mut data = [0; 8];
    ecam_device.read(ecam(1, 0xffc), &mut data);
    assert_eq!(data, [0xff; 8]);
    ecam_device.write(ecam(0, 0xffc), &data);
    ecam_device.read(ecam(1, 0), &mut data);
    assert_eq!(data, [0x34, 0x12, 0x78, 0x56, 0, 0, 0, 0]);
}

#[test]
fn bars_are_assigned_in_order_aligned_to_their_size() {
    let bus = PciBus::new(WINDOW);
    for (slot, sizes) in [(1, &[0x1000, 0x4000][..]), (2, &[0x2000]), (3, &[0x1000])] {
        bus.add(Slot(slot), Function::new(sizes)).unwrap();
    }
    let ecam_device = bus.ecam();
    let bars = [(1, 0x10), (1, 0x14), (2, 0x10), (3, 0x10)]
        .map(|(slot, register)| read_u32(&*ecam_device, ecam(slot, register)));
    assert_eq!(bars, [0xe000_0000, 0xe000_4000, 0xe000_2000, 0xe000_1000]);
}

#[test]
fn a_bar_for_which_there_is_no_room_is_an_error() {
    let (bus, ..) = bus();
    let (slot, size) = (Slot(3), 0x1_0000);
    let full = |bar| Err(Error::WindowFull { slot, bar, size });
    assert_eq!(bus.add(slot, Function::new(&[size])), full(0));
    assert_eq!(bus.add(slot, Function::new(&[0x1000, size])), full(1));
    assert_eq!(bus.add(slot, Function::new(&[0x8000])), Ok(()));

    let high = PciBus::new(MmioWindow {
        base: 0xffff_f000,
        size: 0x10_0000,
    });
    assert_eq!(high.add(Slot(1), Function::new(&[0x1000])), Ok(()));
    assert!(high.add(Slot(2), Function::new(&[0x1000])).is_err());
}

#[test]
fn a_bar_answers_while_memory_is_decoded() {
    let (bus, first, second) = bus();
    let window = bus.window();
    assert_eq!(read_u32(&*window, 0x10), u32::MAX);
    decode(&bus, 1, true);
    decode(&bus, 2, true);
    assert_eq!(first.take_placed(), [Some(0xe000_0000)]);
    assert_eq!(second.take_placed(), [Some(0xe000_1000)]);
    assert_eq!(read_u32(&*window, 0x10), 0x10);
    window.write(0x1020, &[7]);
    assert_eq!(*second.written.lock().unwrap(), [(0, 0x20, vec![7])]);

    let mut over_the_end = [0; 4];
    window.read(0x1ffe, &mut over_the_end);
    assert_eq!(over_the_end, [0xff; 4]);
    assert_eq!(read_u32(&*window, u64::MAX - 1), u32::MAX);

    decode(&bus, 1, false);
    assert_eq!(first.take_placed(), [None]);
    assert_eq!(read_u32(&*window, 0x10), u32::MAX);
}

#[test]
fn a_bar_can_be_sized_with_memory_decoding_on() {
    let (bus, first, _) = bus();
    decode(&bus, 1, true);
    set_bar(&bus, 1, u32::MAX);
    assert_eq!(bar(&bus, 1), !(BAR_SIZE - 1));
    assert_eq!(read_u32(&*bus.window(), 0), u32::MAX);
    set_bar(&bus, 1, 0xe000_0000);
    assert_eq!(
        first.take_placed(),
        [Some(0xe000_0000), None, Some(0xe000_0000)]
    );
}

#[test]
fn a_bar_moves_within_the_window() {
    let (bus, first, _) = bus();
    decode(&bus, 1, true);
    set_bar(&bus, 1, 0xe000_f000);
    assert_eq!(bar(&bus, 1), 0xe000_f000);
    assert_eq!(first.take_placed(), [Some(0xe000_0000), Some(0xe000_f000)]);
    assert_eq!(read_u32(&*bus.window(), 0xf004), 4);
    assert_eq!(read_u32(&*bus.window(), 4), u32::MAX);
}

#[test]
fn a_bar_cannot_leave_the_window() {
    let (bus, first, _) = bus();
    decode(&bus, 1, true);
    for base in [0, 0xdfff_f000, 0xe001_0000, 0xfee0_0000, 0xffff_e000] {
        set_bar(&bus, 1, base);
        assert_eq!(bar(&bus, 1), 0xe000_0000, "{base:#x}");
    }
    assert_eq!(first.take_placed(), [Some(0xe000_0000)]);
}

#[test]
fn a_bar_cannot_cover_one_that_answers() {
    let (bus, first, _) = bus();
    decode(&bus, 1, true);
    decode(&bus, 2, true);
    set_bar(&bus, 1, 0xe000_1000);
    assert_eq!(bar(&bus, 1), 0xe000_0000);
    assert_eq!(first.take_placed(), [Some(0xe000_0000)]);
}

#[test]
fn two_silent_functions_can_exchange_their_bars() {
    let (bus, first, second) = bus();
    set_bar(&bus, 1, 0xe000_1000);
    set_bar(&bus, 2, 0xe000_0000);
    decode(&bus, 1, true);
    decode(&bus, 2, true);
    assert_eq!(first.take_placed(), [Some(0xe000_1000)]);
    assert_eq!(second.take_placed(), [Some(0xe000_0000)]);
}

#[test]
fn of_two_functions_at_one_address_the_first_to_decode_answers() {
    let (bus, first, second) = bus();
    set_bar(&bus, 2, 0xe000_0000);
    decode(&bus, 2, true);
    decode(&bus, 1, true);
    assert_eq!(second.take_placed(), [Some(0xe000_0000)]);
    assert_eq!(first.take_placed(), []);
    decode(&bus, 2, false);
    decode(&bus, 1, true);
    assert_eq!(first.take_placed(), [Some(0xe000_0000)]);
}

#[test]
fn of_two_bars_of_one_function_at_one_address_the_first_answers() {
    let bus = PciBus::new(WINDOW);
    let function = Function::new(&[0x1000, 0x1000]);
    bus.add(Slot(1), function.clone()).unwrap();
    write_u32(&*bus.ecam(), ecam(1, 0x14), 0xe000_0000);
    decode(&bus, 1, true);
    let placed = function.placed.lock().unwrap();
    assert_eq!(placed.len(), 1);
    assert_eq!(placed[0][0].map(|r| r.base), Some(0xe000_0000));
    assert_eq!(placed[0][1], None);
}
