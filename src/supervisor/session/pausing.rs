//! A VM that does not run for a while.

use super::{Intent, Session};
use crate::protocol::ToVmm;

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
    /// Keeps the guest from running; an error says why that cannot be.
    #[allow(dead_code, reason = "asked for by requests")]
    pub(super) fn pause(&mut self) -> Result<(), &'static str> {
        if self.running.is_none() {
            return Err("the VM does not run yet");
        }
        if self.stop.has_begun() {
            return Err(match self.intent {
                Intent::Reboot => "the VM is about to reboot",
                _ => "the VM is being stopped",
            });
        }
        if let Pause::No | Pause::Ending = self.pause {
            self.pause = Pause::Asked;
            self.tell(&ToVmm::Pause);
        }
        Ok(())
    }

    /// Lets the guest run again, if it was kept from it.
    pub(super) fn resume(&mut self) {
        if let Pause::Asked | Pause::Done = self.pause {
            self.pause = Pause::Ending;
            self.tell(&ToVmm::Resume);
        }
    }

    /// The VMM says that no vCPU is in the guest.
    pub(super) fn paused(&mut self) {
        if self.pause == Pause::Asked {
            self.pause = Pause::Done;
            tracing::info!("the VM is paused");
        }
    }

    /// The VMM says that the vCPUs go on.
    pub(super) fn resumed(&mut self) {
        if self.pause == Pause::Ending {
            self.pause = Pause::No;
            tracing::info!("the VM goes on");
        }
    }
}
