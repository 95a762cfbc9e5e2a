//! Who asks a VM that runs: finds its control socket and calls it.

use std::{
    io::{self, ErrorKind, Read, Write},
    os::{
        fd::{AsFd, BorrowedFd},
        unix::net::UnixStream,
    },
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use minivmm_vmm::BalloonReport;
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;
use varlink::{Reply, Request, sansio::protocol::serialize_request};

use crate::{
    board::Status,
    control::interface::{BalloonParameters, NAME},
    failure::{Failure, code},
    runtime_dir, survey,
};

/// How long a VM may take for an answer: a limit against hanging, its control thread has nothing else to do.
pub const PATIENCE: Duration = Duration::from_secs(5);
/// Names that a message has at most.
const NAMED: usize = 8;
/// Bytes of a reply at most.
const REPLY: usize = 4 << 20;

/// Which VM.
#[derive(Clone, Debug)]
pub enum Target {
    /// The one whose runtime directory has this name.
    Name(String),
    /// The one whose control socket is there.
    Socket(PathBuf),
}

impl Target {
    /// Where its control socket is to be looked for, in this order.
    fn sockets(&self) -> Vec<PathBuf> {
        match self {
            Self::Name(name) if !is_name(name) => Vec::new(),
            Self::Name(name) => {
                let roots = runtime_dir::roots().into_iter();
                roots
                    .map(|root| runtime_dir::control_socket(&root.join(name)))
                    .collect()
            }
            Self::Socket(socket) => vec![socket.clone()],
        }
    }
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Name(name) => f.write_str(name),
            Self::Socket(socket) => write!(f, "{}", socket.display()),
        }
    }
}

/// Why a VM does not do what it was asked for.
#[derive(Debug)]
pub enum Error {
    /// Nobody listens there: no such VM runs.
    NotRunning,
    /// It is somebody else's.
    NoPermission(Option<PathBuf>),
    /// It listens and does not answer.
    NoAnswer,
    /// It ended before it answered.
    Gone,
    /// It has answered with an error; what it says to a person.
    Refused(String),
    /// What it has answered is no answer.
    Nonsense(String),
}

impl Error {
    /// As a failure of what was asked of `target`.
    pub fn of(self, target: &Target) -> Failure {
        match self {
            Self::NotRunning => Failure::with_code(code::NOT_RUNNING, not_running(target)),
            Self::Gone => Failure::with_code(
                code::NOT_RUNNING,
                format!("`{target}` ended before it answered"),
            ),
            Self::NoPermission(socket) => Failure::with_code(
                code::NO_PERMISSION,
                match socket {
                    Some(socket) => format!(
                        "no permission for `{target}` ({}), which is another user's: ask as that user, or as root",
                        socket.display()
                    ),
                    None => format!(
                        "no permission for `{target}`, which is another user's: ask as that user, or as root"
                    ),
                },
            ),
            Self::NoAnswer => Failure::with_code(
                code::NO_ANSWER,
                format!(
                    "`{target}` does not answer within {PATIENCE:?}: its supervisor may be stopped by a signal; \
                     `minivmm list` has its process id"
                ),
            ),
            Self::Refused(message) => {
                Failure::with_code(code::REFUSED, format!("`{target}`: {message}"))
            }
            Self::Nonsense(why) => Failure::with_code(
                code::NO_ANSWER,
                format!(
                    "`{target}` has answered what is no answer: {why}: is that minivmm's socket?"
                ),
            ),
        }
    }
}

/// In words, that no such VM runs, and which do.
fn not_running(target: &Target) -> String {
    match target {
        Target::Socket(socket) => format!("no VM listens on {}", socket.display()),
        Target::Name(name) if !is_name(name) => format!(
            "`{name}` is no VM's name: that has letters, digits, `-`, `_` and `.`; for a socket say `--socket PATH`"
        ),
        Target::Name(name) => {
            let mut running = survey::names();
            let near = running
                .iter()
                .map(|other| (strsim::damerau_levenshtein(name, other), other))
                .min()
                .filter(|(distance, _)| *distance <= name.chars().count().div_ceil(3));
            if let Some((_, near)) = near {
                return format!("no VM called `{name}` runs here; did you mean `{near}`?");
            }
            let others = running.len().saturating_sub(NAMED);
            running.truncate(NAMED);
            match (running.is_empty(), others) {
                (true, _) => format!("no VM called `{name}` runs here, and no other does"),
                (false, 0) => {
                    let running = running.join(", ");
                    format!("no VM called `{name}` runs here; these do: {running}")
                }
                (false, others) => {
                    let running = running.join(", ");
                    format!(
                        "no VM called `{name}` runs here; these do: {running} and {others} more"
                    )
                }
            }
        }
    }
}

/// Whether `name` can be a VM's (docs/config.md, `name`), and so a file's in a runtime directory.
pub fn is_name(name: &str) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    !name.is_empty() && !name.starts_with('.') && name.chars().all(allowed)
}

/// A connection to a VM.
#[derive(Debug)]
pub struct Client {
    stream: UnixStream,
}

impl Client {
    /// Connects to the control socket of `target`.
    pub fn connect(target: &Target) -> Result<Self, Error> {
        Self::connect_within(target, PATIENCE)
    }

    /// Connects to the control socket of `target`, which may take `patience`.
    pub fn connect_within(target: &Target, patience: Duration) -> Result<Self, Error> {
        let mut error = Error::NotRunning;
        for socket in target.sockets() {
            match connect(&socket, patience) {
                Ok(stream) => return Ok(Self { stream }),
                Err(Error::NotRunning) => {}
                Err(other) => error = other,
            }
        }
        Err(error)
    }

    /// What is known of the VM's balloon, after what `parameters` asks for.
    pub fn balloon(
        &mut self,
        parameters: &BalloonParameters,
        patience: Duration,
    ) -> Result<BalloonReport, Error> {
        #[derive(serde::Deserialize)]
        struct Parameters {
            balloon: BalloonReport,
        }
        let reply: Parameters = self.call("Balloon", parameters, patience)?;
        Ok(reply.balloon)
    }

    /// What the VM is doing.
    pub fn status(&mut self, patience: Duration) -> Result<Status, Error> {
        #[derive(serde::Deserialize)]
        struct Parameters {
            status: Status,
        }
        let parameters: Parameters = self.call("GetStatus", &serde_json::json!({}), patience)?;
        Ok(parameters.status)
    }

    /// Calls a method of `org.minivmm.Machine` and waits for the reply.
    pub fn call<R: DeserializeOwned>(
        &mut self,
        method: &str,
        parameters: &impl Serialize,
        patience: Duration,
    ) -> Result<R, Error> {
        let nonsense = |error: serde_json::Error| Error::Nonsense(error.to_string());
        let parameters = serde_json::to_value(parameters).map_err(nonsense)?;
        self.send(
            &Request::create(format!("{NAME}.{method}"), Some(parameters)),
            patience,
        )?;
        self.receive_as(patience)
    }

    /// Waits for the next reply and gives its parameters.
    pub fn receive_as<R: DeserializeOwned>(&mut self, patience: Duration) -> Result<R, Error> {
        let parameters = self.receive(patience)?.parameters;
        serde_json::from_value(parameters.unwrap_or(Value::Object(Default::default())))
            .map_err(|error| Error::Nonsense(error.to_string()))
    }

    /// Sends a call.
    pub fn send(&mut self, request: &Request<'_>, patience: Duration) -> Result<(), Error> {
        let bytes =
            serialize_request(request).map_err(|error| Error::Nonsense(error.to_string()))?;
        self.stream
            .set_write_timeout(Some(patience))
            .and_then(|()| self.stream.write_all(&bytes))
            .map_err(lost)
    }

    /// Waits for the next reply; one that is an error is an error.
    pub fn receive(&mut self, patience: Duration) -> Result<Reply, Error> {
        let bytes = self.frame(Instant::now() + patience)?;
        let reply: Reply =
            serde_json::from_slice(&bytes).map_err(|error| Error::Nonsense(error.to_string()))?;
        match reply.error {
            None => Ok(reply),
            Some(error) if error == format!("{NAME}.PermissionDenied") => {
                Err(Error::NoPermission(None))
            }
            Some(error) => {
                let said = reply
                    .parameters
                    .as_ref()
                    .and_then(|p| p["message"].as_str());
                let message = said.unwrap_or(&error).to_owned();
                Err(Error::Refused(message))
            }
        }
    }

    /// The stream, after a call that has made it something else.
    #[allow(dead_code)]
    pub fn into_stream(self) -> UnixStream {
        self.stream
    }

    /// The bytes of a reply. They are read one by one: what follows them may be no varlink any more.
    fn frame(&mut self, deadline: Instant) -> Result<Vec<u8>, Error> {
        let mut bytes = Vec::new();
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(Error::NoAnswer);
            }
            self.stream.set_read_timeout(Some(left)).map_err(lost)?;
            // Looked at first, so that nothing is taken that comes after the reply.
            let mut chunk = [0; 4096];
            let peeked = rustix::net::recv(&self.stream, &mut chunk, rustix::net::RecvFlags::PEEK);
            let n = match peeked {
                Ok((0, _)) => return Err(Error::Gone),
                Ok((n, _)) => n.min(chunk.len()),
                Err(rustix::io::Errno::INTR) => continue,
                Err(error) => return Err(lost(error.into())),
            };
            let end = chunk[..n].iter().position(|byte| *byte == 0);
            let taken = end.map_or(n, |end| end + 1);
            self.stream.read_exact(&mut chunk[..taken]).map_err(lost)?;
            bytes.extend_from_slice(&chunk[..end.unwrap_or(taken)]);
            if end.is_some() {
                return Ok(bytes);
            }
            if bytes.len() > REPLY {
                return Err(Error::Nonsense(format!("more than {REPLY} bytes")));
            }
        }
    }
}

/// Readable when a reply, or the end, has come.
impl AsFd for Client {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

fn connect(socket: &Path, patience: Duration) -> Result<UnixStream, Error> {
    runtime_dir::connect(socket, patience).map_err(|error| match error.kind() {
        ErrorKind::NotFound | ErrorKind::ConnectionRefused | ErrorKind::NotADirectory => {
            Error::NotRunning
        }
        ErrorKind::PermissionDenied => Error::NoPermission(Some(socket.to_owned())),
        ErrorKind::WouldBlock | ErrorKind::TimedOut => Error::NoAnswer,
        _ => Error::Nonsense(format!("{}: {error}", socket.display())),
    })
}

fn lost(error: io::Error) -> Error {
    match error.kind() {
        ErrorKind::WouldBlock | ErrorKind::TimedOut => Error::NoAnswer,
        _ => Error::Gone,
    }
}
