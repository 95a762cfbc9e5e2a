//! The calls that are about the console: their connections become the hub's.

use rustix::net::sockopt::socket_peercred;
use serde_json::json;
use varlink::Reply;

use super::{
    connection::Connection,
    interface::{self, AttachParameters, ReadParameters},
};
use crate::{
    console::{Hub, Refused, lines::Lines, viewer::Shows},
    requests::Refusal,
};

/// Bytes of the ring that one reply is made of.
const REPLY: u64 = 32 << 10;

/// `AttachConsole`.
pub fn attach(hub: &Hub, mut connection: Connection, upgrade: bool, wanted: AttachParameters) {
    if !upgrade {
        let refusal = Refusal::not_now("the console is no varlink: call this with `upgrade`");
        connection.reply(&interface::refused(&refusal));
        return;
    }
    let claim = match wanted.read_only {
        true => hub.claims().viewer(),
        false => hub.claims().writer(&peer(&connection), wanted.force),
    };
    match claim {
        Ok(claim) => {
            let shows = Shows::Terminal;
            if connection.reply(&Reply::parameters(None)) {
                hand_over(connection, |stream, early| {
                    hub.attach(stream, claim, shows, wanted.history, early)
                });
            }
        }
        Err(refused) => refuse(connection, &refused),
    }
}

/// `ReadConsole` with `more`.
pub fn follow(hub: &Hub, connection: Connection, wanted: ReadParameters) {
    match hub.claims().viewer() {
        Ok(claim) => {
            let shows = Shows::Lines {
                lines: Lines::default(),
                follow: wanted.follow,
            };
            hand_over(connection, |stream, _| {
                hub.attach(stream, claim, shows, wanted.count, Vec::new())
            });
        }
        Err(refused) => refuse(connection, &refused),
    }
}

/// `ReadConsole` without.
pub fn read(hub: &Hub, wanted: ReadParameters) -> Reply {
    let lines = hub.history(wanted.count.unwrap_or(usize::MAX), REPLY);
    Reply::parameters(Some(json!({ "lines": lines })))
}

fn hand_over(
    connection: Connection,
    attach: impl FnOnce(std::os::unix::net::UnixStream, Vec<u8>) -> std::io::Result<()>,
) {
    // A client that does not take a reply as short as that is none.
    let Some((stream, early)) = connection.into_stream() else {
        return;
    };
    if let Err(error) = attach(stream, early) {
        tracing::warn!("somebody cannot be shown the console: {error}");
    }
}

fn refuse(mut connection: Connection, refused: &Refused) {
    let refusal = Refusal {
        error: match refused {
            Refused::Taken { .. } => "ConsoleTaken",
            Refused::TooMany => "Busy",
        },
        message: refused.to_string(),
    };
    connection.reply(&interface::refused(&refusal));
}

/// Who is at the other end, for a person.
fn peer(connection: &Connection) -> String {
    match socket_peercred(connection) {
        Ok(peer) => format!("process {} of user {}", peer.pid, peer.uid.as_raw()),
        Err(_) => "somebody".to_owned(),
    }
}
