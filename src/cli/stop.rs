//! `minivmm stop`.

use std::{
    io::{self, IsTerminal, Write},
    os::fd::OwnedFd,
    process::ExitCode,
    time::{Duration, Instant},
};

use clap::Args;
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    process::{Pid, PidfdFlags, pidfd_open},
};
use serde_json::{Value, json};
use varlink::Request;

use super::{
    target::TargetArgs,
    unit::{Unit, Wait},
};
use crate::{
    client::{Client, Error, PATIENCE, Target},
    control::interface::{NAME, StopParameters},
    failure::Failure,
    requests::Ended,
};

/// How often somebody at a terminal is told that the guest is still waited for.
const SAY_EVERY: Duration = Duration::from_secs(1);

/// What `stop` takes beside the VM.
#[derive(Args, Clone, Debug)]
pub struct StopArgs {
    /// How long the guest has to shut down, as 30s or 2m, instead of `lifecycle.stop_timeout`
    #[arg(long, value_name = "TIME", value_parser = duration)]
    timeout: Option<Duration>,
    /// End the VM at once, without the guest's doing
    #[arg(long, conflicts_with = "timeout")]
    force: bool,
    /// Do not wait for the end
    #[arg(long)]
    no_wait: bool,
}

impl StopArgs {
    /// The same, and the end is waited for.
    pub fn waiting(&self) -> Self {
        Self {
            no_wait: false,
            ..self.clone()
        }
    }

    /// Whether the end is waited for.
    pub fn wait(&self) -> Wait {
        match self.no_wait {
            true => Wait::No,
            false => Wait::Yes,
        }
    }
}

fn duration(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text).map_err(|_| format!("`{text}` is not a duration, as 30s or 2m"))
}

/// Ends a VM, and waits until its processes are gone.
pub fn stop(of: &TargetArgs, args: &StopArgs) -> Result<ExitCode, Failure> {
    let target = of.target();
    let unit = match &target {
        Target::Name(name) => Unit::of_running(name),
        Target::Socket(_) => None,
    };
    let Some(unit) = unit else {
        return directly(&target, args);
    };
    if args.force || args.timeout.is_some() {
        // systemd is told as well, so that it does not start the VM again.
        let first = StopArgs {
            no_wait: true,
            ..args.clone()
        };
        if args.force {
            unit.stop(Wait::No)?;
        }
        // It may be starting, or between two starts.
        if let Err(error @ Error::NoPermission(_)) = ask(&target, &first) {
            return Err(error.of(&target));
        }
    }
    unit.stop(args.wait())
}

/// Ends a VM that nobody else manages.
pub fn directly(target: &Target, args: &StopArgs) -> Result<ExitCode, Failure> {
    match ask(target, args) {
        // Whoever wants it to be gone has that.
        Err(Error::NotRunning | Error::Gone) => {
            super::say(format_args!("{target}: does not run"));
            Ok(ExitCode::SUCCESS)
        }
        Err(error) => Err(error.of(target)),
        Ok(Some(end)) => {
            super::say(format_args!("{target}: {end}"));
            Ok(ExitCode::SUCCESS)
        }
        Ok(None) => Ok(ExitCode::SUCCESS),
    }
}

/// Asks the VM to end and, if that is wanted, waits until it has; how it did, as far as that is known.
fn ask(target: &Target, args: &StopArgs) -> Result<Option<String>, Error> {
    // Whoever waits for the end is to be heard before it is asked for: a VM that has not started yet ends at once.
    let mut waiting = Client::connect(target)?;
    let mut client = Client::connect(target)?;
    if !args.no_wait {
        let call = Request::create(format!("{NAME}.AwaitEnd"), None);
        waiting.send(&call, PATIENCE)?;
    }
    let status = client.status(PATIENCE)?;
    // It answers what follows, so this is still the process that was meant.
    let process = i32::try_from(status.pid).ok().and_then(Pid::from_raw);
    let process = process.map(|pid| pidfd_open(pid, PidfdFlags::empty()));
    let asked = match args.force {
        true => client.call::<Value>("Kill", &json!({}), PATIENCE),
        false => {
            let msec = |time: Duration| time.as_millis().try_into().unwrap_or(u64::MAX);
            let timeout_msec = args.timeout.map(msec);
            client.call::<Value>("Stop", &StopParameters { timeout_msec }, PATIENCE)
        }
    };
    match asked {
        // It refuses when it is ending by itself.
        Ok(_) | Err(Error::Refused(_)) => {}
        Err(error) => return Err(error),
    }
    if args.no_wait {
        let what = match args.force {
            true => "is being ended",
            false => "was asked to shut down",
        };
        return Ok(Some(what.to_owned()));
    }
    let Some(Ok(process)) = process else {
        // It has ended since.
        return Ok(None);
    };
    drop(client);
    wait(target, waiting, &process).map(Some)
}

/// Waits for the supervisor's end, which is the last of the VM's processes, and for what `client` is told of it; gives
/// how the VM ended.
fn wait(target: &Target, mut client: Client, process: &OwnedFd) -> Result<String, Error> {
    let mut end = None;
    let mut asked = true;
    let mut progress = Progress::new();
    loop {
        let none = PollFlags::empty();
        let replies = if asked { PollFlags::IN } else { none };
        let mut fds = [
            PollFd::new(process, PollFlags::IN),
            PollFd::new(&client, replies),
        ];
        // A connection that has ended would be told of for ever.
        let watched = if asked { &mut fds[..] } else { &mut fds[..1] };
        let timeout = progress
            .next()
            .and_then(|left| Timespec::try_from(left).ok());
        // Interrupted it is just shorter.
        let _ = poll(watched, timeout.as_ref());
        let [gone, reply] = fds.map(|fd| !fd.revents().is_empty());
        if reply && asked {
            asked = false;
            if let Ok(Ended { end: words, .. }) = client.receive_as(PATIENCE) {
                end = Some(words);
            }
        }
        if gone {
            progress.finish();
            return Ok(end.unwrap_or_else(|| "it has ended".to_owned()));
        }
        progress.say(target);
    }
}

/// A line on a terminal that says how long it takes.
struct Progress {
    start: Instant,
    is_terminal: bool,
    said: bool,
}

impl Progress {
    fn new() -> Self {
        Self {
            start: Instant::now(),
            is_terminal: io::stderr().is_terminal(),
            said: false,
        }
    }

    /// When there is something to say again.
    fn next(&self) -> Option<Duration> {
        self.is_terminal.then_some(SAY_EVERY)
    }

    fn say(&mut self, target: &Target) {
        let seconds = self.start.elapsed().as_secs();
        if self.is_terminal && seconds > 0 {
            self.said = true;
            // Where nobody listens nothing is missed.
            let _ = write!(
                io::stderr(),
                "\r{target}: waiting for the guest to shut down, {seconds} s "
            );
        }
    }

    /// Leaves the line empty for what comes next.
    fn finish(&self) {
        if self.said {
            let _ = write!(io::stderr(), "\r\x1b[K");
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_timeout_has_a_unit() {
        assert_eq!(duration("1m 30s").unwrap(), Duration::from_secs(90));
        assert_eq!(
            duration("90").unwrap_err(),
            "`90` is not a duration, as 30s or 2m"
        );
    }
}
