//! The supervisor: the process that owns a VM's life.
//!
//! It opens everything once ([`opened`]), and looks after one run of the VM after the other: a
//! [`life`] is the sequence of them, a
//! [`session`] has a VMM process of its own ([`spawn`]), and a back end for each share ([`backends`],
//! [`external`]). What ends a run, and in which order, is in [`stop`] and [`losses`]; whether another one
//! follows, in [`restarts`]. Signals belong to all of them ([`signals`]). The supervisor never touches guest memory.

mod backends;
mod external;
mod inherited;
mod life;
mod liveness;
mod losses;
mod opened;
mod outcome;
mod restarts;
mod session;
mod shares;
mod signals;
mod spawn;
mod start_message;
mod stop;
mod taps;

use minivmm_vmm::VmConfig;

pub use opened::{Checked, Opened, virtiofsd};
pub use outcome::Outcome;
pub use shares::ids_notice;

use crate::failure::Failure;
use life::Life;
use signals::Signals;

/// Runs the VM of `config` until it ends for good.
pub fn run(config: &VmConfig, log_level: &str) -> Result<Outcome, Failure> {
    // Before anything is opened, which could be mistaken for a descriptor that was handed in.
    let inherited = taps::inherited(config)?;
    let mut signals = Signals::new()?;
    let opened = Opened::open(config, inherited)?;
    for share in &config.shares {
        if let Some(notice) = ids_notice(share) {
            tracing::info!(share = %share.tag, "{notice}");
        }
    }
    let life = Life {
        config,
        opened: &opened,
        signals: &mut signals,
        log_level,
    };
    life.live()
}
