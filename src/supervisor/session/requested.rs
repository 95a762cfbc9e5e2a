//! What clients of the control socket want of a run.

use std::time::Instant;

use super::{Intent, Session, pausing::Pause};
use crate::{
    board::State,
    protocol::ToVmm,
    requests::{Request, Wish},
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
            }
        }
    }

    /// Says on the board how far the VM is.
    pub(super) fn note(&self) {
        let state = match (self.stop.has_begun(), self.running, self.pause) {
            (true, ..) => State::Stopping,
            (false, None, _) => State::Starting,
            (false, Some(_), Pause::Done) => State::Paused,
            (false, Some(_), _) => State::Running,
        };
        self.board.update(|status| {
            if status.state != state {
                status.state = state;
                status.detail = state.to_string();
            }
        });
    }
}
