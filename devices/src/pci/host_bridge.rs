//! The host bridge in slot 0, which makes the bus look like one to every operating system.

use super::{BAR_COUNT, BarRange, ConfigSpace, Identity, PciFunction};

/// Red Hat's "PCIe host bridge" of virtual machines without a chipset (QEMU's gpex): an ID that promises
/// no registers and to which no driver or quirk binds.
const IDENTITY: Identity = Identity {
    vendor: 0x1b36,
    device: 0x0008,
    revision: 0,
    class: 0x06_00_00,
    subsystem_vendor: 0,
    subsystem: 0,
};

pub(super) struct HostBridge;

impl PciFunction for HostBridge {
    fn config_space(&self) -> ConfigSpace {
        ConfigSpace::new(&IDENTITY)
    }
    fn place(&self, _bars: [Option<BarRange>; BAR_COUNT]) {}
    fn read_bar(&self, _bar: usize, _offset: u32, data: &mut [u8]) {
        data.fill(0xff);
    }
    fn write_bar(&self, _bar: usize, _offset: u32, _data: &[u8]) {}
}
