//! PCI: any accesses to configuration space, by ECAM and by ports, and to the window of the BARs.
//!
//! Whatever a guest writes, what identifies a function stays, and BARs that answer are in the window, aligned and apart.
#![no_main]

use std::sync::{Arc, Mutex};

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use minivmm_devices::pci::{
    BAR_COUNT, BarRange, ConfigSpace, Identity, MmioWindow, PciBus, PciFunction, Slot, msix,
};
use minivmm_fuzz::Access;

/// Small, so that BARs get into each other's way.
const WINDOW: MmioWindow = MmioWindow {
    base: 0xc000_0000,
    size: 0x1_0000,
};
const IDENTITY: Identity = Identity {
    vendor: 0x1af4,
    device: 0x1050,
    revision: 1,
    class: 0xff_00_00,
    subsystem_vendor: 0x1af4,
    subsystem: 0x1050,
};

#[derive(Default)]
struct Function(Mutex<[Option<BarRange>; BAR_COUNT]>);

impl PciFunction for Function {
    fn config_space(&self) -> ConfigSpace {
        let mut config = ConfigSpace::new(&IDENTITY);
        config.add_bar(0, 0x4000).expect("it is the first");
        config.add_bar(3, 0x10).expect("it is another one");
        let (body, writable) = msix::capability(4, 0, 0, 0x1000);
        config
            .add_capability(msix::CAPABILITY_ID, &body, &writable)
            .expect("there is room");
        config
    }

    fn place(&self, bars: [Option<BarRange>; BAR_COUNT]) {
        *self.0.lock().expect("nothing panics with it") = bars;
    }

    fn read_bar(&self, bar: usize, offset: u32, data: &mut [u8]) {
        self.check(bar, offset, data.len());
        data.fill(0);
    }

    fn write_bar(&self, bar: usize, offset: u32, data: &[u8]) {
        self.check(bar, offset, data.len());
    }
}

impl Function {
    fn check(&self, bar: usize, offset: u32, len: usize) {
        let range = self.0.lock().expect("nothing panics with it")[bar].expect("it answers");
        assert!(offset as usize + len <= range.size as usize);
    }
}

#[derive(Arbitrary, Debug)]
enum Step {
    Config {
        slot: u8,
        access: Access,
    },
    Ports(Access),
    Window(Access),
    /// A whole register, which random bytes seldom are.
    Bar {
        slot: u8,
        high: bool,
        page: u8,
        decode: bool,
    },
}

fuzz_target!(|steps: Vec<Step>| {
    let bus = PciBus::new(WINDOW);
    let functions = [1, 2, 31].map(|slot| {
        let function = Arc::new(Function::default());
        let slot = Slot::new(slot).expect("there are 32");
        bus.add(slot, function.clone()).expect("there is room");
        (u64::from(slot.number()), function)
    });
    let (ecam, ports, window) = (bus.ecam(), bus.config_ports(), bus.window());
    for step in steps {
        match step {
            Step::Config { slot, access } => {
                access.run_at(&*ecam, u64::from(slot) << 15, 0x8000);
            }
            Step::Ports(access) => {
                access.run(&*ports, 8);
            }
            Step::Window(access) => {
                access.run(&*window, WINDOW.size);
            }
            Step::Bar {
                slot,
                high,
                page,
                decode,
            } => {
                let (slot, _) = functions[usize::from(slot) % functions.len()];
                let base = WINDOW.base as u32 - 0x2000 + (u32::from(page) << 9);
                let register = if high { 0x1c } else { 0x10 };
                ecam.write(slot << 15 | register, &base.to_le_bytes());
                ecam.write(slot << 15 | 4, &[u8::from(decode) << 1, 0]);
            }
        }
    }

    let mut live = Vec::new();
    for (slot, function) in &functions {
        let mut identity = [0; 4];
        ecam.read(slot << 15, &mut identity);
        assert_eq!(identity, [0xf4, 0x1a, 0x50, 0x10]);
        live.extend(
            function
                .0
                .lock()
                .expect("nothing panics with it")
                .iter()
                .flatten(),
        );
    }
    live.sort_by_key(|range: &BarRange| range.base);
    for range in &live {
        assert_eq!(range.base % range.size, 0);
        assert!(u64::from(range.base) >= WINDOW.base);
        assert!(u64::from(range.base) + u64::from(range.size) <= WINDOW.base + WINDOW.size);
    }
    for pair in live.windows(2) {
        assert!(pair[0].base + pair[0].size <= pair[1].base);
    }
});
