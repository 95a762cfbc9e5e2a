//! What the VMM process says.

use std::{io::ErrorKind, time::Instant};

use event_manager::{EventOps, Events};

use super::{super::notify::Turn, Session};
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
                        self.notify.vcpus_run(Instant::now());
                        let ready = self.notify.is_ready();
                        self.board.update(|status| {
                            status.running_usec = Some(now_usec());
                            status.ready = ready;
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
                Ok(Some(FromVmm::VolumeFull { disk, full })) => self.board.update(|status| {
                    let volume = status.volumes.iter_mut().find(|v| v.disk == disk);
                    if let Some(volume) = volume {
                        volume.full = full;
                    }
                }),
                Ok(Some(FromVmm::Paused)) => self.paused(),
                Ok(Some(FromVmm::Resumed)) => self.resumed(),
                Ok(Some(FromVmm::Pong { id })) => {
                    if self.liveness.heard(id) {
                        self.notify.alive();
                    }
                }
                Ok(Some(FromVmm::Connect { id, port })) => self.connect_for_guest(id, port),
                Ok(Some(FromVmm::Metrics { id, metrics })) => self.metrics_came(id, metrics),
                Ok(Some(FromVmm::Balloon { id, report })) => self.balloon_came(id, report),
                Ok(Some(FromVmm::Notify { text })) => {
                    let now = Instant::now();
                    match self.notify.guest_says(&text, now) {
                        Some(Turn::Stops) => self.stop.guest_shuts_down(),
                        Some(Turn::Runs) => self.stop.guest_runs(now),
                        None => {}
                    }
                    let ready = self.notify.is_ready();
                    self.board.update(|status| status.ready = ready);
                }
                Ok(Some(FromVmm::Ended(end))) => {
                    self.notify.vmm_ends();
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
