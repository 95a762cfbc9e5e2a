//! The launcher: `minivmm` and its verbs.
//!
//! * [`cli`]: the command line and its verbs
//! * [`supervisor`]: the process that owns a VM's life: opens everything, starts virtiofsd and the VMM process
//! * [`vmm_process`]: the process that runs the guest, with nothing but the descriptors it was given
//! * [`protocol`]: what the two say to each other
//! * [`runtime_dir`], [`control`], [`board`], [`requests`]: how a VM that runs is found, asked, looked at and told
//! * [`client`]: who asks one, [`survey`]: who asks all, [`usage`]: what one takes of the host
//! * [`console`]: the guest's console, kept, shown and typed to
//! * [`failure`], [`log`]: exit codes and errors, and the log, of both
//! * [`secrets`]: credentials on their way from one to the other; [`dumps`]: no core dumps
//! * [`units`]: the systemd units that minivmm brings along
//! * [`metrics`]: what a VM has done, as OpenMetrics text
//! * [`machine_id`]: what tells this host from others
//! * [`regular_file`]: files that somebody names

mod board;
mod cli;
mod client;
mod config_file;
mod console;
mod control;
mod dumps;
mod failure;
mod log;
mod machine_id;
mod metrics;
mod protocol;
mod regular_file;
mod requests;
mod runtime_dir;
mod secrets;
mod supervisor;
mod survey;
mod units;
mod usage;
mod vmm_process;

use std::process::ExitCode;

fn main() -> ExitCode {
    // Started by the supervisor under this name; no user can ask for it by accident.
    let is_vmm = (std::env::args_os().next()).is_some_and(|name| name == vmm_process::NAME);
    let code = match is_vmm {
        true => vmm_process::main(),
        false => cli::main(),
    };
    log::flush();
    code
}
