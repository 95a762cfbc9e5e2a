//! The log of both processes.

use std::io::{self, IsTerminal};

use tracing::level_filters::LevelFilter;

/// The environment variable that carries the level of the log: from a user to the launcher, and from the
/// supervisor to the VMM process.
pub const LEVEL: &str = "MINIVMM_LOG";

/// Starts the log: one line an event on standard error, coloured on a terminal. Time and origin are the
/// journal's to add.
pub fn init(level: &str) {
    tracing_subscriber::fmt()
        .with_max_level(level.parse().unwrap_or(LevelFilter::INFO))
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal())
        .with_target(false)
        // A terminal that has gone away makes every write fail. That is no reason to end a guest.
        .log_internal_errors(false)
        .without_time()
        .init();
}
