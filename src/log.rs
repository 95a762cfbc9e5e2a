//! The log of both processes.
//!
//! Standard error may be a pipe that nobody reads. So a line is put to others that wait, and a thread writes them: who
//! logs never waits, neither the supervisor, which would hear no signal meanwhile, nor a vCPU.

use std::{
    io::{self, IsTerminal, Write},
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};

use minivmm_vmm::WaitingWriter;
use tracing::level_filters::LevelFilter;

/// The environment variable that carries the level of the log: from a user to the launcher, and from the
/// supervisor to the VMM process.
pub const LEVEL: &str = "MINIVMM_LOG";
/// Bytes that wait for standard error at most; lines beyond are counted and lost.
const WAITING: usize = 64 << 10;
/// How long the last lines may take to be written.
const PATIENCE: Duration = Duration::from_secs(1);
/// Bytes of the thread's stack: too few for a huge page, which the kernel may give to a larger one.
const STACK: usize = 256 << 10;

static LOG: Log = Log {
    state: Mutex::new(State {
        waiting: Vec::new(),
        lost: 0,
        has_thread: false,
        is_written: false,
    }),
    changed: Condvar::new(),
};

/// Starts the log: one line an event on standard error, coloured on a terminal. Time and origin are the
/// journal's to add.
pub fn init(level: &str) {
    tracing_subscriber::fmt()
        .with_max_level(level.parse().unwrap_or(LevelFilter::INFO))
        .with_writer(|| Line)
        .with_ansi(io::stderr().is_terminal())
        .with_target(false)
        .log_internal_errors(false)
        .without_time()
        .init();
}

/// Puts a line on standard error, beside the log's.
pub fn say(line: &str) {
    LOG.push(format!("{line}\n").as_bytes());
}

/// Waits until everything is written, but not for somebody who does not read.
pub fn flush() {
    let unwritten = |state: &mut State| state.is_written || !state.waiting.is_empty();
    // What is not written by then is lost.
    let _ = (LOG.changed).wait_timeout_while(LOG.lock(), PATIENCE, unwritten);
}

struct State {
    waiting: Vec<u8>,
    /// Lines for which there was no room.
    lost: u64,
    has_thread: bool,
    /// The thread writes what waited before.
    is_written: bool,
}

struct Log {
    state: Mutex<State>,
    changed: Condvar,
}

impl State {
    /// Puts a line to the others, or counts it.
    fn push(&mut self, line: &[u8]) {
        if self.waiting.len() + line.len() > WAITING {
            self.lost += 1;
            return;
        }
        let lost = std::mem::take(&mut self.lost);
        if lost > 0 {
            let notice =
                format!("minivmm: {lost} lines of the log are lost here: nobody took them\n");
            self.waiting.extend_from_slice(notice.as_bytes());
        }
        self.waiting.extend_from_slice(line);
    }
}

impl Log {
    fn push(&'static self, line: &[u8]) {
        let mut state = self.lock();
        state.push(line);
        if !state.has_thread {
            let thread = thread::Builder::new().name("log".to_owned());
            // Without it everything is lost but the exit code; the next line tries again.
            state.has_thread = thread.stack_size(STACK).spawn(|| self.write()).is_ok();
        }
        drop(state);
        self.changed.notify_all();
    }

    /// The thread: writes what waits, for as long as that takes.
    fn write(&self) {
        let mut error = WaitingWriter(io::stderr());
        let mut bytes = Vec::new();
        loop {
            let idle = |state: &mut State| state.waiting.is_empty();
            let waited = self.changed.wait_while(self.lock(), idle);
            let mut state = waited.unwrap_or_else(PoisonError::into_inner);
            std::mem::swap(&mut bytes, &mut state.waiting);
            state.is_written = true;
            drop(state);
            // A terminal that has gone away makes every write fail. That is no reason to end a guest.
            let _ = error.write_all(&bytes);
            bytes.clear();
            self.lock().is_written = false;
            self.changed.notify_all();
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Takes an event, which is written at once.
struct Line;

impl Write for Line {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        LOG.push(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_is_counted_and_said_when_there_is_room_again() {
        let mut state = State {
            waiting: Vec::new(),
            lost: 0,
            has_thread: true,
            is_written: false,
        };
        let line = [b'x'; WAITING / 4];
        for _ in 0..6 {
            state.push(&line);
        }
        assert_eq!((state.waiting.len(), state.lost), (WAITING, 2));
        state.waiting.clear();
        state.push(b"next\n");
        assert_eq!(
            String::from_utf8_lossy(&state.waiting),
            "minivmm: 2 lines of the log are lost here: nobody took them\nnext\n"
        );
    }
}
