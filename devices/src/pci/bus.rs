//! Bus 0: slots, their configuration spaces, and the window in which their BARs answer.

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock},
};

use super::{
    access::{ConfigPorts, Ecam, Window},
    bar::{BAR_COUNT, BarRange, MmioWindow},
    config_space::ConfigSpace,
    host_bridge::HostBridge,
};
use crate::bus::BusDevice;

/// Slots of a bus.
const SLOTS: usize = 32;

/// A device number on bus 0: 0 to 31.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Slot(u8);

impl Slot {
    /// The slot of that number.
    pub fn new(number: u8) -> Result<Self, Error> {
        if usize::from(number) < SLOTS {
            Ok(Self(number))
        } else {
            Err(Error::NoSuchSlot(number))
        }
    }

    /// Its number.
    pub fn number(self) -> u8 {
        self.0
    }

    fn index(self) -> usize {
        usize::from(self.0)
    }
}

impl fmt::Display for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // As lspci writes it.
        write!(f, "00:{:02x}.0", self.0)
    }
}

/// Why a function could not be put on the bus.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// A bus has 32 slots.
    #[error("PCI slot {0} does not exist: slots are 0 to 31")]
    NoSuchSlot(u8),
    /// Something is there already.
    #[error("PCI slot {} is occupied", .0.number())]
    Occupied(Slot),
    /// The window has no free place of that size.
    #[error("no room in the PCI window for the {size:#x} bytes of BAR {bar} in slot {}", .slot.number())]
    WindowFull {
        /// Whose BAR.
        slot: Slot,
        /// Which one.
        bar: usize,
        /// Bytes.
        size: u32,
    },
}

/// Function 0 of a device, the only one.
///
/// The bus keeps its configuration space and calls it with a lock held, so it must not call the bus.
pub trait PciFunction: Send + Sync {
    /// Its configuration space as at reset; asked once.
    fn config_space(&self) -> ConfigSpace;

    /// The BARs answer here from now on, or no longer: memory decoding was switched or a BAR was moved.
    fn place(&self, bars: [Option<BarRange>; BAR_COUNT]);

    /// Fills `data` from `offset` into a BAR.
    fn read_bar(&self, bar: usize, offset: u32, data: &mut [u8]);

    /// Writes `data` at `offset` into a BAR.
    fn write_bar(&self, bar: usize, offset: u32, data: &[u8]);

    /// `len` bytes at `offset` are about to be read: registers that are not just memory are to be set now.
    fn before_config_read(&self, _config: &mut ConfigSpace, _offset: u16, _len: usize) {}

    /// `len` bytes at `offset` were written.
    fn after_config_write(&self, _config: &mut ConfigSpace, _offset: u16, _len: usize) {}
}

/// PCI bus 0.
#[derive(Clone)]
pub struct PciBus(Arc<Functions>);

impl PciBus {
    /// A bus with a host bridge in slot 0, whose BARs lie in `window`.
    pub fn new(window: MmioWindow) -> Self {
        let functions = Functions {
            window,
            slots: Mutex::default(),
            routes: RwLock::default(),
        };
        functions.lock()[0] = Some(Occupied::new(Arc::new(HostBridge)));
        Self(Arc::new(functions))
    }

    /// Puts a function into an empty slot and its BARs into the first places that are free.
    pub fn add(&self, slot: Slot, function: Arc<dyn PciFunction>) -> Result<(), Error> {
        self.0.add(slot, function)
    }

    /// The enhanced configuration access mechanism: 1 MiB of MMIO (PCI Express 4.0, 7.2.2).
    pub fn ecam(&self) -> Arc<dyn BusDevice> {
        Arc::new(Ecam(self.0.clone()))
    }

    /// Configuration mechanism #1: the eight ports from 0xCF8 (3.2.2.3.2).
    pub fn config_ports(&self) -> Arc<dyn BusDevice> {
        Arc::new(ConfigPorts::new(self.0.clone()))
    }

    /// All BARs: the MMIO of the whole window.
    pub fn window(&self) -> Arc<dyn BusDevice> {
        Arc::new(Window(self.0.clone()))
    }
}

/// A function in its slot.
struct Occupied {
    function: Arc<dyn PciFunction>,
    config: ConfigSpace,
    live: [Option<BarRange>; BAR_COUNT],
    /// The log has been told of a BAR that the guest put where it cannot be.
    warned: bool,
}

impl Occupied {
    fn new(function: Arc<dyn PciFunction>) -> Self {
        Self {
            config: function.config_space(),
            function,
            live: [None; BAR_COUNT],
            warned: false,
        }
    }
}

/// Who answers in a part of the window.
#[derive(Clone)]
struct Route {
    range: BarRange,
    bar: usize,
    function: Arc<dyn PciFunction>,
}

type Slots = [Option<Occupied>; SLOTS];

/// What the bus's three address ranges share.
pub(super) struct Functions {
    pub(super) window: MmioWindow,
    slots: Mutex<Slots>,
    /// The live BARs again, for vCPUs to look up without the lock of configuration.
    routes: RwLock<Vec<Route>>,
}

impl Functions {
    fn lock(&self) -> MutexGuard<'_, Slots> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, slot: Slot, function: Arc<dyn PciFunction>) -> Result<(), Error> {
        let mut slots = self.lock();
        if slots[slot.index()].is_some() {
            return Err(Error::Occupied(slot));
        }
        let mut occupied = Occupied::new(function);
        let mut taken: Vec<BarRange> = slots
            .iter()
            .flatten()
            .flat_map(|other| other.config.placed())
            .collect();
        for (bar, size) in occupied.config.bar_sizes() {
            let base = first_free(&self.window, &taken, size).ok_or(Error::WindowFull {
                slot,
                bar,
                size,
            })?;
            occupied.config.place_bar(bar, base);
            taken.push(BarRange { base, size });
        }
        slots[slot.index()] = Some(occupied);
        Ok(())
    }

    /// Reads configuration space; all ones where there is no function.
    pub(super) fn read_config(&self, slot: usize, offset: u16, data: &mut [u8]) {
        match self.lock().get_mut(slot) {
            Some(Some(occupied)) => {
                let Occupied {
                    function, config, ..
                } = occupied;
                function.before_config_read(config, offset, data.len());
                config.read(offset, data);
            }
            _ => data.fill(0xff),
        }
    }

    /// Writes configuration space, and moves the BARs that this moves.
    ///
    /// PCI lets a BAR be written while memory decoding is on, and Linux does so for 32-bit BARs, so a move
    /// takes effect at once. Only BARs that answer count as being in the way: an operating system may
    /// exchange the addresses of two functions whose decoding is off.
    pub(super) fn write_config(&self, slot: usize, offset: u16, data: &[u8]) {
        let mut slots = self.lock();
        let others: Vec<BarRange> = slots
            .iter()
            .enumerate()
            .filter(|(index, _)| *index != slot)
            .filter_map(|(_, other)| other.as_ref())
            .flat_map(|other| other.live.into_iter().flatten())
            .collect();
        let Some(Some(occupied)) = slots.get_mut(slot) else {
            return;
        };
        let Occupied {
            function,
            config,
            live,
            warned,
        } = occupied;
        let is_free = |range: &BarRange| {
            range.is_within(&self.window) && !others.iter().any(|other| other.overlaps(range))
        };
        let mut refused = None;
        config.write(offset, data, |bar, range| {
            let free = is_free(&range);
            if !free {
                refused = Some((bar, range));
            }
            free
        });
        function.after_config_write(config, offset, data.len());

        let mut decoded = config.decoded();
        for bar in 0..BAR_COUNT {
            let Some(range) = decoded[bar] else { continue };
            let before = &decoded[..bar];
            if !is_free(&range) || before.iter().flatten().any(|other| other.overlaps(&range)) {
                decoded[bar] = None;
                refused = Some((bar, range));
            }
        }
        if let Some((bar, range)) = refused
            && !std::mem::replace(warned, true)
        {
            tracing::warn!(
                slot,
                bar,
                %range,
                "the guest put a BAR outside the PCI window or over another one; ignored"
            );
        }
        if decoded != *live {
            *live = decoded;
            let function = function.clone();
            self.route(&slots);
            // With the lock held, so that two moves reach the function in their order.
            function.place(decoded);
        }
    }

    /// Who answers at `offset` bytes into the window, if the whole access is in one BAR: the function, its
    /// BAR, and the offset into that.
    pub(super) fn find(
        &self,
        offset: u64,
        len: usize,
    ) -> Option<(Arc<dyn PciFunction>, usize, u32)> {
        let address = self.window.base.checked_add(offset)?;
        let end = address.checked_add(len as u64)?;
        let routes = self.routes.read().unwrap_or_else(PoisonError::into_inner);
        let route = routes
            .iter()
            .find(|route| u64::from(route.range.base) <= address && end <= route.range.end())?;
        let offset = u32::try_from(address - u64::from(route.range.base)).ok()?;
        Some((route.function.clone(), route.bar, offset))
    }

    fn route(&self, slots: &Slots) {
        let routes = slots.iter().flatten().flat_map(|occupied| {
            let live = occupied.live.iter().enumerate();
            live.filter_map(|(bar, range)| {
                Some(Route {
                    range: (*range)?,
                    bar,
                    function: occupied.function.clone(),
                })
            })
        });
        *self.routes.write().unwrap_or_else(PoisonError::into_inner) = routes.collect();
    }
}

/// The lowest address in the window at which `size` bytes, aligned to themselves, are free.
fn first_free(window: &MmioWindow, taken: &[BarRange], size: u32) -> Option<u32> {
    let mut base = window.base.checked_next_multiple_of(u64::from(size))?;
    loop {
        let range = BarRange {
            base: u32::try_from(base).ok()?,
            size,
        };
        if !range.is_within(window) {
            return None;
        }
        match taken.iter().find(|other| other.overlaps(&range)) {
            Some(other) => base = other.end().checked_next_multiple_of(u64::from(size))?,
            None => return Some(range.base),
        }
    }
}

#[cfg(test)]
mod tests;
