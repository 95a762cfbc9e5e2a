//! A bus: address ranges, each with the device behind it.
//!
//! The same type serves port I/O and MMIO. It is filled while the machine is put together and only read
//! afterwards, so vCPUs look devices up without a lock; what moves at run time (PCI BARs) moves inside
//! the one device that owns the whole window.

use std::sync::Arc;

/// A device that answers reads and writes of a bus.
///
/// Called by any vCPU thread at any time: an implementation locks what it must, shortly, and never waits
/// for a back end.
pub trait BusDevice: Send + Sync {
    /// Fills `data` from the register at `offset` bytes into the device's range.
    fn read(&self, offset: u64, data: &mut [u8]);
    /// Writes `data` to the register at `offset` bytes into the device's range.
    fn write(&self, offset: u64, data: &[u8]);
}

/// Why a device could not be put on the bus.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum Error {
    /// The range is empty or goes beyond the address space.
    #[error("bus range {base:#x}+{size:#x} is empty or beyond the address space")]
    InvalidRange {
        /// First address.
        base: u64,
        /// Bytes.
        size: u64,
    },
    /// Another device has part of the range.
    #[error("bus range {base:#x}+{size:#x} overlaps the device at {other:#x}")]
    Overlap {
        /// First address of the refused range.
        base: u64,
        /// Its bytes.
        size: u64,
        /// First address of the device that is there already.
        other: u64,
    },
}

struct Entry {
    base: u64,
    last: u64,
    device: Arc<dyn BusDevice>,
}

/// Address ranges and their devices, sorted by address.
#[derive(Default)]
pub struct Bus {
    entries: Vec<Entry>,
}

impl Bus {
    /// Puts `device` at `base`, for `size` bytes.
    pub fn insert(
        &mut self,
        base: u64,
        size: u64,
        device: Arc<dyn BusDevice>,
    ) -> Result<(), Error> {
        let last = size
            .checked_sub(1)
            .and_then(|n| base.checked_add(n))
            .ok_or(Error::InvalidRange { base, size })?;
        let at = self.entries.partition_point(|e| e.last < base);
        if let Some(next) = self.entries.get(at)
            && next.base <= last
        {
            return Err(Error::Overlap {
                base,
                size,
                other: next.base,
            });
        }
        self.entries.insert(at, Entry { base, last, device });
        Ok(())
    }

    /// Reads from the device at `address`; all ones, as on a real bus, where there is none or where the
    /// access leaves the device's range. Says whether a device answered.
    pub fn read(&self, address: u64, data: &mut [u8]) -> bool {
        match self.find(address, data.len()) {
            Some((entry, offset)) => {
                entry.device.read(offset, data);
                true
            }
            None => {
                data.fill(0xff);
                false
            }
        }
    }

    /// Writes to the device at `address`; without effect where there is none. Says whether a device
    /// answered.
    pub fn write(&self, address: u64, data: &[u8]) -> bool {
        match self.find(address, data.len()) {
            Some((entry, offset)) => {
                entry.device.write(offset, data);
                true
            }
            None => false,
        }
    }

    fn find(&self, address: u64, len: usize) -> Option<(&Entry, u64)> {
        let last = address.checked_add((len as u64).checked_sub(1)?)?;
        let entry = self
            .entries
            .get(self.entries.partition_point(|e| e.last < address))?;
        (entry.base <= address && last <= entry.last).then(|| (entry, address - entry.base))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    #[derive(Default)]
    struct Register(Mutex<Vec<(u64, Vec<u8>)>>);

    impl BusDevice for Register {
        fn read(&self, offset: u64, data: &mut [u8]) {
            data.fill(offset as u8);
        }
        fn write(&self, offset: u64, data: &[u8]) {
            if let Ok(mut writes) = self.0.lock() {
                writes.push((offset, data.to_vec()));
            }
        }
    }

    fn bus() -> (Bus, Arc<Register>) {
        let register = Arc::new(Register::default());
        let mut bus = Bus::default();
        assert_eq!(bus.insert(0x3f8, 8, register.clone()), Ok(()));
        (bus, register)
    }

    #[test]
    fn an_access_reaches_the_device_with_its_offset() {
        let (bus, register) = bus();
        let mut data = [0];
        assert!(bus.read(0x3ff, &mut data));
        assert_eq!(data, [7]);
        assert!(bus.write(0x3f9, &[1, 2]));
        assert_eq!(
            register.0.lock().map(|w| w.clone()).ok(),
            Some(vec![(1, vec![1, 2])])
        );
    }

    #[test]
    fn an_address_without_a_device_reads_all_ones() {
        let (bus, _) = bus();
        for address in [0, 0x3f7, 0x400, u64::MAX] {
            let mut data = [0; 4];
            assert!(!bus.read(address, &mut data));
            assert_eq!(data, [0xff; 4]);
            assert!(!bus.write(address, &data));
        }
    }

    #[test]
    fn an_access_that_leaves_the_range_is_nobodys() {
        let (bus, _) = bus();
        assert!(!bus.read(0x3fe, &mut [0; 4]));
        assert!(!bus.read(0x3f7, &mut [0; 2]));
        assert!(!bus.read(0x3f8, &mut []));
    }

    #[test]
    fn overlapping_empty_and_endless_ranges_are_refused() {
        let (mut bus, register) = bus();
        for (base, size) in [(0x3f8, 8), (0x3f0, 9), (0x3ff, 1), (0, 0x1000)] {
            assert!(matches!(
                bus.insert(base, size, register.clone()),
                Err(Error::Overlap { other: 0x3f8, .. })
            ));
        }
        for (base, size) in [(0, 0), (u64::MAX, 2)] {
            assert_eq!(
                bus.insert(base, size, register.clone()),
                Err(Error::InvalidRange { base, size })
            );
        }
        assert_eq!(bus.insert(0x400, 1, register.clone()), Ok(()));
        assert_eq!(bus.insert(0x3f0, 8, register), Ok(()));
    }
}
