//! Waiting for the virtiofsds that somebody else starts.

use std::{
    os::unix::net::UnixStream,
    time::{Duration, Instant},
};

use minivmm_fs::external::{Absence, External, PATIENCE};

use super::{notify::Notify, signals::Signals};
use crate::failure::Failure;

/// How often to look whether one has come.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// How often to say who is still missing.
const SAY_EVERY: Duration = Duration::from_secs(10);

/// A connection to `external`, for which there is time until `deadline`; `None` if a signal came first.
pub fn connect(
    external: &External,
    deadline: Instant,
    signals: &Signals,
    notify: &mut Notify,
) -> Result<Option<UnixStream>, Failure> {
    let mut say = Instant::now();
    loop {
        let absence = match external.try_connect().map_err(Failure::config)? {
            Ok(stream) => return Ok(Some(stream)),
            Err(absence) => absence,
        };
        let now = Instant::now();
        if now >= deadline {
            return Err(Failure::config(external.never_came(absence)));
        }
        if now >= say {
            tell(external, absence, deadline - now);
            notify.status(&format!(
                "waiting for the virtiofsd of share `{}`",
                external.tag
            ));
            say += SAY_EVERY;
        }
        if notify.wait(signals, LOOK_EVERY.min(deadline - now)) {
            return Ok(None);
        }
    }
}

/// When to give up those that are waited for from now on.
pub fn deadline() -> Instant {
    Instant::now() + PATIENCE
}

fn tell(external: &External, absence: Absence, left: Duration) {
    tracing::warn!(
        share = %external.tag,
        "waiting up to {} s for a virtiofsd on {:?}: {absence}",
        left.as_secs_f64().round(),
        external.socket
    );
}
