//! The thread that serves the control socket.

use std::{
    collections::BTreeMap,
    io,
    os::unix::net::UnixListener,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    net::sockopt::socket_peercred,
    process::geteuid,
};
use serde_json::json;
use varlink::Reply;

use super::{
    connection::{Connection, Step, Waits},
    console,
    interface::{self, Call},
};
use crate::{
    board::Board,
    console::Hub,
    metrics,
    requests::{Answer, Answers, Refusal, Request, Requests, Wish},
};

/// Connections at most. For a further one the one goes that has been silent for longest; if all have calls pending, the
/// further one is told so and closed.
const CONNECTIONS: usize = 16;
/// Connections beside these that only root has: whoever runs the VM cannot keep the administrator from it.
const ROOTS: usize = 4;
/// How long a client waits that cannot be accepted.
const RETRY: Duration = Duration::from_millis(200);
/// Bytes of the thread's stack: too few for a huge page, which the kernel may give to a larger one.
const STACK: usize = 256 << 10;

/// What the thread works with.
#[derive(Clone)]
pub struct Context {
    /// What the VM is doing.
    pub board: Arc<Board>,
    /// The way to the supervisor's loop.
    pub requests: Arc<Requests>,
    /// What the guest prints and is typed to.
    pub console: Hub,
}

/// The thread. Dropped, it ends, and with it all connections.
#[derive(Debug)]
pub struct Control {
    stop: Arc<AtomicBool>,
    answers: Arc<Answers>,
    thread: Option<JoinHandle<()>>,
}

impl Control {
    /// Serves the clients of `listener`.
    pub fn start(listener: UnixListener, context: Context) -> io::Result<Self> {
        listener.set_nonblocking(true)?;
        let (stop, answers) = (Arc::new(AtomicBool::new(false)), Answers::new()?);
        let mut server = Server {
            listener,
            context,
            answers: answers.clone(),
            connections: BTreeMap::new(),
            next: 0,
        };
        let stopped = stop.clone();
        let thread = thread::Builder::new()
            .name("control".to_owned())
            .stack_size(STACK)
            .spawn(move || {
                while !stopped.load(Ordering::Acquire) {
                    server.turn();
                }
                server.answer(Instant::now());
            })?;
        Ok(Self {
            stop,
            answers,
            thread: Some(thread),
        })
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        self.answers.wake();
        if let Some(thread) = self.thread.take() {
            // It has failed already; the VM went on without it.
            let _ = thread.join();
        }
    }
}

struct Server {
    listener: UnixListener,
    context: Context,
    answers: Arc<Answers>,
    connections: BTreeMap<u64, Connection>,
    /// The number of the next connection: answers to one that is gone go to nobody else.
    next: u64,
}

impl Server {
    /// Waits for something and does it.
    fn turn(&mut self) {
        let ready = self.wait();
        let now = Instant::now();
        self.answer(now);
        for (number, events) in ready {
            self.serve(number, events, now);
        }
        self.accept(now);
        self.connections
            .retain(|_, connection| connection.deadline().is_none_or(|deadline| deadline > now));
    }

    /// Waits until something can be done; gives the connections that it is about.
    fn wait(&self) -> Vec<(u64, PollFlags)> {
        let mut fds = vec![
            PollFd::new(&self.listener, PollFlags::IN),
            PollFd::new(&*self.answers, PollFlags::IN),
        ];
        fds.extend(
            self.connections
                .values()
                .map(|connection| PollFd::new(connection, connection.interest())),
        );
        let deadline = self
            .connections
            .values()
            .filter_map(Connection::deadline)
            .min();
        let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        let timeout = left.and_then(|left| Timespec::try_from(left).ok());
        // Interrupted it is just shorter.
        if poll(&mut fds, timeout.as_ref()).is_err() {
            return Vec::new();
        }
        let ready = fds[2..].iter().map(PollFd::revents);
        let ready = self.connections.keys().copied().zip(ready);
        ready.filter(|(_, events)| !events.is_empty()).collect()
    }

    fn accept(&mut self, now: Instant) {
        // Of many that come at once, the others are there the next time.
        let stream = match self.listener.accept() {
            Ok((stream, _)) => stream,
            Err(error) => {
                if error.kind() != io::ErrorKind::WouldBlock {
                    // No descriptors are left, say: who waits there stays, and would wake this thread at once.
                    tracing::warn!("a client of the control socket cannot be served: {error}");
                    thread::sleep(RETRY);
                }
                return;
            }
        };
        let Ok(mut connection) = Connection::new(stream, now) else {
            return;
        };
        let refusal = match Peer::of(&connection) {
            Peer::Other => Refusal {
                error: "PermissionDenied",
                message: "only root and the user that runs the VM may ask".to_owned(),
            },
            peer if !self.has_room(peer) => Refusal {
                error: "Busy",
                message: format!("there are {CONNECTIONS} connections with calls pending already"),
            },
            Peer::Root | Peer::User => {
                self.connections.insert(self.next, connection);
                self.next += 1;
                return;
            }
        };
        connection.reply(&interface::refused(&refusal));
    }

    /// Whether there is room for one more, if need be after the end of the one that has been silent for longest.
    fn has_room(&mut self, peer: Peer) -> bool {
        if self.connections.len() < CONNECTIONS {
            return true;
        }
        let silent = self.connections.iter();
        let silent = silent.filter_map(|(number, c)| Some((c.deadline()?, *number)));
        if let Some((_, number)) = silent.min() {
            self.connections.remove(&number);
        }
        let most = match peer {
            Peer::Root => CONNECTIONS + ROOTS,
            Peer::User | Peer::Other => CONNECTIONS,
        };
        self.connections.len() < most
    }

    /// Carries what the loop has answered to whom it answers.
    fn answer(&mut self, now: Instant) {
        for (number, outcome) in self.answers.take() {
            if let Some(connection) = self.connections.get_mut(&number) {
                let reply = interface::reply(outcome);
                if connection.answered(&reply, now) {
                    self.proceed(number);
                } else {
                    self.connections.remove(&number);
                }
            }
        }
    }

    fn serve(&mut self, number: u64, events: PollFlags, now: Instant) {
        let Some(connection) = self.connections.get_mut(&number) else {
            return;
        };
        let gone = events.intersects(PollFlags::HUP | PollFlags::ERR | PollFlags::NVAL);
        let mut alive = true;
        if events.contains(PollFlags::OUT) {
            alive = connection.write(now);
        }
        if events.contains(PollFlags::IN) {
            alive &= connection.read(now);
        } else if gone {
            alive = false;
        }
        if alive {
            self.proceed(number);
        } else {
            self.connections.remove(&number);
        }
    }

    /// Does what the client of a connection has asked for, as far as that is possible now.
    fn proceed(&mut self, number: u64) {
        while let Some(connection) = self.connections.get_mut(&number) {
            let (request, waits) = match connection.step() {
                Step::Call(request, waits) => (request, waits),
                Step::Idle => return,
                Step::Over => {
                    self.connections.remove(&number);
                    return;
                }
            };
            let reply = match interface::call(&request) {
                Call::Reply(reply) => reply,
                Call::AttachConsole(parameters) => {
                    if let Some(connection) = self.connections.remove(&number) {
                        let upgrade = request.upgrade == Some(true);
                        console::attach(&self.context.console, connection, upgrade, parameters);
                    }
                    return;
                }
                Call::ReadConsole(parameters) if request.more == Some(true) => {
                    if let Some(connection) = self.connections.remove(&number) {
                        console::follow(&self.context.console, connection, parameters);
                    }
                    return;
                }
                Call::ReadConsole(parameters) => console::read(&self.context.console, parameters),
                Call::GetStatus => {
                    Reply::parameters(Some(json!({ "status": self.context.board.status() })))
                }
                // A VM without a VMM process has counted nothing, and its loop is busy.
                Call::Wish(Wish::Metrics) if self.context.board.status().vmm_pid.is_none() => {
                    let text = metrics::text(self.context.board.status(), None);
                    Reply::parameters(Some(json!({ "text": text })))
                }
                Call::Wish(wish) => {
                    connection.wait(waits);
                    let answer = Answer::new(number, self.answers.clone());
                    self.context.requests.put(Request { wish, answer });
                    return;
                }
            };
            if waits == Waits::Reply && !connection.reply(&reply) {
                self.connections.remove(&number);
            }
        }
    }
}

/// Who is at the other end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Peer {
    Root,
    /// Who runs the VM.
    User,
    Other,
}

impl Peer {
    fn of(connection: &Connection) -> Self {
        match socket_peercred(connection) {
            Ok(peer) if peer.uid.is_root() => Self::Root,
            Ok(peer) if peer.uid == geteuid() => Self::User,
            _ => Self::Other,
        }
    }
}

#[cfg(test)]
mod tests;
