//! A VM that does not run for a while.

use std::time::Instant;

use super::{Intent, Session};
use crate::{
    protocol::ToVmm,
    requests::{Answer, Refusal},
};

/// Where a pause has got to, and who waits for it.
#[derive(Debug, Default)]
pub struct Pausing {
    /// How far it is.
    pub state: Pause,
    /// To be answered when the state that was asked for is there.
    waiting: Vec<Answer>,
}

/// Where a pause has got to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Pause {
    /// The guest runs.
    #[default]
    No,
    /// The VMM was told, and its vCPUs may still be in the guest.
    Asked,
    /// They are not.
    Done,
    /// The VMM was told to go on.
    Ending,
}

impl Session<'_> {
    /// Keeps the guest from running, and answers when it does not run any more.
    pub(super) fn pause(&mut self, answer: Answer) {
        let refusal = match (self.running, self.stop.has_begun(), self.intent) {
            (None, ..) => "the VM does not run yet",
            (Some(_), true, Intent::Reboot) => "the VM is about to reboot",
            (Some(_), true, _) => "the VM is being stopped",
            (Some(_), false, _) => {
                if let Pause::No | Pause::Ending = self.pausing.state {
                    self.turn(Pause::Asked, "the VM was paused again", &ToVmm::Pause);
                }
                return self.wait_for(Pause::Done, answer);
            }
        };
        answer.refuse(Refusal::not_now(refusal));
    }

    /// Lets the guest run again, if it was kept from it.
    pub(super) fn resume(&mut self) {
        if let Pause::Asked | Pause::Done = self.pausing.state {
            self.turn(Pause::Ending, "the VM goes on", &ToVmm::Resume);
        }
    }

    /// Lets it run again, and answers when it does.
    pub(super) fn answer_resume(&mut self, answer: Answer) {
        self.resume();
        self.wait_for(Pause::No, answer);
    }

    /// Does the opposite of what was asked before; `why` is for those who still wait for that.
    fn turn(&mut self, state: Pause, why: &str, message: &ToVmm) {
        self.pausing.state = state;
        for answer in self.pausing.waiting.drain(..) {
            answer.refuse(Refusal::not_now(why));
        }
        self.tell(message);
    }

    fn wait_for(&mut self, state: Pause, answer: Answer) {
        match self.pausing.state == state {
            true => answer.done(),
            // As many as there are connections.
            false => self.pausing.waiting.push(answer),
        }
    }

    /// The VMM says that no vCPU is in the guest.
    pub(super) fn paused(&mut self) {
        if self.arrive(Pause::Asked, Pause::Done, "the VM is paused") {
            self.notify.paused(Instant::now());
        }
    }

    /// The VMM says that the vCPUs go on.
    pub(super) fn resumed(&mut self) {
        if self.arrive(Pause::Ending, Pause::No, "the VM goes on") {
            self.notify.resumed(Instant::now());
        }
    }

    /// Says whether it was on its way there.
    fn arrive(&mut self, from: Pause, to: Pause, said: &str) -> bool {
        if self.pausing.state != from {
            return false;
        }
        self.pausing.state = to;
        self.pausing.waiting.drain(..).for_each(Answer::done);
        self.notify.status(said);
        tracing::info!("{said}");
        true
    }
}
