//! What the service manager that started minivmm is told (sd_notify(3)), and when.
//!
//! * [`readiness`]: when the VM counts as started
//! * [`guest`]: what of the guest's own words is passed on
//! * [`watchdog`]: signs of life, while there is life
//! * [`socket`]: the way there
//!
//! Without a service manager all of it does nothing, but that a guest which was to say that it is ready and never does
//! still fails the start.

mod guest;
mod readiness;
mod socket;
mod watchdog;

use std::time::{Duration, Instant};

use minivmm_vmm::{VmConfig, one_line};

use super::signals::Signals;
use guest::Words;
use readiness::Readiness;
use socket::Socket;
use watchdog::{Due, Watchdog};

/// Messages of a guest that are passed on at once; then one in each [`REFILL`]. A guest is not to keep the host's
/// service manager busy.
const BURST: u32 = 32;
/// How soon another message of a guest may follow.
const REFILL: Duration = Duration::from_millis(100);
/// What a VM's end takes beyond the guest's own shutdown: the VMM process, its devices, virtiofsds.
const TIDYING: Duration = Duration::from_secs(30);

/// The one who is told.
#[derive(Debug)]
pub struct Notify {
    manager: Option<Socket>,
    readiness: Readiness,
    watchdog: Option<Watchdog>,
    stop_timeout: Duration,
    /// Messages of the guest that may be passed on, and since when that is so.
    allowance: u32,
    counted: Instant,
    stopping: bool,
}

/// What a guest says about the way that it is on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// It shuts down.
    Stops,
    /// It is up.
    Runs,
}

/// What is to be done for it.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// To ask the VMM whether it makes progress.
    pub ping: bool,
    /// To end the VM, because the start has failed; the words for a person.
    pub failed: Option<String>,
    /// When to look again.
    pub next: Option<Instant>,
}

impl Notify {
    /// The service manager of the environment, if there is one, and nothing told yet.
    pub fn new(config: &VmConfig, now: Instant) -> Self {
        let manager = Socket::from_environment();
        let watchdog = manager
            .as_ref()
            .and_then(|_| Watchdog::from_environment(now));
        Self {
            manager,
            readiness: Readiness::new(&config.lifecycle),
            watchdog,
            stop_timeout: config.lifecycle.stop_timeout,
            allowance: BURST,
            counted: now,
            stopping: false,
        }
    }

    /// Says what is going on.
    pub fn status(&self, text: &str) {
        self.try_send(&status(text));
    }

    /// A VMM process is about to make its machine; the watchdog does not wait for its answers yet.
    pub fn vmm_starts(&mut self, now: Instant) {
        if let Some(watchdog) = &mut self.watchdog {
            watchdog.vmm_starts(now);
        }
    }

    /// Whether the VM counts as started.
    pub fn is_ready(&self) -> bool {
        self.readiness.is_ready()
    }

    /// Every vCPU thread runs; says whether the VM is ready by that.
    pub fn vcpus_run(&mut self, now: Instant) -> bool {
        if let Some(watchdog) = &mut self.watchdog {
            watchdog.vmm_runs();
        }
        let ready = self.readiness.vcpus_run(now);
        if ready {
            self.send("READY=1\nSTATUS=the guest runs");
        } else if let Some(patience) = self.readiness.patience() {
            let extend = self.extend(patience.saturating_add(self.stop_timeout));
            self.send(&format!("STATUS=the guest's kernel is booting\n{extend}"));
        } else {
            // After a restart in place.
            self.status("the guest runs again");
        }
        ready
    }

    /// The guest has sent `text`; says what that means for its power button.
    pub fn guest_says(&mut self, text: &str, now: Instant) -> Option<Turn> {
        let words = Words::of(text);
        let turn = match (words.stopping, words.ready) {
            (true, _) => Some(Turn::Stops),
            (false, true) => Some(Turn::Runs),
            (false, false) => None,
        };
        let ready = self.readiness.guest_says(words.ready, now);
        // It is told that once, so it has to arrive.
        if !self.allowed(now) && !ready {
            return turn;
        }
        let mut lines = words.fields;
        match words.status {
            Some(text) if !text.is_empty() => lines.push(status(&format!("guest: {text}"))),
            _ if ready => lines.push(status("the guest is ready")),
            _ if words.stopping => lines.push(status("the guest is shutting down")),
            _ => {}
        }
        if let Some(patience) = self.readiness.patience() {
            lines.push(self.extend(patience.saturating_add(self.stop_timeout)));
        }
        if ready {
            lines.insert(0, "READY=1".to_owned());
            self.send(&lines.join("\n"));
        } else if !lines.is_empty() {
            self.try_send(&lines.join("\n"));
        }
        turn
    }

    /// The guest does not run: nobody waits for it to become ready until it does.
    pub fn paused(&mut self, now: Instant) {
        if self.readiness.paused(now) {
            self.send(&self.extend(Duration::MAX));
        }
    }

    /// The guest runs again.
    pub fn resumed(&mut self, now: Instant) {
        self.readiness.resumed(now);
        if let Some(patience) = self.readiness.patience() {
            self.send(&self.extend(patience.saturating_add(self.stop_timeout)));
        }
    }

    /// Another message of the guest may be passed on.
    fn allowed(&mut self, now: Instant) -> bool {
        let refills = now.duration_since(self.counted).as_millis() / REFILL.as_millis();
        if refills > 0 {
            self.counted = now;
            let refills = u32::try_from(refills).unwrap_or(BURST);
            self.allowance = self.allowance.saturating_add(refills).min(BURST);
        }
        match self.allowance.checked_sub(1) {
            Some(left) => {
                self.allowance = left;
                true
            }
            None => false,
        }
    }

    /// The VM is to end, by `how`: for good, so the service manager is told that it stops. The guest has `timeout` for it,
    /// or else `lifecycle.stop_timeout`.
    pub fn stopping(&mut self, how: &str, timeout: Option<Duration>) {
        self.readiness.give_up();
        let mut lines = vec![status(how)];
        if !std::mem::replace(&mut self.stopping, true) {
            lines.insert(0, "STOPPING=1".to_owned());
            lines.push(self.extend(timeout.unwrap_or(self.stop_timeout)));
        } else if let Some(timeout) = timeout {
            lines.push(self.extend(timeout));
        }
        self.send(&lines.join("\n"));
    }

    /// The VMM process is about to end or has: its answers are waited for no longer.
    pub fn vmm_ends(&mut self) {
        if let Some(watchdog) = &mut self.watchdog {
            watchdog.vmm_ends();
        }
    }

    /// The VM has ended for good; the last that is said.
    pub fn ended(&mut self, how: &str) {
        self.stopping(how, None);
    }

    /// The VMM process says that it makes progress.
    pub fn alive(&self) {
        if self.watchdog.is_some() {
            self.try_send("WATCHDOG=1");
        }
    }

    /// What is to be done at `now`.
    pub fn due(&mut self, now: Instant) -> Wanted {
        let failed = self.readiness.fails(now);
        let mut wanted = Wanted {
            failed,
            next: self.readiness.deadline(),
            ping: false,
        };
        if let Some(watchdog) = &mut self.watchdog {
            let due = watchdog.due(now);
            let next = watchdog.next();
            wanted.next = Some(wanted.next.map_or(next, |other| other.min(next)));
            match due {
                Due::Ask => wanted.ping = true,
                Due::Feed => self.try_send("WATCHDOG=1"),
                Due::Nothing => {}
            }
        }
        wanted
    }

    /// Waits for somebody's wish as [`Signals::wait`] does: who waits makes progress.
    pub fn wait(&mut self, signals: &Signals, patience: Duration) -> bool {
        let until = Instant::now() + patience;
        loop {
            let now = Instant::now();
            let next = self.due(now).next.map_or(until, |next| next.min(until));
            if signals.wait(next.saturating_duration_since(now)) {
                return true;
            }
            if Instant::now() >= until {
                return false;
            }
        }
    }

    /// That the service manager is to wait for what takes `patience`, and for what a VM's end takes.
    fn extend(&self, patience: Duration) -> String {
        let whole = patience.saturating_add(TIDYING);
        // The service manager takes the largest number for no limit at all; nobody means that.
        let usec = u64::try_from(whole.as_micros()).unwrap_or(u64::MAX - 1);
        format!("EXTEND_TIMEOUT_USEC={usec}")
    }

    fn send(&self, text: &str) {
        if let Some(manager) = &self.manager {
            manager.send(text);
        }
    }

    fn try_send(&self, text: &str) {
        if let Some(manager) = &self.manager {
            manager.try_send(text);
        }
    }
}

fn status(text: &str) -> String {
    format!("STATUS={}", one_line(text))
}

#[cfg(test)]
mod tests;
