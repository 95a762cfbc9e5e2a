//! Sleep control, sleep status and reset register (ACPI 6.5, 4.8.3.6, 4.8.3.7).
//!
//! | offset | register       |
//! |--------|----------------|
//! | 0      | sleep control  |
//! | 1      | sleep status   |
//! | 2      | reset register |

use super::{GuestEnd, OnGuestEnd};
use crate::bus::BusDevice;

/// Ports taken.
pub const SIZE: u64 = 3;
/// SLP_TYPx of S5, as the DSDT's `_S5` says it.
pub const S5_SLEEP_TYPE: u8 = 5;
/// What the FADT's RESET_VALUE says.
pub const RESET_VALUE: u8 = 1;

const SLEEP_CONTROL: u64 = 0;
const RESET: u64 = 2;

/// SLP_TYPx: three bits from here.
const SLP_TYP_SHIFT: u8 = 2;
const SLP_TYP_MASK: u8 = 7;
/// SLP_EN: sleep now.
const SLP_EN: u8 = 1 << 5;

/// The registers, one byte each. All read as zero: SLP_EN is write-only, WAK_STS is never set.
pub struct AcpiRegisters {
    on_end: OnGuestEnd,
}

impl AcpiRegisters {
    /// Tells `on_end` when the guest powers off or resets.
    pub fn new(on_end: OnGuestEnd) -> Self {
        Self { on_end }
    }
}

impl BusDevice for AcpiRegisters {
    fn read(&self, _offset: u64, data: &mut [u8]) {
        data.fill(0);
    }

    fn write(&self, offset: u64, data: &[u8]) {
        match (offset, data) {
            (SLEEP_CONTROL, &[value]) if value & SLP_EN != 0 => {
                let sleep_type = value >> SLP_TYP_SHIFT & SLP_TYP_MASK;
                if sleep_type == S5_SLEEP_TYPE {
                    (self.on_end)(GuestEnd::PowerOff);
                }
            }
            (RESET, &[RESET_VALUE]) => (self.on_end)(GuestEnd::Reset),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::sync::{Arc, Mutex};

    use super::*;

    /// What the guest's end is after each of the writes.
    fn ends(writes: &[(u64, &[u8])]) -> Vec<GuestEnd> {
        let ends = Arc::new(Mutex::new(Vec::new()));
        let seen = ends.clone();
        let registers = AcpiRegisters::new(Arc::new(move |end| seen.lock().unwrap().push(end)));
        for (offset, data) in writes {
            registers.write(*offset, data);
        }
        let ends = ends.lock().unwrap();
        ends.clone()
    }

    #[test]
    fn sleep_type_5_with_sleep_enable_powers_off() {
        assert_eq!(ends(&[(0, &[0b11_0100])]), [GuestEnd::PowerOff]);
        assert_eq!(ends(&[(0, &[0b1111_0111])]), [GuestEnd::PowerOff]);
    }

    #[test]
    fn other_sleep_types_and_no_sleep_enable_do_nothing() {
        assert_eq!(ends(&[(0, &[0b01_0100]), (0, &[0b10_0000]), (0, &[0])]), []);
    }

    #[test]
    fn the_reset_value_resets_and_others_do_not() {
        assert_eq!(ends(&[(2, &[1])]), [GuestEnd::Reset]);
        assert_eq!(ends(&[(2, &[0]), (2, &[0xff]), (1, &[1])]), []);
    }

    #[test]
    fn wide_accesses_are_harmless() {
        assert_eq!(ends(&[(0, &[0x34, 0]), (2, &[1, 0]), (0, &[])]), []);
        let registers = AcpiRegisters::new(Arc::new(|_| {}));
        let mut data = [0xff; 4];
        registers.read(0, &mut data);
        assert_eq!(data, [0; 4]);
    }
}
