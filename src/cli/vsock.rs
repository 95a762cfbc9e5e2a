//! `minivmm vsock`: a stream to a port of a guest, on standard input and output.

use std::{
    fs::File,
    io::{self, ErrorKind, Read, Write},
    net::Shutdown,
    os::{fd::AsFd, unix::net::UnixStream},
    process::ExitCode,
    thread,
    time::{Duration, Instant},
};

use rustix::net::{RecvFlags, recv};

use super::target::TargetArgs;
use crate::{
    board::{Status, Vsock},
    client::{Client, PATIENCE, Target},
    failure::{Failure, code},
};

/// How long a guest may take for its answer: the device waits for a while too, and knows more.
const ANSWER: Duration = Duration::from_secs(minivmm_vsock::ANSWER_DEADLINE.as_secs() + 5);
/// Bytes that are passed on at a time, at most.
const CHUNK: usize = 64 << 10;
/// Bytes of the device's answer at most.
const LINE: usize = 256;

/// Connects standard input and output to a port of the guest.
pub fn vsock(of: &TargetArgs, port: u32) -> Result<ExitCode, Failure> {
    let target = of.target();
    let (status, vsock) = find(&target)?;
    let stream = connect(&status.name, &vsock, port)?;
    bridge(stream).map_err(Failure::host)?;
    Ok(ExitCode::SUCCESS)
}

/// The VM, and its socket device.
pub fn find(target: &Target) -> Result<(Status, Vsock), Failure> {
    let status = Client::connect(target)
        .and_then(|mut client| client.status(PATIENCE))
        .map_err(|error| error.of(target))?;
    match status.vsock.clone() {
        Some(vsock) => Ok((status, vsock)),
        None => Err(refused(format!(
            "`{}` has no vsock device: say `allow = [\"ssh\"]` in [vsock] of {} and restart it",
            status.name, status.config
        ))),
    }
}

/// Makes sure that the configuration allows connections to the port.
pub fn is_allowed(status: &Status, vsock: &Vsock, port: u32) -> Result<(), Failure> {
    let wanted = minivmm_vmm::config::VsockPort::Guest(port).to_string();
    match vsock.allow.contains(&wanted) {
        true => Ok(()),
        false => Err(refused(format!(
            "`{}` lets nobody connect to its port {port}: add \"{wanted}\" to `allow` in [vsock] of {} and restart it",
            status.name, status.config
        ))),
    }
}

fn refused(message: String) -> Failure {
    Failure::with_code(code::REFUSED, message)
}

/// A stream to the port.
fn connect(name: &str, vsock: &Vsock, port: u32) -> Result<UnixStream, Failure> {
    let Some(socket) = &vsock.socket else {
        return Err(refused(format!(
            "`{name}` lets nobody connect to it: add \"guest:{port}\" to `allow` in [vsock] of its configuration and restart it"
        )));
    };
    let failed = |error: io::Error| match error.kind() {
        ErrorKind::PermissionDenied => Failure::with_code(
            code::NO_PERMISSION,
            format!("{socket} is another user's: ask as that user, or as root"),
        ),
        _ => Failure::with_code(code::NOT_RUNNING, format!("{socket}: {error}")),
    };
    let mut stream = UnixStream::connect(socket).map_err(failed)?;
    writeln!(stream, "CONNECT {port}").map_err(failed)?;
    let line = first_line(&stream, Instant::now() + ANSWER);
    match line.as_deref() {
        Ok(line) if line.starts_with("OK ") => Ok(stream),
        Ok(line) => {
            let why = line.strip_prefix("ERR ").unwrap_or(line).trim();
            let why = match why {
                "" => "the connection was closed without a word",
                why => why,
            };
            let code = match why.starts_with("timeout") {
                true => code::NO_ANSWER,
                false => code::REFUSED,
            };
            let message = format!("`{name}`, port {port}: {why}");
            Err(Failure::with_code(code, message))
        }
        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
            Err(Failure::with_code(
                code::NO_ANSWER,
                format!(
                    "`{name}`, port {port}: no answer within {} s: the guest's vsock driver (vmw_vsock_virtio_transport) \
                     is not there, or not yet",
                    ANSWER.as_secs()
                ),
            ))
        }
        Err(error) => Err(failed(io::Error::new(error.kind(), error.to_string()))),
    }
}

/// The device's answer, and nothing of what comes behind it.
fn first_line(stream: &UnixStream, deadline: Instant) -> io::Result<String> {
    let mut line = Vec::new();
    while line.len() < LINE && !line.ends_with(b"\n") {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(ErrorKind::TimedOut.into());
        }
        stream.set_read_timeout(Some(left))?;
        let mut byte = [0];
        match recv(stream, &mut byte, RecvFlags::empty()) {
            Ok((0, _)) => break,
            Ok(_) => line.push(byte[0]),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    stream.set_read_timeout(None)?;
    Ok(String::from_utf8_lossy(&line).into_owned())
}

/// Passes bytes on until the guest sends no more. The end of standard input is passed on as well.
fn bridge(stream: UnixStream) -> io::Result<()> {
    // Unlike Rust's own, these keep nothing back until a line is complete.
    let input = File::from(io::stdin().as_fd().try_clone_to_owned()?);
    let output = File::from(io::stdout().as_fd().try_clone_to_owned()?);
    let to_guest = stream.try_clone()?;
    thread::Builder::new().spawn(move || {
        // A guest that takes no more is seen by its end.
        let _ = pass_on(input, &to_guest);
        let _ = to_guest.shutdown(Shutdown::Write);
    })?;
    match pass_on(stream, output) {
        // Whoever reads has had enough.
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(error),
        _ => Ok(()),
    }
}

/// Copies until the end. [`io::copy`] would splice: Linux then holds the lock of a pipe while it waits for more to put into
/// it, and its reader, which is ssh, does not get what is in there already.
fn pass_on(mut from: impl Read, mut to: impl Write) -> io::Result<()> {
    let mut bytes = vec![0; CHUNK];
    loop {
        match from.read(&mut bytes) {
            Ok(0) => return Ok(()),
            Ok(count) => to.write_all(&bytes[..count])?,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn what_is_in_a_pipe_can_be_read_while_more_is_waited_for() {
        let (stream, mut guest) = UnixStream::pair().unwrap();
        let (mut reader, writer) = io::pipe().unwrap();
        guest.write_all(b"banner").unwrap();
        let bridge = thread::spawn(move || pass_on(stream, writer));
        let (sender, read) = mpsc::channel();
        let reading = thread::spawn(move || {
            for _ in 0..6 {
                let mut byte = [0; 1];
                reader.read_exact(&mut byte).unwrap();
                sender.send(byte[0]).unwrap();
                // By the next one the bridge waits for the guest, or is about to.
                thread::sleep(Duration::from_millis(10));
            }
        });
        let read: Vec<u8> = (0..6)
            .map(|_| read.recv_timeout(Duration::from_secs(10)).unwrap())
            .collect();
        assert_eq!(read, b"banner");
        drop(guest);
        reading.join().unwrap();
        bridge.join().unwrap().unwrap();
    }
}
