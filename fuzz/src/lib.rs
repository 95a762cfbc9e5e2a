//! What the fuzz targets share: guest accesses as the fuzzer makes them up.
//!
//! A target is called thousands of times a second, so it makes everything anew in microseconds and waits for nothing
//! without a deadline. A panic, an overflow, an assertion of the fake hypervisor and a hang are all findings.

pub mod boot;
pub mod virtio;

use arbitrary::Arbitrary;
use minivmm_devices::bus::BusDevice;

/// One access of a vCPU to a register: any offset, 1 to 8 bytes.
#[derive(Arbitrary, Clone, Copy, Debug)]
pub struct Access {
    offset: u16,
    /// Bits of [`WIDTHS`]; the highest bit makes it a read.
    kind: u8,
    value: u64,
}

/// What a vCPU can do in one access, and what only a confused caller would.
const WIDTHS: [usize; 8] = [1, 2, 4, 8, 1, 2, 4, 3];

impl Access {
    /// Does it to `device`, whose range is `size` bytes; gives the bytes that were read.
    pub fn run(&self, device: &dyn BusDevice, size: u64) -> Option<Vec<u8>> {
        let width = WIDTHS[usize::from(self.kind & 7)];
        let offset = u64::from(self.offset) % size;
        if self.kind & 0x80 != 0 {
            let mut data = vec![0xaa; width];
            device.read(offset, &mut data);
            return Some(data);
        }
        device.write(offset, &self.value.to_le_bytes()[..width]);
        None
    }

    /// As [`Access::run`], at `base` of a larger range.
    pub fn run_at(&self, device: &dyn BusDevice, base: u64, size: u64) {
        let width = WIDTHS[usize::from(self.kind & 7)];
        let offset = base + u64::from(self.offset) % size;
        if self.kind & 0x80 != 0 {
            device.read(offset, &mut [0xaa; 8][..width]);
        } else {
            device.write(offset, &self.value.to_le_bytes()[..width]);
        }
    }
}
