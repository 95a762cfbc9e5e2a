//! `minivmm console`.

mod terminal;

use std::{
    io::{self, ErrorKind, IsTerminal, Read, Write},
    net::Shutdown,
    os::unix::net::UnixStream,
    process::ExitCode,
    str::FromStr,
};

use rustix::event::{PollFd, PollFlags, poll};
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM};
use varlink::Request;

use super::target::TargetArgs;
use crate::{
    client::{Client, Error, PATIENCE, Target},
    control::interface::{AttachParameters, NAME},
    failure::Failure,
};
use terminal::RawTerminal;

/// Ctrl-], as with telnet and `virsh console`.
const DETACH: u8 = 0x1d;
/// Bytes that are typed and that the VM has not taken, at most.
const TYPED: usize = 64 << 10;
/// Bytes that are read at once.
const READ: usize = 16 << 10;
/// Bytes that are shown at once, when there is room for some: what takes no more must not keep a key or a signal from
/// being heard.
const SHOWN: usize = 1 << 10;

/// How much is shown of what was printed before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct History(Option<usize>);

impl FromStr for History {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "all" => Ok(Self(None)),
            "none" => Ok(Self(Some(0))),
            number => match number.parse() {
                Ok(lines) => Ok(Self(Some(lines))),
                Err(_) => Err("not a number of lines, `all` or `none`".to_owned()),
            },
        }
    }
}

/// Why it is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Over {
    /// Somebody wanted that.
    Detached,
    /// The VM's side has ended.
    Ended,
}

/// Shows the console until it, or the one before it, has had enough.
pub fn console(
    of: &TargetArgs,
    history: History,
    read_only: bool,
    force: bool,
) -> Result<ExitCode, Failure> {
    let target = of.target();
    let wanted = AttachParameters {
        read_only,
        force,
        history: history.0,
    };
    let stream = Client::connect(&target)
        .and_then(|client| attach(client, wanted))
        .map_err(|error| error.of(&target))?;
    let over = converse(stream, &target, read_only)
        .map_err(|error| Failure::vmm(format!("the console of `{target}`: {error}")))?;
    if io::stdin().is_terminal() {
        say(&match over {
            Over::Detached => format!("detached from `{target}`"),
            Over::Ended => format!("`{target}` has ended"),
        });
    }
    Ok(ExitCode::SUCCESS)
}

fn say(line: &str) {
    crate::log::say(&format!("minivmm: {line}"));
}

fn attach(mut client: Client, wanted: AttachParameters) -> Result<UnixStream, Error> {
    let parameters =
        serde_json::to_value(wanted).map_err(|error| Error::Nonsense(error.to_string()))?;
    let mut request = Request::create(format!("{NAME}.AttachConsole"), Some(parameters));
    request.upgrade = Some(true);
    client.send(&request, PATIENCE)?;
    client.receive(PATIENCE)?;
    Ok(client.into_stream())
}

fn converse(stream: UnixStream, target: &Target, read_only: bool) -> io::Result<Over> {
    stream.set_nonblocking(true)?;
    let (signals, writer) = UnixStream::pair()?;
    for signal in [SIGTERM, SIGINT, SIGHUP, SIGQUIT] {
        signal_hook::low_level::pipe::register(signal, writer.try_clone()?)?;
    }
    let is_terminal = io::stdin().is_terminal();
    if is_terminal {
        let what = if read_only {
            "looking at"
        } else {
            "connected to"
        };
        say(&format!("{what} `{target}`; Ctrl-] leaves"));
        crate::log::flush();
    }
    // Restored when this function is left, in whatever way.
    let _raw = is_terminal.then(RawTerminal::new).transpose()?;
    let mut session = Session {
        stream,
        typed: Vec::new(),
        printed: Vec::new(),
        is_terminal,
        input: match (is_terminal, read_only) {
            (false, true) => Input::Over,
            _ => Input::Open,
        },
        read_only,
    };
    session.run(&signals)
}

/// What becomes of standard input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Input {
    /// It is read.
    Open,
    /// It has ended: what was typed is still sent.
    Ended,
    /// The VM knows that nothing more comes, or nothing was to come.
    Over,
}

struct Session {
    stream: UnixStream,
    /// What the VM has not taken yet.
    typed: Vec<u8>,
    /// What standard output has not taken yet.
    printed: Vec<u8>,
    is_terminal: bool,
    input: Input,
    read_only: bool,
}

impl Session {
    fn run(&mut self, signals: &UnixStream) -> io::Result<Over> {
        let mut bytes = vec![0; READ];
        loop {
            let [signal, from_vm, to_user, from_user] = self.wait(signals)?;
            if signal {
                return Ok(Over::Detached);
            }
            if to_user && !self.show()? {
                return Ok(Over::Detached);
            }
            if from_vm && self.printed.is_empty() {
                match self.stream.read(&mut bytes) {
                    Ok(0) => return Ok(Over::Ended),
                    Ok(n) => self.printed.extend_from_slice(&bytes[..n]),
                    Err(error) if is_not_now(&error) => {}
                    Err(error) if error.kind() == ErrorKind::ConnectionReset => {
                        return Ok(Over::Ended);
                    }
                    Err(error) => return Err(error),
                }
            }
            if from_user {
                let n = match rustix::io::read(io::stdin(), &mut bytes) {
                    Ok(n) => n,
                    Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => continue,
                    // The terminal is gone.
                    Err(rustix::io::Errno::IO) => 0,
                    Err(error) => return Err(error.into()),
                };
                match self.take(&bytes[..n]) {
                    Some(over) => return Ok(over),
                    None if n == 0 && self.is_terminal => return Ok(Over::Detached),
                    None if n == 0 => self.input = Input::Ended,
                    None => {}
                }
            }
            self.send()?;
        }
    }

    /// Waits for a signal, for something from the VM, for room to show it, or for something from the user.
    fn wait(&self, signals: &UnixStream) -> io::Result<[bool; 4]> {
        let mut interest = PollFlags::empty();
        let mut room = PollFlags::empty();
        match self.printed.is_empty() {
            true => interest |= PollFlags::IN,
            false => room |= PollFlags::OUT,
        }
        if !self.typed.is_empty() {
            interest |= PollFlags::OUT;
        }
        let (stdin, stdout) = (io::stdin(), io::stdout());
        // Its end would be told without pause while there is nothing to be done about it.
        let stream = match interest.is_empty() {
            true => signals,
            false => &self.stream,
        };
        let mut fds = vec![
            PollFd::new(signals, PollFlags::IN),
            PollFd::new(stream, interest),
            PollFd::new(&stdout, room),
        ];
        // A terminal is always listened to: it has the key by which this is left.
        if self.input == Input::Open && (self.is_terminal || self.typed.len() < TYPED) {
            fds.push(PollFd::new(&stdin, PollFlags::IN));
        }
        match poll(&mut fds, None) {
            Err(rustix::io::Errno::INTR) => return Ok([false; 4]),
            ready => ready?,
        };
        let ready = |n: usize| fds.get(n).is_some_and(|fd| !fd.revents().is_empty());
        Ok([ready(0), ready(1), ready(2), ready(3)])
    }

    /// Shows a part of what was printed; `false` when nobody looks any more.
    fn show(&mut self) -> io::Result<bool> {
        if self.printed.is_empty() {
            // Told without being asked: the other end is gone.
            return Ok(false);
        }
        let part = &self.printed[..self.printed.len().min(SHOWN)];
        match rustix::io::write(io::stdout(), part) {
            Ok(n) => drop(self.printed.drain(..n)),
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => {}
            Err(rustix::io::Errno::PIPE | rustix::io::Errno::IO) => return Ok(false),
            Err(error) => return Err(error.into()),
        }
        Ok(true)
    }

    /// Takes what was typed; how it is over if it is the key for that.
    fn take(&mut self, bytes: &[u8]) -> Option<Over> {
        let detach = self
            .is_terminal
            .then(|| bytes.iter().position(|byte| *byte == DETACH))
            .flatten();
        let bytes = &bytes[..detach.unwrap_or(bytes.len())];
        if !self.read_only && self.typed.len() + bytes.len() <= TYPED + READ {
            self.typed.extend_from_slice(bytes);
        }
        detach.map(|_| Over::Detached)
    }

    fn send(&mut self) -> io::Result<()> {
        while !self.typed.is_empty() {
            match self.stream.write(&self.typed) {
                Ok(n) => drop(self.typed.drain(..n)),
                Err(error) if is_not_now(&error) => return Ok(()),
                // Its end is seen where it is read from.
                Err(error) if error.kind() == ErrorKind::BrokenPipe => self.typed.clear(),
                Err(error) => return Err(error),
            }
        }
        if self.input == Input::Ended {
            self.input = Input::Over;
            // It may have ended meanwhile.
            let _ = self.stream.shutdown(Shutdown::Write);
        }
        Ok(())
    }
}

fn is_not_now(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn history_is_a_number_of_lines_all_or_none() {
        assert_eq!("all".parse(), Ok(History(None)));
        assert_eq!("none".parse(), Ok(History(Some(0))));
        assert_eq!("20".parse(), Ok(History(Some(20))));
        assert!("some".parse::<History>().is_err());
        assert!("-1".parse::<History>().is_err());
    }
}
