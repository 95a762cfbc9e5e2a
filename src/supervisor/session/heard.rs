//! What the VMM process says.

use std::{io::ErrorKind, time::Instant};

use event_manager::{EventOps, Events};

use super::Session;
use crate::{board::now_usec, failure::Failure, protocol::FromVmm};

/// Messages that are heard before it is anybody else's turn: a VMM that its guest has taken over may never pause.
const HEARD: usize = 32;

impl Session<'_> {
    pub(super) fn listen(&mut self, ops: &mut EventOps) {
        if !self.hear() {
            // Its end is seen by the pidfd.
            let _ = ops.remove(Events::empty(&self.channel));
        }
    }

    /// Takes the messages that have come; says whether more can.
    pub(super) fn hear(&mut self) -> bool {
        for _ in 0..HEARD {
            match self.channel.try_receive::<FromVmm>() {
                Ok(Some(FromVmm::Running)) => {
                    if self.running.is_none() {
                        self.running = Some(Instant::now());
                        tracing::info!("the VM runs");
                        self.board.update(|status| {
                            status.running_usec = Some(now_usec());
                            status.ready = true;
                        });
                    }
                }
                Ok(Some(FromVmm::Failed { blame, message })) => {
                    self.outcome
                        .get_or_insert(Err(Failure::new(blame, message)));
                    self.stop.ending(Instant::now());
                }
                Ok(Some(FromVmm::ShareLost { tag })) => {
                    let shares = &self.config.shares;
                    if let Some(share) = shares.iter().find(|s| s.tag.as_str() == tag) {
                        self.backends.condemn(&share.tag, Instant::now());
                        self.share_lost(&share.tag.clone());
                    }
                }
                Ok(Some(FromVmm::Paused)) => self.paused(),
                Ok(Some(FromVmm::Resumed)) => self.resumed(),
                Ok(Some(FromVmm::Pong { id })) => self.liveness.heard(id, Instant::now()),
                Ok(Some(FromVmm::Ended(end))) => {
                    self.outcome.get_or_insert(Ok(end));
                    self.stop.ending(Instant::now());
                }
                Ok(None) => return false,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return true,
                Err(error) => {
                    self.fail(format!(
                        "the VMM process said something that is no message: {error}"
                    ));
                    return false;
                }
            }
        }
        true
    }
}
