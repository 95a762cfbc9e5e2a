//! `minivmm logs`.

use std::{
    io::{self, ErrorKind, Write},
    process::ExitCode,
    time::Duration,
};

use serde::Deserialize;
use varlink::Request;

use super::target::TargetArgs;
use crate::{
    client::{Client, Error, PATIENCE},
    control::interface::{NAME, ReadParameters},
    failure::Failure,
};

/// A guest may print nothing for as long as it likes.
const FOR_EVER: Duration = Duration::from_secs(1 << 30);

#[derive(Deserialize)]
struct Lines {
    lines: Vec<String>,
}

/// Prints the console's lines.
pub fn logs(of: &TargetArgs, follow: bool, count: Option<usize>) -> Result<ExitCode, Failure> {
    let target = of.target();
    let done = Client::connect(&target).and_then(|client| print(client, follow, count));
    done.map_err(|error| error.of(&target))?;
    Ok(ExitCode::SUCCESS)
}

fn print(mut client: Client, follow: bool, count: Option<usize>) -> Result<(), Error> {
    let nonsense = |error: serde_json::Error| Error::Nonsense(error.to_string());
    let parameters = serde_json::to_value(ReadParameters { count, follow }).map_err(nonsense)?;
    let mut request = Request::create(format!("{NAME}.ReadConsole"), Some(parameters));
    request.more = Some(true);
    client.send(&request, PATIENCE)?;
    let patience = if follow { FOR_EVER } else { PATIENCE };
    let mut output = io::stdout().lock();
    loop {
        let reply = client.receive(patience)?;
        let parameters = reply.parameters.unwrap_or_default();
        let lines: Lines = serde_json::from_value(parameters).map_err(nonsense)?;
        let text: String = lines.lines.iter().flat_map(|line| [line, "\n"]).collect();
        match output
            .write_all(text.as_bytes())
            .and_then(|()| output.flush())
        {
            // A reader that has had enough is no reason to fail.
            Err(error) if error.kind() == ErrorKind::BrokenPipe => return Ok(()),
            Err(error) => return Err(Error::Refused(format!("standard output: {error}"))),
            Ok(()) => {}
        }
        if reply.continues != Some(true) {
            return Ok(());
        }
    }
}
