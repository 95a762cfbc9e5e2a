//! Where vCPU threads come by between two runs of the guest when somebody wants something of them: that they stay out
//! of it for a while, that they show that they still turn, that they end.
//!
//! It costs a vCPU one look at a counter each time that it leaves the guest. Whoever wants something changes the
//! counter and then kicks the vCPUs.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd},
    sync::{
        Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
};

use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

/// What has come of [`Handle::pause`](crate::Handle::pause), [`resume`](crate::Handle::resume) and
/// [`ping`](crate::Handle::ping).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// No vCPU is in the guest, and none enters it until it is resumed.
    Paused,
    /// Every vCPU may be in the guest.
    Resumed,
    /// Every vCPU thread has come round, or waits because the VM is paused, since this was asked.
    Alive {
        /// What was given to [`ping`](crate::Handle::ping).
        id: u64,
    },
}

/// The gate of a VM.
#[derive(Debug)]
pub struct Gate {
    /// Changes when there is something to see in the state.
    calls: AtomicU32,
    state: Mutex<State>,
    opened: Condvar,
    /// Readable when there is progress to be taken.
    event: EventFd,
}

#[derive(Debug, Default)]
struct State {
    /// A bit for each vCPU.
    all: u32,
    stop: bool,
    pause: bool,
    /// The vCPUs that wait for the gate to open.
    waiting: u32,
    /// What was asked last and is not answered, and the vCPUs that have not come round since.
    ping: Option<(u64, u32)>,
    /// Not taken yet.
    run_state: Option<Progress>,
    alive: Option<u64>,
}

/// How a vCPU comes out of the gate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Passed {
    /// Back into the guest.
    Through,
    /// The same, after the VM was paused.
    AfterPause,
    /// Its thread is to end.
    Stop,
}

impl Gate {
    /// The gate of so many vCPUs, open.
    pub fn new(vcpus: u8) -> io::Result<Self> {
        let all = (0..u32::from(vcpus)).fold(0, |all, id| all | bit(id));
        Ok(Self {
            calls: AtomicU32::new(0),
            state: Mutex::new(State {
                all,
                ..State::default()
            }),
            opened: Condvar::new(),
            event: EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC)?,
        })
    }

    /// How often somebody has wanted something: if it is not what it was, [`pass`](Self::pass) is due.
    pub fn calls(&self) -> u32 {
        self.calls.load(Ordering::Acquire)
    }

    /// What vCPU `id` does between two runs of the guest if it was called. Waits while the VM is paused.
    pub fn pass(&self, id: u8) -> Passed {
        let own = bit(id.into());
        let mut state = self.lock();
        self.came_round(&mut state, own);
        let mut passed = Passed::Through;
        while state.pause && !state.stop {
            passed = Passed::AfterPause;
            if state.waiting & own == 0 {
                state.waiting |= own;
                self.tell_if_paused(&mut state);
            }
            state = self
                .opened
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
        state.waiting &= !own;
        match state.stop {
            true => Passed::Stop,
            false => passed,
        }
    }

    /// Keeps the vCPUs out of the guest. [`Progress::Paused`] follows, at once if they are out already. Gives those that
    /// are to be kicked, a bit for each: the others wait here, where a kick would only stay pending.
    pub fn close(&self) -> u32 {
        let mut state = self.lock();
        state.pause = true;
        state.run_state = None;
        self.tell_if_paused(&mut state);
        self.call();
        state.all & !state.waiting
    }

    /// Lets them into the guest again.
    pub fn open(&self) {
        let mut state = self.lock();
        state.pause = false;
        state.run_state = Some(Progress::Resumed);
        self.tell();
        self.opened.notify_all();
    }

    /// Asks every vCPU to come round. Of two questions only the last one is answered. Gives those that are to be kicked.
    pub fn ping(&self, id: u64) -> u32 {
        let mut state = self.lock();
        let missing = state.all & !state.waiting;
        state.ping = Some((id, missing));
        self.came_round(&mut state, 0);
        self.call();
        missing
    }

    /// Ends the vCPU threads, also those that wait; all are to be kicked.
    pub fn stop(&self) {
        self.lock().stop = true;
        self.call();
        self.opened.notify_all();
    }

    /// Whether the vCPUs are, or are about to be, kept out of the guest.
    pub fn is_closed(&self) -> bool {
        self.lock().pause
    }

    /// What has come since this was asked last.
    pub fn take_progress(&self) -> impl Iterator<Item = Progress> + use<> {
        // Nothing to read is what it is to be.
        let _ = self.event.read();
        let mut state = self.lock();
        let alive = state.alive.take().map(|id| Progress::Alive { id });
        [state.run_state.take(), alive].into_iter().flatten()
    }

    fn came_round(&self, state: &mut State, own: u32) {
        if let Some((id, missing)) = &mut state.ping {
            *missing &= !own;
            if *missing == 0 {
                state.alive = Some(*id);
                state.ping = None;
                self.tell();
            }
        }
    }

    fn tell_if_paused(&self, state: &mut State) {
        if state.pause && state.waiting == state.all {
            state.run_state = Some(Progress::Paused);
            self.tell();
        }
    }

    fn call(&self) {
        self.calls.fetch_add(1, Ordering::Release);
    }

    fn tell(&self) {
        // A full counter is readable already.
        let _ = self.event.write(1);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Readable when [`take_progress`](Gate::take_progress) has something to say.
impl AsFd for Gate {
    #[allow(unsafe_code)]
    fn as_fd(&self) -> BorrowedFd<'_> {
        use std::os::fd::AsRawFd;
        // SAFETY: the eventfd is this value's and stays open as long as it is borrowed.
        unsafe { BorrowedFd::borrow_raw(self.event.as_raw_fd()) }
    }
}

fn bit(id: u32) -> u32 {
    1u32.checked_shl(id).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::{sync::Arc, thread, time::Duration};

    use rustix::event::{PollFd, PollFlags, Timespec, poll};

    use super::*;

    /// vCPUs that do nothing but look at the gate, as busy guests' do.
    fn busy(gate: &Arc<Gate>, vcpus: u8) -> Vec<thread::JoinHandle<u32>> {
        (0..vcpus)
            .map(|id| {
                let gate = gate.clone();
                thread::spawn(move || {
                    let (mut seen, mut pauses) = (0, 0);
                    loop {
                        thread::yield_now();
                        let calls = gate.calls();
                        if calls == seen {
                            continue;
                        }
                        seen = calls;
                        match gate.pass(id) {
                            Passed::Through => {}
                            Passed::AfterPause => pauses += 1,
                            Passed::Stop => return pauses,
                        }
                    }
                })
            })
            .collect()
    }

    fn wait(gate: &Gate) -> Vec<Progress> {
        let time = Timespec::try_from(Duration::from_secs(20)).unwrap();
        let ready = poll(&mut [PollFd::new(gate, PollFlags::IN)], Some(&time)).unwrap();
        assert_eq!(ready, 1, "nothing came");
        gate.take_progress().collect()
    }

    fn nothing(gate: &Gate) -> bool {
        gate.take_progress().next().is_none()
    }

    #[test]
    fn vcpus_are_paused_when_all_have_come_and_go_on_together() {
        let gate = Arc::new(Gate::new(3).unwrap());
        let vcpus = busy(&gate, 3);
        for _ in 0..20 {
            gate.close();
            assert_eq!(wait(&gate), [Progress::Paused]);
            assert!(gate.is_closed());
            // Asked again it is said again.
            gate.close();
            assert_eq!(wait(&gate), [Progress::Paused]);
            gate.open();
            assert_eq!(wait(&gate), [Progress::Resumed]);
        }
        gate.stop();
        for vcpu in vcpus {
            assert!(vcpu.join().unwrap() <= 20);
        }
    }

    #[test]
    fn a_question_is_answered_when_every_vcpu_has_come_round() {
        let gate = Gate::new(2).unwrap();
        gate.ping(7);
        assert!(nothing(&gate));
        assert_eq!(gate.pass(0), Passed::Through);
        assert_eq!(gate.pass(0), Passed::Through);
        assert!(nothing(&gate), "the other one has not");
        assert_eq!(gate.pass(1), Passed::Through);
        assert_eq!(wait(&gate), [Progress::Alive { id: 7 }]);
        gate.pass(0);
        assert!(nothing(&gate), "it is said once");
    }

    #[test]
    fn only_the_last_question_is_answered() {
        let gate = Gate::new(2).unwrap();
        gate.ping(1);
        gate.pass(0);
        gate.ping(2);
        gate.pass(1);
        assert!(nothing(&gate), "vCPU 0 came round before it was asked");
        gate.pass(0);
        assert_eq!(wait(&gate), [Progress::Alive { id: 2 }]);
    }

    #[test]
    fn a_paused_vcpu_is_alive_and_one_that_hangs_is_not() {
        let gate = Arc::new(Gate::new(2).unwrap());
        let [one, _hangs] = [0, 1];
        gate.close();
        let waiting = {
            let gate = gate.clone();
            thread::spawn(move || gate.pass(one))
        };
        while gate.lock().waiting != 1 {
            thread::yield_now();
        }
        assert_eq!(gate.ping(1), 0b10);
        assert!(nothing(&gate));
        gate.stop();
        assert_eq!(waiting.join().unwrap(), Passed::Stop);

        let gate = Arc::new(Gate::new(2).unwrap());
        let vcpus = busy(&gate, 2);
        gate.close();
        assert_eq!(wait(&gate), [Progress::Paused]);
        assert_eq!(gate.ping(2), 0, "nobody is to be kicked");
        assert_eq!(wait(&gate), [Progress::Alive { id: 2 }]);
        gate.stop();
        vcpus.into_iter().for_each(|vcpu| drop(vcpu.join()));
    }

    #[test]
    fn a_pause_that_is_taken_back_before_all_came_is_none() {
        let gate = Gate::new(1).unwrap();
        gate.close();
        gate.open();
        assert_eq!(wait(&gate), [Progress::Resumed]);
        assert_eq!(gate.pass(0), Passed::Through);
        assert!(nothing(&gate));
    }

    #[test]
    fn the_most_vcpus_fit() {
        let gate = Gate::new(crate::config::Limits::VCPU).unwrap();
        gate.ping(1);
        for id in 0..crate::config::Limits::VCPU {
            assert!(nothing(&gate));
            gate.pass(id);
        }
        assert_eq!(wait(&gate), [Progress::Alive { id: 1 }]);
    }
}
