//! The i8042 keyboard controller, reduced to its CPU reset line: ports 0x60 to 0x64.

use std::{
    convert::Infallible,
    sync::{Mutex, PoisonError},
};

use vm_superio::{I8042Device, Trigger};

use super::{GuestEnd, OnGuestEnd};
use crate::bus::BusDevice;

/// Ports taken.
pub const SIZE: u64 = 5;

struct ResetLine(OnGuestEnd);

impl Trigger for ResetLine {
    type E = Infallible;

    fn trigger(&self) -> Result<(), Infallible> {
        (self.0)(GuestEnd::Reset);
        Ok(())
    }
}

/// The controller. No keyboard is ever found behind it.
pub struct I8042(Mutex<I8042Device<ResetLine>>);

impl I8042 {
    /// Tells `on_end` when the guest pulses the reset line.
    pub fn new(on_end: OnGuestEnd) -> Self {
        Self(Mutex::new(I8042Device::new(ResetLine(on_end))))
    }
}

impl BusDevice for I8042 {
    fn read(&self, offset: u64, data: &mut [u8]) {
        match (u8::try_from(offset), data) {
            (Ok(offset), [byte]) => {
                *byte = self
                    .0
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .read(offset);
            }
            (_, data) => data.fill(0xff),
        }
    }

    fn write(&self, offset: u64, data: &[u8]) {
        if let (Ok(offset), &[byte]) = (u8::try_from(offset), data) {
            let Ok(()) = self
                .0
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .write(offset, byte);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    };

    use super::*;

    #[test]
    fn the_reset_command_resets_and_nothing_else_does() {
        let resets = Arc::new(AtomicU32::new(0));
        let seen = resets.clone();
        let i8042 = I8042::new(Arc::new(move |end| {
            assert_eq!(end, GuestEnd::Reset);
            seen.fetch_add(1, Ordering::Relaxed);
        }));
        for (offset, data) in [
            (0, &[0xfe][..]),
            (4, &[0xff]),
            (4, &[0xfe, 0]),
            (1 << 32 | 4, &[0xfe]),
        ] {
            i8042.write(offset, data);
        }
        assert_eq!(resets.load(Ordering::Relaxed), 0);
        i8042.write(4, &[0xfe]);
        assert_eq!(resets.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn the_status_says_that_its_input_buffer_is_empty() {
        let i8042 = I8042::new(Arc::new(|_| {}));
        let mut status = [0xff];
        i8042.read(4, &mut status);
        assert_eq!(
            status,
            [0],
            "Linux waits for that before it pulses the reset line"
        );
        let mut wide = [0; 2];
        i8042.read(4, &mut wide);
        assert_eq!(wide, [0xff; 2]);
    }
}
