//! Base address registers: 32-bit memory, not prefetchable (6.2.5.1).

use std::fmt;

/// Base address registers of a type 0 header.
pub const BAR_COUNT: usize = 6;

/// The guest physical addresses in which BARs may lie, below 4 GiB.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MmioWindow {
    /// First address.
    pub base: u64,
    /// Bytes.
    pub size: u64,
}

impl MmioWindow {
    /// First address after the window, at most 4 GiB.
    pub(super) fn end(&self) -> u64 {
        self.base.saturating_add(self.size).min(1 << 32)
    }
}

/// The addresses of one BAR.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BarRange {
    /// First address.
    pub base: u32,
    /// Bytes, a power of two.
    pub size: u32,
}

impl BarRange {
    /// First address after the BAR.
    pub(super) fn end(&self) -> u64 {
        u64::from(self.base) + u64::from(self.size)
    }

    pub(super) fn overlaps(&self, other: &Self) -> bool {
        u64::from(self.base) < other.end() && u64::from(other.base) < self.end()
    }

    pub(super) fn is_within(&self, window: &MmioWindow) -> bool {
        window.base <= u64::from(self.base) && self.end() <= window.end()
    }
}

impl fmt::Display for BarRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}+{:#x}", self.base, self.size)
    }
}

/// One base address register.
#[derive(Clone, Debug)]
pub(super) struct Bar {
    range: BarRange,
    /// The last write was all ones: the register shows its size and answers nowhere.
    sizing: bool,
}

impl Bar {
    pub(super) fn new(size: u32) -> Self {
        Self {
            range: BarRange { base: 0, size },
            sizing: false,
        }
    }

    pub(super) fn size(&self) -> u32 {
        self.range.size
    }

    pub(super) fn place(&mut self, base: u32) {
        self.range.base = base;
        self.sizing = false;
    }

    /// Where it answers if memory decoding is on.
    pub(super) fn range(&self) -> Option<BarRange> {
        (!self.sizing).then_some(self.range)
    }

    pub(super) fn register(&self) -> u32 {
        if self.sizing {
            self.address_bits()
        } else {
            self.range.base
        }
    }

    /// Takes a write of the whole register; `false` if it has no effect since `accept` refused the address.
    pub(super) fn write(&mut self, value: u32, accept: impl FnOnce(BarRange) -> bool) -> bool {
        let base = value & self.address_bits();
        self.sizing = base == self.address_bits();
        if self.sizing {
            return true;
        }
        let range = BarRange { base, ..self.range };
        let accepted = base == self.range.base || accept(range);
        if accepted {
            self.range = range;
        }
        accepted
    }

    fn address_bits(&self) -> u32 {
        !(self.range.size - 1)
    }
}
