//! A 16550 serial port: eight one-byte registers.

use std::{
    io,
    sync::{Mutex, MutexGuard, PoisonError},
};

use vm_superio::{Trigger, serial::NoEvents};
use vmm_sys_util::eventfd::EventFd;

use crate::{bus::BusDevice, console::ConsoleSink};

/// Ports taken.
pub const SIZE: u64 = 8;

struct Interrupt(EventFd);

impl Trigger for Interrupt {
    type E = io::Error;

    fn trigger(&self) -> io::Result<()> {
        self.0.write(1)
    }
}

struct State {
    uart: vm_superio::Serial<Interrupt, NoEvents, ConsoleSink>,
    /// Input was refused: say when there is room again.
    refused: bool,
}

/// The serial port.
///
/// Output goes into a [`ConsoleSink`] as fast as the guest writes it. Input waits in the receiver's FIFO
/// of 64 bytes for the guest, and beyond that with the sender.
pub struct Serial {
    state: Mutex<State>,
    drained: Option<EventFd>,
}

impl Serial {
    /// Interrupts through `interrupt`, an edge for each write.
    pub fn new(interrupt: EventFd, output: ConsoleSink) -> Self {
        Self {
            state: Mutex::new(State {
                uart: vm_superio::Serial::new(Interrupt(interrupt), output),
                refused: false,
            }),
            drained: None,
        }
    }

    /// Has `event` signalled when there is room for input again after [`enqueue`](Self::enqueue) could not
    /// take all of it.
    pub fn signal_drained(mut self, event: EventFd) -> Self {
        self.drained = Some(event);
        self
    }

    /// Gives the guest input; says how many bytes it took, which is fewer than there are when its FIFO is
    /// full.
    pub fn enqueue(&self, input: &[u8]) -> usize {
        let mut state = self.lock();
        // A full FIFO takes nothing, and an interrupt that cannot be raised is one that is pending.
        let before = state.uart.fifo_capacity();
        let _ = state.uart.enqueue_raw_bytes(input);
        let taken = before - state.uart.fifo_capacity();
        state.refused |= taken < input.len();
        taken
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells a sender that was refused to try again.
    fn wake_sender(&self, state: &mut State) {
        if std::mem::take(&mut state.refused)
            && let Some(event) = &self.drained
        {
            // A full counter is a signal that is still to be seen.
            let _ = event.write(1);
        }
    }
}

/// Bytes of vm-superio's receiver FIFO.
const FIFO_SIZE: usize = 64;
/// Modem control register, which switches the loopback in which no input is taken.
const MODEM_CONTROL: u8 = 4;

impl BusDevice for Serial {
    fn read(&self, offset: u64, data: &mut [u8]) {
        match (u8::try_from(offset), data) {
            (Ok(offset), [byte]) => {
                let mut state = self.lock();
                *byte = state.uart.read(offset);
                if state.uart.fifo_capacity() == FIFO_SIZE {
                    self.wake_sender(&mut state);
                }
            }
            (_, data) => data.fill(0xff),
        }
    }

    fn write(&self, offset: u64, data: &[u8]) {
        if let (Ok(offset), &[byte]) = (u8::try_from(offset), data) {
            let mut state = self.lock();
            // The ring takes everything, and an interrupt that cannot be raised is one that is pending.
            let _ = state.uart.write(offset, byte);
            if offset == MODEM_CONTROL {
                self.wake_sender(&mut state);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use vmm_sys_util::eventfd::EFD_NONBLOCK;

    use super::*;
    use crate::console::Output;

    const DATA: u64 = 0;
    const INTERRUPT_ENABLE: u64 = 1;
    const LINE_STATUS: u64 = 5;

    struct Fixture {
        serial: Serial,
        interrupt: EventFd,
        output: ConsoleSink,
        drained: EventFd,
    }

    fn fixture() -> Fixture {
        let event = || EventFd::new(EFD_NONBLOCK).unwrap();
        let (interrupt, drained) = (event(), event());
        let output = ConsoleSink::new().unwrap();
        Fixture {
            serial: Serial::new(interrupt.try_clone().unwrap(), output.clone())
                .signal_drained(drained.try_clone().unwrap()),
            interrupt,
            output,
            drained,
        }
    }

    fn read(serial: &Serial, offset: u64) -> u8 {
        let mut data = [0xaa];
        serial.read(offset, &mut data);
        data[0]
    }

    #[test]
    fn output_goes_to_the_console_and_interrupts_when_asked_to() {
        let f = fixture();
        f.serial.write(DATA, b"a");
        assert!(f.interrupt.read().is_err());
        f.serial.write(INTERRUPT_ENABLE, &[2]);
        f.interrupt.read().unwrap();
        // The driver reads why, which makes room for the next interrupt.
        assert_eq!(read(&f.serial, 2) & 0xf, 2);
        f.serial.write(DATA, b"b");
        f.interrupt.read().unwrap();
        let mut output = Output::default();
        f.output.take(&mut output);
        assert_eq!(output.bytes(), b"ab");
    }

    #[test]
    fn input_is_read_byte_by_byte_and_interrupts() {
        let f = fixture();
        f.serial.write(INTERRUPT_ENABLE, &[1]);
        let _ = f.interrupt.read();
        assert_eq!(f.serial.enqueue(b"hi"), 2);
        f.interrupt.read().unwrap();
        assert_eq!(read(&f.serial, LINE_STATUS) & 1, 1);
        assert_eq!(read(&f.serial, DATA), b'h');
        assert_eq!(read(&f.serial, DATA), b'i');
        assert_eq!(read(&f.serial, LINE_STATUS) & 1, 0);
        assert!(f.drained.read().is_err(), "nothing was refused");
    }

    #[test]
    fn a_full_fifo_refuses_and_says_when_it_is_empty() {
        let f = fixture();
        assert_eq!(f.serial.enqueue(&[b'x'; 100]), FIFO_SIZE);
        assert_eq!(f.serial.enqueue(b"y"), 0);
        for _ in 1..FIFO_SIZE {
            assert_eq!(read(&f.serial, DATA), b'x');
            assert!(f.drained.read().is_err());
        }
        assert_eq!(read(&f.serial, DATA), b'x');
        assert_eq!(f.drained.read().unwrap(), 1);
        assert_eq!(f.serial.enqueue(b"y"), 1);
    }

    #[test]
    fn input_that_comes_in_loopback_comes_again_after_it() {
        let f = fixture();
        f.serial.write(u64::from(MODEM_CONTROL), &[0x10]);
        assert_eq!(f.serial.enqueue(b"y"), 0);
        f.serial.write(u64::from(MODEM_CONTROL), &[0]);
        assert_eq!(f.drained.read().unwrap(), 1);
        assert_eq!(f.serial.enqueue(b"y"), 1);
    }

    #[test]
    fn wide_accesses_are_harmless() {
        let f = fixture();
        f.serial.write(DATA, b"ab");
        f.serial.write(256, b"a");
        let mut data = [0; 2];
        f.serial.read(DATA, &mut data);
        assert_eq!(data, [0xff; 2]);
        let mut output = Output::default();
        f.output.take(&mut output);
        assert_eq!(output.bytes(), b"");
    }
}
