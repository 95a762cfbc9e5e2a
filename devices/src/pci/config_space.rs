//! The configuration space of a function with a type 0 header (6.1).

use super::bar::{BAR_COUNT, Bar, BarRange};

/// Bytes of conventional configuration space; the extended space after it holds no capabilities and
/// reads as zero.
const SIZE: usize = 256;

const COMMAND: usize = 0x04;
const STATUS: usize = 0x06;
const CACHE_LINE_SIZE: usize = 0x0c;
const BARS: usize = 0x10;
const CAPABILITIES_POINTER: usize = 0x34;
const INTERRUPT_LINE: usize = 0x3c;
const FIRST_CAPABILITY: usize = 0x40;

/// Command register (6.2.2): memory space, bus master, interrupt disable.
const COMMAND_MEMORY: u8 = 1 << 1;
const COMMAND_BUS_MASTER: u8 = 1 << 2;
const COMMAND_INTERRUPT_DISABLE_HIGH: u8 = 1 << 2;
/// Status register (6.2.3): there is a capabilities list.
const STATUS_CAPABILITIES: u8 = 1 << 4;

/// What a function says it is (6.2.1, 6.2.4).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    /// Vendor ID.
    pub vendor: u16,
    /// Device ID.
    pub device: u16,
    /// Revision ID.
    pub revision: u8,
    /// Class code: base class, sub-class, programming interface from high to low.
    pub class: u32,
    /// Subsystem vendor ID.
    pub subsystem_vendor: u16,
    /// Subsystem ID.
    pub subsystem: u16,
}

/// Why a function could not be described.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The 192 bytes after the header are used up.
    #[error("a capability of {len} bytes does not fit into the configuration space")]
    NoRoom {
        /// Its bytes.
        len: usize,
    },
    /// Not a power of two from 16 bytes to 2 GiB, or no such register, or it is in use.
    #[error("BAR {index} cannot have {size:#x} bytes")]
    InvalidBar {
        /// 0 to 5.
        index: usize,
        /// Bytes.
        size: u32,
    },
}

/// The registers of one function.
#[derive(Clone, Debug)]
pub struct ConfigSpace {
    registers: [u8; SIZE],
    /// The bits of `registers` that a write changes.
    writable: [u8; SIZE],
    bars: [Option<Bar>; BAR_COUNT],
    /// Where the next capability's offset is to be written.
    link: usize,
    /// First byte without a capability.
    free: usize,
}

impl ConfigSpace {
    /// A header without BARs and capabilities, memory decoding off, no interrupt pin.
    pub fn new(identity: &Identity) -> Self {
        let mut this = Self {
            registers: [0; SIZE],
            writable: [0; SIZE],
            bars: Default::default(),
            link: CAPABILITIES_POINTER,
            free: FIRST_CAPABILITY,
        };
        this.set(0x00, &identity.vendor.to_le_bytes());
        this.set(0x02, &identity.device.to_le_bytes());
        this.set(0x08, &(identity.class << 8).to_le_bytes());
        this.set(0x08, &[identity.revision]);
        this.set(0x2c, &identity.subsystem_vendor.to_le_bytes());
        this.set(0x2e, &identity.subsystem.to_le_bytes());
        this.writable[COMMAND] = COMMAND_MEMORY | COMMAND_BUS_MASTER;
        this.writable[COMMAND + 1] = COMMAND_INTERRUPT_DISABLE_HIGH;
        // Registers that software keeps notes in; they do nothing.
        this.writable[CACHE_LINE_SIZE] = 0xff;
        this.writable[INTERRUPT_LINE] = 0xff;
        this
    }

    /// Adds a 32-bit memory BAR.
    pub fn add_bar(&mut self, index: usize, size: u32) -> Result<(), Error> {
        match self.bars.get_mut(index) {
            Some(bar @ None) if size.is_power_of_two() && size >= 16 => {
                *bar = Some(Bar::new(size));
                Ok(())
            }
            _ => Err(Error::InvalidBar { index, size }),
        }
    }

    /// Appends a capability (6.7) and gives the offset of its ID byte. `body` is what follows the ID and
    /// the next pointer; the bits set in `writable` are those of `body` that a driver may change, none
    /// beyond its end.
    pub fn add_capability(&mut self, id: u8, body: &[u8], writable: &[u8]) -> Result<usize, Error> {
        let at = self.free;
        let len = body.len() + 2;
        if at + len > SIZE {
            return Err(Error::NoRoom { len });
        }
        self.set(at, &[id, 0]);
        self.set(at + 2, body);
        let n = writable.len().min(body.len());
        self.writable[at + 2..at + 2 + n].copy_from_slice(&writable[..n]);
        self.registers[STATUS] |= STATUS_CAPABILITIES;
        // An offset into 256 bytes.
        self.registers[self.link] = at as u8;
        self.link = at + 1;
        self.free = (at + len).next_multiple_of(4);
        Ok(at)
    }

    /// Whether the function answers in memory (command register, memory space).
    pub fn decodes_memory(&self) -> bool {
        self.registers[COMMAND] & COMMAND_MEMORY != 0
    }

    /// Fills `data` from `offset`; zero where there is no register.
    pub fn read(&self, offset: u16, data: &mut [u8]) {
        for (at, byte) in (usize::from(offset)..).zip(data) {
            *byte = match self.bar_at(at) {
                Some(bar) => bar.register().to_le_bytes()[at % 4],
                None => self.registers.get(at).copied().unwrap_or(0),
            };
        }
    }

    /// Writes what a driver may write. A BAR changes only as a whole, by an aligned write of its four
    /// bytes, and only to where `accept` lets it. `false` if `accept` refused.
    pub fn write(
        &mut self,
        offset: u16,
        data: &[u8],
        mut accept: impl FnMut(usize, BarRange) -> bool,
    ) -> bool {
        let start = usize::from(offset);
        for (at, byte) in (start..).zip(data) {
            if let (Some(register), Some(mask)) =
                (self.registers.get_mut(at), self.writable.get(at))
            {
                *register = *register & !mask | byte & mask;
            }
        }
        let mut accepted = true;
        for (index, bar) in self.bars.iter_mut().enumerate() {
            let value = (BARS + 4 * index)
                .checked_sub(start)
                .and_then(|from| data.get(from..)?.first_chunk());
            if let (Some(bar), Some(&value)) = (bar, value) {
                accepted &= bar.write(u32::from_le_bytes(value), |range| accept(index, range));
            }
        }
        accepted
    }

    /// Puts bytes of a capability where the driver reads them, whatever it may write itself.
    pub fn set(&mut self, offset: usize, bytes: &[u8]) {
        if let Some(to) = self
            .registers
            .get_mut(offset..)
            .and_then(|rest| rest.get_mut(..bytes.len()))
        {
            to.copy_from_slice(bytes);
        }
    }

    /// Sizes of the BARs that there are.
    pub(super) fn bar_sizes(&self) -> impl Iterator<Item = (usize, u32)> + use<> {
        let sizes = self.bars.each_ref().map(|b| b.as_ref().map(Bar::size));
        (0..)
            .zip(sizes)
            .filter_map(|(index, size)| Some((index, size?)))
    }

    pub(super) fn place_bar(&mut self, index: usize, base: u32) {
        if let Some(Some(bar)) = self.bars.get_mut(index) {
            bar.place(base);
        }
    }

    /// The BARs' addresses, whether they answer or not.
    pub(super) fn placed(&self) -> impl Iterator<Item = BarRange> {
        self.bars.iter().flatten().filter_map(Bar::range)
    }

    /// Where each BAR answers, as far as this function alone can say.
    pub(super) fn decoded(&self) -> [Option<BarRange>; BAR_COUNT] {
        let on = self.decodes_memory();
        self.bars
            .each_ref()
            .map(|bar| bar.as_ref().filter(|_| on).and_then(Bar::range))
    }

    fn bar_at(&self, offset: usize) -> Option<&Bar> {
        let index = offset.checked_sub(BARS)? / 4;
        self.bars.get(index)?.as_ref()
    }
}

#[cfg(test)]
mod tests;
