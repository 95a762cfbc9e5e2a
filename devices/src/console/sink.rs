//! Console output on its way from the guest to whoever shows it.
//!
//! A vCPU never waits for a reader: the ring is bounded, and what is oldest in it goes first. A kernel's panic is noticed
//! where its words come in, so that it is known before the guest can go on, read or not.

use std::{
    collections::VecDeque,
    io, mem,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use super::{Origin, panic_text::PanicText};

/// Most bytes that wait for a reader.
pub const CAPACITY: usize = 256 << 10;
/// Most changes of the [`Origin`] among them: a guest that changes with every byte gets no more memory for that.
pub const RUNS: usize = 4096;

/// What was taken out of the ring: bytes, each with where it came from.
#[derive(Debug, Default)]
pub struct Output {
    bytes: Vec<u8>,
    runs: VecDeque<Run>,
}

/// Bytes in a row of one origin.
#[derive(Debug)]
struct Run {
    origin: Origin,
    len: usize,
}

impl Output {
    /// All bytes, in the order in which they came.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The same in pieces, each of one origin.
    pub fn pieces(&self) -> impl Iterator<Item = (Origin, &[u8])> {
        self.runs.iter().scan(&self.bytes[..], |rest, run| {
            let (piece, after) = rest.split_at(run.len);
            *rest = after;
            Some((run.origin, piece))
        })
    }
}

#[derive(Default)]
struct State {
    bytes: VecDeque<u8>,
    /// What the bytes are: their lengths add up to all of them.
    runs: VecDeque<Run>,
    /// Bytes that nobody took in time, since the beginning.
    dropped: u64,
    /// The log has been told of them.
    warned: bool,
    closed: bool,
    /// Bytes that came in, since the beginning.
    written: u64,
    panic_texts: [PanicText; 2],
    panicked: bool,
}

impl State {
    fn push(&mut self, origin: Origin, output: &[u8]) {
        self.written += output.len() as u64;
        self.panicked |= self.panic_texts[origin as usize].ends_in(output);
        let kept = &output[output.len().saturating_sub(CAPACITY)..];
        let excess = (self.bytes.len() + kept.len()).saturating_sub(CAPACITY);
        self.forget(excess);
        self.dropped += (output.len() - kept.len()) as u64;
        match self.runs.back_mut() {
            Some(run) if run.origin == origin => run.len += kept.len(),
            _ => {
                if self.runs.len() == RUNS
                    && let Some(first) = self.runs.front()
                {
                    self.forget(first.len);
                }
                let len = kept.len();
                self.runs.push_back(Run { origin, len });
            }
        }
        self.bytes.extend(kept);
    }

    /// Drops the oldest `excess` bytes.
    fn forget(&mut self, excess: usize) {
        self.bytes.drain(..excess);
        self.dropped += excess as u64;
        let mut left = excess;
        while let Some(run) = self.runs.front_mut().filter(|_| left > 0) {
            let part = run.len.min(left);
            run.len -= part;
            left -= part;
            if run.len == 0 {
                self.runs.pop_front();
            }
        }
    }
}

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    /// For a reader with an event loop.
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
    pub fn push(&self, origin: Origin, output: &[u8]) {
        let mut state = self.lock();
        if state.closed || output.is_empty() {
            return;
        }
        let was_empty = state.bytes.is_empty();
        state.push(origin, output);
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
    pub fn take(&self, output: &mut Output) {
        Self::take_from(self.lock(), &self.0.event, output);
    }

    /// Waits until there is something, at most for `patience` if there is one, and takes it; `false` when the ring is
    /// closed and empty.
    pub fn wait(&self, patience: Option<Duration>, output: &mut Output) -> bool {
        let is_quiet = |state: &mut State| state.bytes.is_empty() && !state.closed;
        let (state, changed) = (self.lock(), &self.0.changed);
        let state = match patience {
            None => changed
                .wait_while(state, is_quiet)
                .unwrap_or_else(PoisonError::into_inner),
            Some(patience) => {
                let waited = changed.wait_timeout_while(state, patience, is_quiet);
                waited.unwrap_or_else(PoisonError::into_inner).0
            }
        };
        let closed = state.closed;
        Self::take_from(state, &self.0.event, output);
        !output.bytes.is_empty() || !closed
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

    fn take_from(mut state: MutexGuard<'_, State>, event: &EventFd, output: &mut Output) {
        // Whole, so that a ring that was full once does not keep its memory.
        output.bytes = mem::take(&mut state.bytes).into();
        output.runs = mem::take(&mut state.runs);
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

/// What the serial port writes.
impl io::Write for ConsoleSink {
    fn write(&mut self, output: &[u8]) -> io::Result<usize> {
        self.push(Origin::Serial, output);
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

    use Origin::{Serial, Virtio};

    fn take(sink: &ConsoleSink) -> Vec<u8> {
        let mut output = Output::default();
        sink.take(&mut output);
        let pieces: Vec<u8> = output
            .pieces()
            .flat_map(|(_, piece)| piece)
            .copied()
            .collect();
        assert!(pieces == output.bytes());
        pieces
    }

    #[test]
    fn every_byte_is_known_by_its_origin_however_many_are_dropped() {
        let sink = ConsoleSink::new().unwrap();
        sink.push(Serial, &[b's'; 10]);
        sink.push(Virtio, b"vvv");
        sink.push(Virtio, b"v");
        sink.push(Serial, &vec![b's'; CAPACITY - 6]);
        let mut output = Output::default();
        sink.take(&mut output);
        let pieces: Vec<_> = output.pieces().map(|(o, piece)| (o, piece.len())).collect();
        assert_eq!(pieces, [(Serial, 2), (Virtio, 4), (Serial, CAPACITY - 6)]);
        assert_eq!(sink.dropped(), 8);
    }

    #[test]
    fn a_guest_that_changes_its_console_with_every_byte_gets_no_more_memory() {
        let sink = ConsoleSink::new().unwrap();
        for _ in 0..RUNS {
            sink.push(Serial, b"s");
            sink.push(Virtio, b"v");
        }
        assert_eq!(take(&sink).len(), RUNS);
        assert_eq!(sink.dropped(), RUNS as u64);
    }

    #[test]
    fn a_panics_words_are_known_though_the_other_console_prints_between_them() {
        let sink = ConsoleSink::new().unwrap();
        for word in b"Kernel panic - not syncing".chunks(3) {
            sink.push(Virtio, word);
            sink.push(Serial, b"x");
        }
        assert!(sink.panicked());
    }

    #[test]
    fn a_wait_ends_in_time_and_says_whether_more_can_come() {
        let sink = ConsoleSink::new().unwrap();
        let mut output = Output::default();
        assert!(sink.wait(Some(Duration::from_millis(1)), &mut output));
        assert!(output.bytes().is_empty());
        sink.push(Virtio, b"a");
        sink.close();
        assert!(sink.wait(Some(Duration::ZERO), &mut output));
        assert!(!sink.wait(None, &mut output));
    }

    #[test]
    fn what_is_pushed_is_taken_once() {
        let sink = ConsoleSink::new().unwrap();
        sink.push(Serial, b"one ");
        sink.push(Serial, b"two");
        assert_eq!(take(&sink), b"one two");
        assert_eq!(take(&sink), b"");
    }

    #[test]
    fn the_event_is_signalled_once_until_the_ring_is_taken() {
        let sink = ConsoleSink::new().unwrap();
        assert!(sink.event().read().is_err());
        sink.push(Serial, b"");
        assert!(sink.event().read().is_err());
        sink.push(Serial, b"a");
        sink.push(Serial, b"b");
        assert_eq!(sink.event().read().unwrap(), 1);
        sink.push(Serial, b"c");
        assert!(sink.event().read().is_err());
        take(&sink);
        sink.push(Serial, b"d");
        take(&sink);
        assert!(sink.event().read().is_err(), "taken with what it told of");
        sink.push(Serial, b"e");
        assert_eq!(sink.event().read().unwrap(), 1);
    }

    #[test]
    fn a_full_ring_drops_its_oldest_bytes_and_counts_them() {
        let sink = ConsoleSink::new().unwrap();
        sink.push(Serial, &vec![b'a'; CAPACITY]);
        assert_eq!(sink.dropped(), 0);
        sink.push(Serial, b"bc");
        assert_eq!(sink.dropped(), 2);
        let bytes = take(&sink);
        assert_eq!(bytes.len(), CAPACITY);
        assert!(bytes.ends_with(b"aabc"));

        sink.push(Serial, b"lost");
        let mut long = vec![b'd'; CAPACITY + 3];
        long[..4].copy_from_slice(b"xyze");
        sink.push(Serial, &long);
        assert_eq!(sink.dropped(), 2 + 4 + 3);
        let bytes = take(&sink);
        assert_eq!((bytes.len(), &bytes[..2]), (CAPACITY, &b"ed"[..]));
    }

    #[test]
    fn a_panic_is_known_at_once_and_for_good() {
        let sink = ConsoleSink::new().unwrap();
        sink.push(Serial, b"Kernel panic - ");
        assert!(!sink.panicked());
        let mut writer = sink.clone();
        io::Write::write_all(&mut writer, b"not syncing: Oops\n").unwrap();
        assert!(sink.panicked());
        take(&sink);
        sink.push(Serial, b"more");
        assert!(sink.panicked());
        assert_eq!(sink.written(), 37);
    }

    #[test]
    fn a_waiting_reader_gets_everything_until_the_end() {
        let sink = ConsoleSink::new().unwrap();
        let reader = sink.clone();
        let reader = thread::spawn(move || {
            let (mut all, mut output) = (Vec::new(), Output::default());
            while reader.wait(None, &mut output) {
                all.extend_from_slice(output.bytes());
            }
            all
        });
        for _ in 0..1000 {
            sink.push(Serial, b"line\n");
        }
        sink.close();
        sink.push(Serial, b"too late");
        assert_eq!(reader.join().unwrap(), b"line\n".repeat(1000));
    }
}
