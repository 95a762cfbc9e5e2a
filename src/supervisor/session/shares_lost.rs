//! The ends of virtiofsds and the loss of shares while a VM runs.

use std::time::Instant;

use event_manager::{EventOps, Events};
use minivmm_fs::Tag;
use minivmm_vmm::config::OnFailure;

use super::Session;
use crate::protocol::ToVmm;

impl Session<'_> {
    /// A virtiofsd has ended, as it does by itself when its VM has.
    pub(super) fn virtiofsd_ended(&mut self, n: usize, ops: &mut EventOps) {
        // An end of the VM that came first is to be known first.
        self.hear();
        if let Some((_, pidfd)) = self.backends.descriptors().nth(n) {
            let _ = ops.remove(Events::empty_raw(pidfd));
        }
        let vm_runs = self.outcome.is_none() && !self.stop.has_killed();
        if let Some(tag) = self.backends.ended(n, vm_runs) {
            self.share_lost(&tag);
        }
    }

    /// The guest has lost a share: what follows is the configuration's to say.
    pub(super) fn share_lost(&mut self, tag: &Tag) {
        // Before the guest runs, the VMM finds it out itself and fails. Afterwards nobody misses it.
        if self.running.is_none() || self.outcome.is_some() {
            return;
        }
        // The end that somebody has forced stays theirs.
        if self.stop.is_killing() && !self.losses.end_the_run() {
            return;
        }
        let share = self.config.shares.iter().find(|s| s.tag == *tag);
        match share.and_then(|share| self.losses.add(share)) {
            Some(OnFailure::Ignore) => {
                tracing::warn!(share = %tag, "the guest goes on without the share (on_failure = \"ignore\")");
            }
            // A guest that is shutting down is not kept from it.
            _ if self.stop.has_begun() => {}
            Some(OnFailure::Stop) => {
                self.stop.shut_down(Instant::now(), None);
                let how = format!("share `{tag}` is lost: asking the guest to shut down");
                self.notify.stopping(&how, None);
            }
            Some(OnFailure::RestartVm) => {
                let tag = tag.to_string();
                self.notify
                    .status(&format!("share `{tag}` is lost: restarting the VM"));
                self.notify.vmm_ends();
                self.tell(&ToVmm::EndForShare { tag });
                self.stop.ending(Instant::now());
            }
            None => {}
        }
    }
}
