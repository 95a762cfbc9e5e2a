//! What clients of the control socket want of a run.

use std::time::Instant;

use super::{Intent, Session, pausing::Pause};
use crate::{
    board::State,
    protocol::ToVmm,
    requests::{Refusal, Request, Wish},
    supervisor::outcome::Force,
};

impl Session<'_> {
    /// Does what clients want.
    pub(super) fn serve(&mut self) {
        for Request { wish, answer } in self.signals.requests().take() {
            match wish {
                Wish::Stop { timeout } => {
                    self.intent = Intent::Stop;
                    self.stop.shut_down(Instant::now(), timeout);
                    self.notify
                        .stopping("asking the guest to shut down", timeout);
                    answer.done();
                }
                Wish::Kill => {
                    self.intent = Intent::Stop;
                    self.stop.force(Force::Order);
                    self.notify.stopping("ending the VM at once", None);
                    answer.done();
                }
                Wish::PowerButton => {
                    self.tell(&ToVmm::PowerButton);
                    answer.done();
                }
                Wish::Pause => self.pause(answer),
                Wish::Resume => self.answer_resume(answer),
                Wish::Reboot { force } => match self.reboot(force) {
                    Ok(()) => answer.done(),
                    Err(why) => answer.refuse(Refusal::not_now(why)),
                },
                Wish::Balloon { size, statistics } => self.balloon(size, statistics, answer),
                Wish::Metrics => self.ask_metrics(answer),
                Wish::AwaitEnd => self.signals.requests().await_end(answer),
            }
        }
    }

    /// Ends this run so that another one follows.
    fn reboot(&mut self, force: bool) -> Result<(), &'static str> {
        match self.intent {
            Intent::Stop => return Err("the VM is being stopped"),
            Intent::Run if self.running.is_none() => return Err("the VM does not run yet"),
            Intent::Run if self.stop.has_begun() => return Err("the VM is ending"),
            Intent::Run | Intent::Reboot => {}
        }
        self.intent = Intent::Reboot;
        match force {
            true => self.stop.force(Force::Order),
            false => self.stop.shut_down(Instant::now(), None),
        }
        self.notify.status("rebooting");
        Ok(())
    }

    /// Says on the board how far the VM is.
    pub(super) fn note(&self) {
        let state = match (self.stop.has_begun(), self.running, self.pausing.state) {
            (true, ..) => State::Stopping,
            (false, None, _) => State::Starting,
            (false, Some(_), Pause::Done) => State::Paused,
            (false, Some(_), _) => State::Running,
        };
        self.board.update(|status| {
            if status.state != state {
                status.state = state;
                status.detail = match (state, self.intent) {
                    (State::Stopping, Intent::Reboot) => "rebooting".to_owned(),
                    _ => state.to_string(),
                };
            }
        });
    }
}
