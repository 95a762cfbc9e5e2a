//! pvpanic: one port by which a guest says that its kernel has panicked (QEMU, docs/specs/pvpanic.rst).
//!
//! The port reads as the events that are understood, and takes the event that has happened.

use std::sync::Arc;

use crate::bus::BusDevice;

/// Ports taken.
pub const SIZE: u64 = 1;

/// The kernel has panicked and handles it itself: it restarts or stands still.
const PANICKED: u8 = 1 << 0;
/// The kernel has panicked and starts another one that saves what is left of it.
const CRASH_LOADED: u8 = 1 << 1;

/// What the guest says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Panic {
    /// Its kernel has panicked and does nothing more of use.
    Final,
    /// Its kernel has panicked, and a crash kernel goes on.
    CrashKernel,
}

/// Takes a guest's panic; called on a vCPU thread, perhaps more than once, so it only leaves word.
pub type OnPanic = Arc<dyn Fn(Panic) + Send + Sync>;

/// The port.
pub struct PvPanic(OnPanic);

impl PvPanic {
    /// Tells `on_panic` of each panic.
    pub fn new(on_panic: OnPanic) -> Self {
        Self(on_panic)
    }
}

impl BusDevice for PvPanic {
    fn read(&self, _offset: u64, data: &mut [u8]) {
        match data {
            [byte] => *byte = PANICKED | CRASH_LOADED,
            data => data.fill(0xff),
        }
    }

    fn write(&self, _offset: u64, data: &[u8]) {
        match *data {
            // Linux writes one of the two; of both the later end counts.
            [event] if event & CRASH_LOADED != 0 => (self.0)(Panic::CrashKernel),
            [event] if event & PANICKED != 0 => (self.0)(Panic::Final),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::sync::Mutex;

    use super::*;

    fn said(writes: &[&[u8]]) -> Vec<Panic> {
        let panics = Arc::new(Mutex::new(Vec::new()));
        let seen = panics.clone();
        let port = PvPanic::new(Arc::new(move |panic| seen.lock().unwrap().push(panic)));
        for data in writes {
            port.write(0, data);
        }
        let panics = panics.lock().unwrap();
        panics.clone()
    }

    #[test]
    fn the_port_says_which_events_it_understands() {
        let port = PvPanic::new(Arc::new(|_| {}));
        let mut byte = [0];
        port.read(0, &mut byte);
        assert_eq!(byte, [3]);
        let mut wide = [0; 2];
        port.read(0, &mut wide);
        assert_eq!(wide, [0xff; 2]);
    }

    #[test]
    fn a_panic_is_told_with_what_becomes_of_it() {
        assert_eq!(said(&[&[1]]), [Panic::Final]);
        assert_eq!(said(&[&[2], &[3]]), [Panic::CrashKernel; 2]);
    }

    #[test]
    fn unknown_events_and_wide_accesses_are_harmless() {
        assert_eq!(said(&[&[0], &[4], &[0xfc], &[1, 0], &[]]), []);
    }
}
