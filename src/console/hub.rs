//! The thread between a VM's console and whoever looks at it.
//!
//! It has a thread of its own, so that a guest that prints without pause does not keep the control socket from
//! answering. It waits for nobody: neither for the VMM nor for a viewer nor for standard output.

use std::{
    collections::VecDeque,
    io::{self, ErrorKind, Read, Write},
    os::{
        fd::{AsFd, OwnedFd},
        unix::net::UnixStream,
    },
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};

use super::{
    claim::{Claim, Claims},
    lines::Lines,
    ring::Ring,
    stdout::Stdout,
    viewer::{Shows, Viewer, notice},
};

/// Bytes that are typed and that the VMM has not taken, at most: a viewer that types faster waits.
const TYPED: usize = 4 << 10;
/// Bytes that are read of the guest's output before it is somebody else's turn.
const READ: usize = 64 << 10;
/// How long what a run has printed last may take to come.
const RUN_PATIENCE: Duration = Duration::from_secs(1);
/// How long viewers together have for what they have not been shown at the VM's end.
const LAST_PATIENCE: Duration = Duration::from_secs(1);
/// Bytes of the thread's stack: too few for a huge page, which the kernel may give to a larger one.
const STACK: usize = 256 << 10;
/// Bytes that are looked at for a panic's words.
const LAST_BYTES: u64 = 32 << 10;
/// How Linux says it (kernel/panic.c).
const PANIC_WORDS: &str = "Kernel panic - not syncing";
/// Lines of a guest that panicked that are of interest.
const PANIC_LINES: usize = 30;
/// So many of them come before the panic's words.
const LINES_BEFORE: usize = 10;

/// What the thread is told.
enum Told {
    /// A run begins, with this end of its console.
    Run(UnixStream),
    /// Somebody looks on; with what they have typed already.
    Viewer(Viewer, Vec<u8>),
    /// The VM has ended for good.
    End,
}

#[derive(Default)]
struct State {
    ring: Ring,
    told: Vec<Told>,
    /// The position at which the last run begins.
    run: u64,
    /// It may still print.
    run_goes_on: bool,
    /// The thread has nothing more to do.
    over: bool,
}

struct Shared {
    state: Mutex<State>,
    wake: OwnedFd,
    changed: Condvar,
    claims: Claims,
}

/// The console of a VM, for as long as its supervisor lives.
#[derive(Clone)]
pub struct Hub(Arc<Shared>);

/// The thread and standard output.
pub struct Running {
    hub: Hub,
    thread: JoinHandle<Stdout>,
}

impl Hub {
    /// Starts the thread.
    pub fn start() -> io::Result<Running> {
        Self::over(Stdout::start()?)
    }

    fn over(stdout: Stdout) -> io::Result<Running> {
        let hub = Self(Arc::new(Shared {
            state: Mutex::default(),
            wake: eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)?,
            changed: Condvar::new(),
            claims: Claims::default(),
        }));
        let mut work = Work {
            hub: hub.clone(),
            stdout,
            vmm: None,
            typed: VecDeque::new(),
            viewers: Vec::new(),
            buffer: vec![0; READ],
            end: None,
        };
        let thread = thread::Builder::new()
            .name("console".to_owned())
            .stack_size(STACK)
            .spawn(move || {
                while work.turn() {}
                work.hub.lock().over = true;
                work.hub.0.changed.notify_all();
                work.stdout
            })?;
        Ok(Running { hub, thread })
    }

    /// A run of the VM begins: gives the VMM's end of its console, on which it prints and is typed to.
    pub fn begin_run(&self) -> io::Result<OwnedFd> {
        let (ours, theirs) = UnixStream::pair()?;
        ours.set_nonblocking(true)?;
        let mut state = self.lock();
        state.run = state.ring.end();
        state.run_goes_on = true;
        drop(state);
        self.tell(Told::Run(ours));
        Ok(theirs.into())
    }

    /// The VMM is gone: waits until everything that it has printed is there.
    pub fn end_run(&self) {
        let running = |state: &mut State| state.run_goes_on;
        let changed = &self.0.changed;
        let _ = changed.wait_timeout_while(self.lock(), RUN_PATIENCE, running);
    }

    /// Says something on the console, on a line of its own, to those who look on now or later.
    pub fn say(&self, text: &str) {
        self.lock().ring.push(&notice(text));
        self.wake();
    }

    /// What this run's guest has said of its kernel's panic, without control characters: at most [`PANIC_LINES`] of what
    /// it has printed last, from a few lines before the panic's own words on. These come before a call trace that may be
    /// longer, and behind what has led to them.
    pub fn last_words(&self) -> Vec<String> {
        let state = self.lock();
        let from = state.ring.end().saturating_sub(LAST_BYTES).max(state.run);
        let mut lines = self.lines(&state.ring, usize::MAX, from);
        drop(state);
        let words = lines.iter().position(|line| line.contains(PANIC_WORDS));
        let last = lines.len().saturating_sub(PANIC_LINES);
        let first = words.map_or(last, |at| at.saturating_sub(LINES_BEFORE).min(last));
        lines.drain(..first);
        lines.truncate(PANIC_LINES);
        lines
    }

    /// The last lines of all runs, at most `count` and of `bytes` bytes, without control characters.
    pub fn history(&self, count: usize, bytes: u64) -> Vec<String> {
        let state = self.lock();
        let from = state.ring.end().saturating_sub(bytes);
        self.lines(&state.ring, count, from)
    }

    fn lines(&self, ring: &Ring, count: usize, from: u64) -> Vec<String> {
        let from = ring.lines_back(count, from.max(ring.start()));
        let (mut lines, mut all) = (Lines::default(), Vec::new());
        let (first, second) = ring.after(from);
        for part in [first, second] {
            lines.push(part, |line| all.push(line));
        }
        all.extend(lines.finish());
        all
    }

    /// Those who look on.
    pub fn claims(&self) -> &Claims {
        &self.0.claims
    }

    /// Shows the console on `stream` to the one who has `claim`, from the last `history` lines on (all that there are
    /// without a number), and takes from it what they type; `early` is what they have typed already.
    pub fn attach(
        &self,
        stream: UnixStream,
        claim: Claim,
        shows: Shows,
        history: Option<usize>,
        early: Vec<u8>,
    ) -> io::Result<()> {
        let state = self.lock();
        let start = state.ring.start();
        let position = history.map_or(start, |lines| state.ring.lines_back(lines, start));
        let end = state.ring.end();
        drop(state);
        let mut viewer = Viewer::new(stream, claim, shows, position)?;
        if viewer.looks_back_only() {
            viewer.end_at(end, Instant::now());
        }
        self.tell(Told::Viewer(viewer, early));
        Ok(())
    }

    fn tell(&self, told: Told) {
        self.lock().told.push(told);
        self.wake();
    }

    fn wake(&self) {
        // A full counter is readable, which is all that counts.
        let _ = rustix::io::write(&self.0.wake, &1u64.to_ne_bytes());
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Running {
    /// For whoever has to do with it.
    pub fn hub(&self) -> &Hub {
        &self.hub
    }

    /// The VM has ended for good: shows everybody the rest, with `last` as the last line, and waits for that, but not for
    /// somebody who takes nothing.
    pub fn finish(self, last: &str) {
        self.hub.say(last);
        self.hub.tell(Told::End);
        let going_on = |state: &mut State| !state.over;
        let patience = 2 * LAST_PATIENCE;
        let changed = &self.hub.0.changed;
        let waited = changed.wait_timeout_while(self.hub.lock(), patience, going_on);
        let over = waited.unwrap_or_else(PoisonError::into_inner).0.over;
        if over && let Ok(stdout) = self.thread.join() {
            stdout.finish();
        }
    }
}

/// What the thread works on.
struct Work {
    hub: Hub,
    stdout: Stdout,
    /// The console of this run.
    vmm: Option<UnixStream>,
    /// What is typed and the VMM has not taken.
    typed: VecDeque<u8>,
    /// Those who look on, with what they have typed and nobody has taken.
    viewers: Vec<(Viewer, Vec<u8>)>,
    buffer: Vec<u8>,
    /// The VM has ended: when the last viewer is given up.
    end: Option<Instant>,
}

impl Work {
    /// Waits for something and does it; `false` when there is nothing more to do.
    fn turn(&mut self) -> bool {
        let ready = self.wait();
        let now = Instant::now();
        let hub = self.hub.clone();
        let mut state = hub.lock();
        for told in std::mem::take(&mut state.told) {
            match told {
                Told::Run(stream) => {
                    self.typed.clear();
                    self.vmm = Some(stream);
                }
                Told::Viewer(viewer, early) => self.viewers.push((viewer, early)),
                Told::End => self.end = Some(now + LAST_PATIENCE),
            }
        }
        self.print(&mut state);
        if self.end.is_some() {
            let end = state.ring.end();
            for (viewer, _) in &mut self.viewers {
                viewer.end_at(end, now);
            }
        }
        self.listen(&ready, &state.ring, now);
        self.type_to_guest();
        let ring = &state.ring;
        self.viewers.retain_mut(|(viewer, _)| {
            viewer.deadline().is_none_or(|deadline| deadline > now) && viewer.show(ring)
        });
        match self.end {
            Some(end) => !self.viewers.is_empty() && now < end,
            None => true,
        }
    }

    /// Waits until something can be done; gives what is ready of the viewers.
    fn wait(&self) -> Vec<PollFlags> {
        let state = self.hub.lock();
        let mut fds = vec![PollFd::new(&self.hub.0.wake, PollFlags::IN)];
        for (viewer, typed) in &self.viewers {
            let mut interest = PollFlags::empty();
            if viewer.has_output(&state.ring) {
                interest |= PollFlags::OUT;
            }
            if !viewer.is_ending() && typed.is_empty() && self.room(viewer) > 0 {
                interest |= PollFlags::IN;
            }
            fds.push(PollFd::from_borrowed_fd(viewer.as_fd(), interest));
        }
        if let Some(vmm) = &self.vmm {
            let mut interest = PollFlags::IN;
            if !self.typed.is_empty() {
                interest |= PollFlags::OUT;
            }
            fds.push(PollFd::new(vmm, interest));
        }
        let has_news = !state.told.is_empty();
        drop(state);
        let deadlines = self
            .viewers
            .iter()
            .filter_map(|(viewer, _)| viewer.deadline());
        let deadline = deadlines.chain(self.end).min();
        let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        let left = if has_news { Some(Duration::ZERO) } else { left };
        let timeout = left.and_then(|left| Timespec::try_from(left).ok());
        // Interrupted it is just shorter.
        let _ = poll(&mut fds, timeout.as_ref());
        let _ = rustix::io::read(&self.hub.0.wake, &mut [0; 8]);
        let viewers = fds.iter().skip(1).take(self.viewers.len());
        viewers.map(PollFd::revents).collect()
    }

    /// Reads what the guest has printed.
    fn print(&mut self, state: &mut State) {
        let Some(vmm) = &mut self.vmm else { return };
        match vmm.read(&mut self.buffer) {
            Ok(n) if n > 0 => {
                state.ring.push(&self.buffer[..n]);
                self.stdout.push(&self.buffer[..n]);
            }
            Err(error)
                if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
            Ok(_) | Err(_) => {
                self.vmm = None;
                self.typed.clear();
                state.run_goes_on = false;
                self.hub.0.changed.notify_all();
            }
        }
    }

    /// Reads what viewers type.
    fn listen(&mut self, ready: &[PollFlags], ring: &Ring, now: Instant) {
        let mut gone = Vec::new();
        for n in 0..self.viewers.len() {
            let events = ready.get(n).copied().unwrap_or(PollFlags::empty());
            let room = self.room(&self.viewers[n].0);
            let (viewer, typed) = &mut self.viewers[n];
            let types = viewer.types();
            let mut ended = false;
            if events.contains(PollFlags::IN) && typed.is_empty() && room > 0 {
                ended = viewer.read(room, typed).is_none();
            }
            match types {
                true => {
                    let taken = typed.len().min(TYPED.saturating_sub(self.typed.len()));
                    self.typed.extend(typed.drain(..taken));
                }
                // Nobody listens to those who only look on.
                false => typed.clear(),
            }
            if ended {
                viewer.end_at(ring.end(), now);
            }
            gone.push(events.intersects(PollFlags::HUP | PollFlags::ERR | PollFlags::NVAL));
        }
        let mut gone = gone.into_iter();
        self.viewers.retain(|_| !gone.next().unwrap_or(false));
    }

    /// How much is read of what a viewer types.
    fn room(&self, viewer: &Viewer) -> usize {
        match viewer.types() {
            true => TYPED.saturating_sub(self.typed.len()),
            false => TYPED,
        }
    }

    fn type_to_guest(&mut self) {
        let Some(vmm) = &mut self.vmm else { return };
        while !self.typed.is_empty() {
            match vmm.write(self.typed.as_slices().0) {
                Ok(n) => drop(self.typed.drain(..n)),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                // Its end is seen where it is read from.
                Err(_) => return,
            }
        }
    }
}

#[cfg(test)]
mod tests;
