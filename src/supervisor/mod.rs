//! The supervisor: the process that owns a VM's life.
//!
//! It opens everything once ([`opened`]), and looks after one run of the VM after the other: [`life`] is the
//! sequence of them. A [`session`] has a VMM process of its own ([`spawn`]), and a back end for each share ([`backends`],
//! [`external`]). What ends a run, and in which order, is in [`stop`] and [`losses`]; whether another one
//! follows, in [`restarts`]. Signals belong to all of them ([`signals`]). The supervisor never touches guest memory.

mod backends;
mod credentials;
mod external;
mod inherited;
mod life;
mod liveness;
mod locked;
mod losses;
mod notify;
mod opened;
mod outcome;
mod restarts;
mod session;
mod shares;
mod signals;
mod spawn;
mod start_message;
mod stop;
mod streams;
mod taps;
mod volumes;

use std::{sync::Arc, time::Instant};

pub use credentials::only_in_a_unit;
pub use opened::{Checked, Opened, virtiofsd};
pub use outcome::Outcome;
pub use shares::ids_notice;

use minivmm_vmm::{VmConfig, one_line};

use crate::{
    board::Board,
    config_file::ConfigFile,
    console::Hub,
    control::{Context, Control},
    dumps,
    failure::Failure,
    metrics::textfile,
    requests::{Ended, Requests},
    runtime_dir::RuntimeDir,
};
use life::Life;
use notify::Notify;
use signals::Signals;
use taps::Inherited;

/// Runs the VM of `file` until it ends for good.
pub fn run(file: &ConfigFile, log_level: &str) -> Result<Outcome, Failure> {
    dumps::forbid();
    let mut notify = Notify::new(&file.config, Instant::now());
    let done = run_told(file, log_level, &mut notify);
    notify.ended(&match &done {
        Ok(outcome) => outcome.to_string(),
        Err(failure) => failure.to_string(),
    });
    done
}

/// The same; `notify` hears how it goes, but for the end.
fn run_told(file: &ConfigFile, log_level: &str, notify: &mut Notify) -> Result<Outcome, Failure> {
    let config = &file.config;
    // Before anything is opened, which could be mistaken for a descriptor that was handed in.
    let inherited = taps::inherited(config)?;
    let requests = Requests::new().map_err(Failure::vmm)?;
    let mut signals = Signals::new(requests.clone())?;
    let board = Arc::new(Board::new(config, &file.path, &file.text));
    let mut runtime_dir = RuntimeDir::take(&config.name, config.control.socket.as_deref())?;
    let console =
        Hub::start().map_err(|error| Failure::vmm(format!("cannot serve the console: {error}")))?;
    // Dropped before the directory, so that who finds no socket finds no VM.
    let _control = Control::start(
        runtime_dir.listen()?,
        Context {
            board: board.clone(),
            requests: requests.clone(),
            console: console.hub().clone(),
        },
    )
    .map_err(|error| Failure::vmm(format!("cannot serve the control socket: {error}")))?;
    let opened = open(config, inherited, &runtime_dir, &board);
    let done = opened.and_then(|opened| {
        let life = Life {
            config,
            opened: &opened,
            signals: &mut signals,
            board: &board,
            notify,
            console: console.hub(),
            log_level,
        };
        live(life, &requests)
    });
    console.finish(&match &done {
        Ok(outcome) => format!("the VM has ended: {outcome}"),
        Err(failure) => format!("the VM has ended: {failure}"),
    });
    done
}

/// Opens what all runs work on.
fn open(
    config: &VmConfig,
    inherited: Inherited,
    runtime_dir: &RuntimeDir,
    board: &Board,
) -> Result<Opened, Failure> {
    let opened = Opened::open(config, inherited, runtime_dir)?;
    let vsock = (config.vsock().zip(opened.streams.as_ref()))
        .map(|(vsock, streams)| streams.status(&vsock));
    let volumes = volumes::status(config, &opened.volumes);
    board.update(|status| {
        status.vsock = vsock;
        status.volumes = volumes;
    });
    for share in &config.shares {
        if let Some(notice) = ids_notice(share) {
            tracing::info!(share = %share.tag, "{notice}");
        }
    }
    Ok(opened)
}

/// Lives, and tells those who wait for the end.
fn live(life: Life<'_>, requests: &Requests) -> Result<Outcome, Failure> {
    let config = life.config;
    let ended = life.live();
    textfile::remove(&config.metrics);
    requests.ended(&match &ended {
        Ok(outcome) => Ended {
            end: one_line(&outcome.to_string()),
            exit_code: outcome.exit_code(config.lifecycle.exit_status),
        },
        Err(failure) => Ended {
            end: failure.to_string(),
            exit_code: failure.code(),
        },
    });
    ended
}
