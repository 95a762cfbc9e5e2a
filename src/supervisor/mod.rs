//! The supervisor: the process that owns a VM's life.
//!
//! It opens everything once ([`opened`]), and looks after one run of the VM after the other: a
//! [`session`] has a VMM process of its own ([`spawn`]), and a back end for each share ([`backends`],
//! [`external`]). What ends a run, and in which order, is in [`stop`] and [`losses`]; whether another one
//! follows, in [`restarts`]. Signals belong to all of them ([`signals`]). The supervisor never touches guest memory.

mod backends;
mod external;
mod inherited;
mod losses;
mod opened;
mod restarts;
mod session;
mod shares;
mod signals;
mod spawn;
mod start_message;
mod stop;
mod taps;

use std::time::{Duration, Instant};

use minivmm_vmm::{End, VmConfig};

pub use opened::{Checked, Opened, virtiofsd};
pub use shares::ids_notice;

use crate::failure::Failure;
use backends::Backends;
use restarts::Restarts;
use session::Session;
use signals::Signals;

/// Runs the VM of `config` until it ends for good.
pub fn run(config: &VmConfig, log_level: &str) -> Result<End, Failure> {
    // Before anything is opened, which could be mistaken for a descriptor that was handed in.
    let inherited = taps::inherited(config)?;
    let mut signals = Signals::new()?;
    let opened = Opened::open(config, inherited)?;
    for share in &config.shares {
        if let Some(notice) = ids_notice(share) {
            tracing::info!(share = %share.tag, "{notice}");
        }
    }
    let mut restarts = Restarts::default();
    let mut last = None;
    loop {
        let Some(backends) = Backends::start(config, &opened, &signals)? else {
            tracing::info!("a signal came before the guest could run");
            return Ok(last.unwrap_or(End::Killed));
        };
        let over = Session::start(config, &opened, backends, &mut signals, log_level)?.run()?;
        // It may also come while the last run is tidied up.
        let asked = over.asked || signals.wait(Duration::ZERO);
        if asked || !restarts::wanted(config, &over.end) {
            return Ok(over.end);
        }
        match restarts.take(Instant::now()) {
            Some(n) => tracing::warn!(
                "starting the VM again: {n} of at most {} restarts in {} minutes",
                restarts::MOST,
                restarts::WITHIN.as_secs() / 60
            ),
            None => {
                tracing::error!(
                    "the VM is not started again: it was {} times in {} minutes",
                    restarts::MOST,
                    restarts::WITHIN.as_secs() / 60
                );
                return Ok(over.end);
            }
        }
        last = Some(over.end);
    }
}
