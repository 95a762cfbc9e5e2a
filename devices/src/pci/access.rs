//! The three address ranges by which a vCPU reaches the bus.

use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering},
};

use super::bus::Functions;
use crate::bus::BusDevice;

/// Enhanced configuration access mechanism: bits 27–20 bus, 19–15 device, 14–12 function, 11–0 register
/// (PCI Express 4.0, 7.2.2). Bus 0 has the first MiB.
pub(super) struct Ecam(pub(super) Arc<Functions>);

impl Ecam {
    /// Slot and register of an access that is within one function's 4 KiB, if it is function 0.
    fn decode(offset: u64, len: usize) -> Option<(usize, u16)> {
        let register = (offset & 0xfff) as u16;
        let function = offset >> 12 & 7;
        let slot = usize::try_from(offset >> 15).ok()?;
        (function == 0 && usize::from(register) + len <= 0x1000).then_some((slot, register))
    }
}

impl BusDevice for Ecam {
    fn read(&self, offset: u64, data: &mut [u8]) {
        match Self::decode(offset, data.len()) {
            Some((slot, register)) => self.0.read_config(slot, register, data),
            None => data.fill(0xff),
        }
    }

    fn write(&self, offset: u64, data: &[u8]) {
        if let Some((slot, register)) = Self::decode(offset, data.len()) {
            self.0.write_config(slot, register, data);
        }
    }
}

/// Configuration mechanism #1 (3.2.2.3.2): CONFIG_ADDRESS at 0xCF8, CONFIG_DATA at 0xCFC.
pub(super) struct ConfigPorts {
    functions: Arc<Functions>,
    address: AtomicU32,
}

/// Bit 31 of CONFIG_ADDRESS: accesses of CONFIG_DATA are configuration cycles.
const ENABLE: u32 = 1 << 31;
/// Bits of CONFIG_ADDRESS that can be set: enable, bus, device, function, register.
const ADDRESS_BITS: u32 = ENABLE | 0x00ff_fffc;

impl ConfigPorts {
    pub(super) fn new(functions: Arc<Functions>) -> Self {
        Self {
            functions,
            address: AtomicU32::new(0),
        }
    }

    /// Slot and register of an access at `offset` from 0xCF8 that is within CONFIG_DATA.
    fn decode(&self, offset: u64, len: usize) -> Option<(usize, u16)> {
        let byte = offset.checked_sub(4)?;
        if byte + len as u64 > 4 {
            return None;
        }
        let address = self.address.load(Ordering::Relaxed);
        let (bus, function) = (address >> 16 & 0xff, address >> 8 & 7);
        let slot = address >> 11 & 0x1f;
        let register = (address & 0xfc) as u16 + byte as u16;
        (address & ENABLE != 0 && bus == 0 && function == 0).then_some((slot as usize, register))
    }
}

impl BusDevice for ConfigPorts {
    fn read(&self, offset: u64, data: &mut [u8]) {
        if let (0, 4) = (offset, data.len()) {
            data.copy_from_slice(&self.address.load(Ordering::Relaxed).to_le_bytes());
        } else if let Some((slot, register)) = self.decode(offset, data.len()) {
            self.functions.read_config(slot, register, data);
        } else {
            data.fill(0xff);
        }
    }

    fn write(&self, offset: u64, data: &[u8]) {
        // Only a whole doubleword is CONFIG_ADDRESS; 0xCF9 alone is a reset register on other machines.
        if let (0, Ok(address)) = (offset, data.try_into()) {
            let address = u32::from_le_bytes(address) & ADDRESS_BITS;
            self.address.store(address, Ordering::Relaxed);
        } else if let Some((slot, register)) = self.decode(offset, data.len()) {
            self.functions.write_config(slot, register, data);
        }
    }
}

/// The window of all BARs.
pub(super) struct Window(pub(super) Arc<Functions>);

impl BusDevice for Window {
    fn read(&self, offset: u64, data: &mut [u8]) {
        match self.0.find(offset, data.len()) {
            Some((function, bar, offset)) => function.read_bar(bar, offset, data),
            None => data.fill(0xff),
        }
    }

    fn write(&self, offset: u64, data: &[u8]) {
        if let Some((function, bar, offset)) = self.0.find(offset, data.len()) {
            function.write_bar(bar, offset, data);
        }
    }
}
