//! Console output on its way from vCPUs to whoever shows it.
//!
//! A vCPU never waits for a reader: the ring is bounded, and what is oldest in it goes first. A kernel's panic is noticed
//! where its words come in, so that it is known before the guest can go on, read or not.

use std::{
    collections::VecDeque,
    io, mem,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
};

use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use super::panic_text::PanicText;

/// Most bytes that wait for a reader.
pub const CAPACITY: usize = 256 << 10;

#[derive(Default)]
struct State {
    bytes: VecDeque<u8>,
    /// Bytes that nobody took in time, since the beginning.
    dropped: u64,
    /// The log has been told of them.
    warned: bool,
    closed: bool,
    /// Bytes that came in, since the beginning.
    written: u64,
    panic_text: PanicText,
    panicked: bool,
}

struct Shared {
    state: Mutex<State>,
    /// For a reader with a thread of its own, and for one with an event loop.
    changed: Condvar,
    event: EventFd,
}

/// Both ends of the ring: any number of writers, one reader.
#[derive(Clone)]
pub struct ConsoleSink(Arc<Shared>);

impl ConsoleSink {
    /// An empty ring.
    pub fn new() -> io::Result<Self> {
        Ok(Self(Arc::new(Shared {
            state: Mutex::default(),
            changed: Condvar::new(),
            event: EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC)?,
        })))
    }

    /// Appends `output`; drops the oldest bytes beyond [`CAPACITY`].
    pub fn push(&self, output: &[u8]) {
        let kept = &output[output.len().saturating_sub(CAPACITY)..];
        let mut state = self.lock();
        if state.closed || output.is_empty() {
            return;
        }
        state.written += output.len() as u64;
        state.panicked |= state.panic_text.ends_in(output);
        let was_empty = state.bytes.is_empty();
        let excess = (state.bytes.len() + kept.len()).saturating_sub(CAPACITY);
        state.bytes.drain(..excess);
        state.bytes.extend(kept);
        state.dropped += (excess + output.len() - kept.len()) as u64;
        drop(state);
        if was_empty {
            self.wake();
        }
    }

    /// Readable while there is something to take: signalled when the first byte comes into the empty ring.
    pub fn event(&self) -> &EventFd {
        &self.0.event
    }

    /// Puts everything that is there into `output`, whose content is lost; nothing there leaves it empty.
    pub fn take(&self, output: &mut Vec<u8>) {
        Self::take_from(self.lock(), &self.0.event, output);
    }

    /// Waits until there is something, and takes it; `false` when the ring is closed and empty.
    pub fn wait(&self, output: &mut Vec<u8>) -> bool {
        let state = self
            .0
            .changed
            .wait_while(self.lock(), |state| state.bytes.is_empty() && !state.closed)
            .unwrap_or_else(PoisonError::into_inner);
        Self::take_from(state, &self.0.event, output);
        !output.is_empty()
    }

    /// Ends the output: what comes later is ignored, what is there can still be taken.
    pub fn close(&self) {
        self.lock().closed = true;
        self.wake();
    }

    /// Bytes that were pushed.
    pub fn written(&self) -> u64 {
        self.lock().written
    }

    /// Whether a Linux kernel said that it panicked.
    pub fn panicked(&self) -> bool {
        self.lock().panicked
    }

    /// Bytes that nobody took in time.
    pub fn dropped(&self) -> u64 {
        self.lock().dropped
    }

    fn take_from(mut state: MutexGuard<'_, State>, event: &EventFd, output: &mut Vec<u8>) {
        // Whole, so that a ring that was full once does not keep its memory.
        *output = mem::take(&mut state.bytes).into();
        // An empty eventfd refuses to be read; then it is as it should be.
        let _ = event.read();
        let dropped = state.dropped;
        let is_news = dropped > 0 && !mem::replace(&mut state.warned, dropped > 0);
        drop(state);
        if is_news {
            // Said by the reader: a log that blocks must not hold up a vCPU.
            tracing::warn!(
                bytes = dropped,
                "console output was lost: it is not taken fast enough"
            );
        }
    }

    fn wake(&self) {
        self.0.changed.notify_one();
        // A full counter is readable, which is all that counts.
        let _ = self.0.event.write(1);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl io::Write for ConsoleSink {
    fn write(&mut self, output: &[u8]) -> io::Result<usize> {
        self.push(output);
        Ok(output.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::thread;

    use super::*;

    fn take(sink: &ConsoleSink) -> Vec<u8> {
        let mut bytes = vec![1, 2, 3];
        sink.take(&mut bytes);
        bytes
    }

    #[test]
    fn what_is_pushed_is_taken_once() {
        let sink = ConsoleSink::new().unwrap();
        sink.push(b"one ");
        sink.push(b"two");
        assert_eq!(take(&sink), b"one two");
        assert_eq!(take(&sink), b"");
    }

    #[test]
    fn the_event_is_signalled_once_until_the_ring_is_taken() {
        let sink = ConsoleSink::new().unwrap();
        assert!(sink.event().read().is_err());
        sink.push(b"");
        assert!(sink.event().read().is_err());
        sink.push(b"a");
        sink.push(b"b");
        assert_eq!(sink.event().read().unwrap(), 1);
        sink.push(b"c");
        assert!(sink.event().read().is_err());
        take(&sink);
        sink.push(b"d");
        take(&sink);
        assert!(sink.event().read().is_err(), "taken with what it told of");
        sink.push(b"e");
        assert_eq!(sink.event().read().unwrap(), 1);
    }

    #[test]
    fn a_full_ring_drops_its_oldest_bytes_and_counts_them() {
        let sink = ConsoleSink::new().unwrap();
        sink.push(&vec![b'a'; CAPACITY]);
        assert_eq!(sink.dropped(), 0);
        sink.push(b"bc");
        assert_eq!(sink.dropped(), 2);
        let bytes = take(&sink);
        assert_eq!(bytes.len(), CAPACITY);
        assert!(bytes.ends_with(b"aabc"));

        sink.push(b"lost");
        let mut long = vec![b'd'; CAPACITY + 3];
        long[..4].copy_from_slice(b"xyze");
        sink.push(&long);
        assert_eq!(sink.dropped(), 2 + 4 + 3);
        let bytes = take(&sink);
        assert_eq!((bytes.len(), &bytes[..2]), (CAPACITY, &b"ed"[..]));
    }

    #[test]
    fn a_panic_is_known_at_once_and_for_good() {
        let sink = ConsoleSink::new().unwrap();
        sink.push(b"Kernel panic - ");
        assert!(!sink.panicked());
        let mut writer = sink.clone();
        io::Write::write_all(&mut writer, b"not syncing: Oops\n").unwrap();
        assert!(sink.panicked());
        take(&sink);
        sink.push(b"more");
        assert!(sink.panicked());
        assert_eq!(sink.written(), 37);
    }

    #[test]
    fn a_waiting_reader_gets_everything_until_the_end() {
        let sink = ConsoleSink::new().unwrap();
        let reader = sink.clone();
        let reader = thread::spawn(move || {
            let (mut all, mut bytes) = (Vec::new(), Vec::new());
            while reader.wait(&mut bytes) {
                all.append(&mut bytes);
            }
            all
        });
        for _ in 0..1000 {
            sink.push(b"line\n");
        }
        sink.close();
        sink.push(b"too late");
        assert_eq!(reader.join().unwrap(), b"line\n".repeat(1000));
    }
}
