//! What somebody types, on its way to the guest.
//!
//! It goes to virtio-console from the moment that its driver has queued receive buffers, before that to the serial port:
//! so the firmware-less beginning of a guest and one without the driver can be typed to as well. Whoever puts input in
//! waits while there is no room; neither the device's thread nor a vCPU waits for anybody.

use std::{
    collections::VecDeque,
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use crate::legacy::Serial;

/// Most bytes that wait for the guest.
pub const CAPACITY: usize = 4096;

#[derive(Default)]
struct State {
    bytes: VecDeque<u8>,
    /// The driver of virtio-console takes input.
    virtio: bool,
}

struct Shared {
    state: Mutex<State>,
    /// There is something for virtio-console.
    filled: EventFd,
    /// Whoever puts input in has something to do: there is room, or it is the serial port's turn again.
    drained: EventFd,
}

/// Input between the thread that reads it and the two devices.
#[derive(Clone)]
pub struct ConsoleInput(Arc<Shared>);

impl ConsoleInput {
    /// Without anything in it.
    pub fn new() -> io::Result<Self> {
        let event = || EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC);
        Ok(Self(Arc::new(Shared {
            state: Mutex::default(),
            filled: event()?,
            drained: event()?,
        })))
    }

    /// How many bytes [`push`](Self::push) takes.
    pub fn room(&self) -> usize {
        CAPACITY.saturating_sub(self.lock().bytes.len())
    }

    /// Adds input; what is beyond [`room`](Self::room) is lost.
    pub fn push(&self, input: &[u8]) {
        let mut state = self.lock();
        let room = CAPACITY.saturating_sub(state.bytes.len());
        state.bytes.extend(&input[..input.len().min(room)]);
        if state.virtio && !state.bytes.is_empty() {
            signal(&self.0.filled);
        }
    }

    /// Gives `serial` as much as it takes, if the input is not virtio-console's.
    pub fn pass_to_serial(&self, serial: &Serial) {
        let mut state = self.lock();
        if !state.virtio && !state.bytes.is_empty() {
            let taken = serial.enqueue(state.bytes.make_contiguous());
            state.bytes.drain(..taken);
        }
    }

    /// Signalled when there may be room, or something for the serial port.
    pub fn drained(&self) -> &EventFd {
        &self.0.drained
    }

    /// For virtio-console: signalled when there is something to [`take`](Self::take).
    pub(crate) fn filled(&self) -> &EventFd {
        &self.0.filled
    }

    /// Whether virtio-console is to be given the input from now on. What waits for a driver that is gone is lost.
    pub(crate) fn set_virtio(&self, virtio: bool) {
        let mut state = self.lock();
        if std::mem::replace(&mut state.virtio, virtio) == virtio {
            return;
        }
        if !virtio {
            state.bytes.clear();
        }
        signal(&self.0.drained);
    }

    /// Whether nothing is there.
    pub(crate) fn is_empty(&self) -> bool {
        self.lock().bytes.is_empty()
    }

    /// Takes at most as much as `input` has room for; gives the number of bytes.
    pub(crate) fn take(&self, input: &mut [u8]) -> usize {
        let mut state = self.lock();
        let n = input.len().min(state.bytes.len());
        for (to, from) in input.iter_mut().zip(state.bytes.drain(..n)) {
            *to = from;
        }
        if n > 0 {
            signal(&self.0.drained);
        }
        n
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn signal(event: &EventFd) {
    // A full counter is a signal that is still to be seen.
    let _ = event.write(1);
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::{bus::BusDevice, console::ConsoleSink};

    fn serial() -> Serial {
        let interrupt = EventFd::new(EFD_NONBLOCK).unwrap();
        Serial::new(interrupt, ConsoleSink::new().unwrap())
    }

    fn read(serial: &Serial) -> u8 {
        let mut byte = [0];
        serial.read(0, &mut byte);
        byte[0]
    }

    #[test]
    fn input_is_the_serial_ports_until_virtio_console_takes_it() {
        let (input, serial) = (ConsoleInput::new().unwrap(), serial());
        input.push(b"ab");
        assert!(input.filled().read().is_err());
        input.pass_to_serial(&serial);
        assert_eq!((read(&serial), read(&serial)), (b'a', b'b'));

        input.set_virtio(true);
        input.push(b"cd");
        input.pass_to_serial(&serial);
        assert_eq!(input.filled().read().unwrap(), 1);
        let mut bytes = [0; 8];
        assert_eq!(input.take(&mut bytes), 2);
        assert_eq!(&bytes[..2], b"cd");

        input.push(b"stale");
        input.set_virtio(false);
        assert!(input.is_empty());
        input.push(b"e");
        input.pass_to_serial(&serial);
        assert_eq!(read(&serial), b'e');
    }

    #[test]
    fn no_more_waits_than_there_is_room_for() {
        let (input, serial) = (ConsoleInput::new().unwrap(), serial());
        input.push(&[b'x'; CAPACITY + 1]);
        assert_eq!(input.room(), 0);
        input.pass_to_serial(&serial);
        assert_eq!(input.room(), 64, "the FIFO took a part");
        input.set_virtio(true);
        assert!(input.drained().read().is_ok());
        let mut all = [0; CAPACITY];
        assert_eq!(input.take(&mut all), CAPACITY - 64);
        assert!(input.drained().read().is_ok());
        assert_eq!(input.take(&mut all), 0);
        assert!(input.drained().read().is_err(), "nothing has changed");
    }
}
