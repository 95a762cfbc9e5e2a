//! Everything between the guest's packets and the host's streams, without rings and without an event loop.
//!
//! The worker brings packets, streams and events; what came of them is to be asked for: [`Hub::next_packet`],
//! [`Hub::deadline`], and, for the event loop, [`Hub::take_closed`] and [`Hub::take_changed`].

use std::{collections::VecDeque, os::unix::net::UnixStream, sync::Arc, time::Instant};

use event_manager::EventSet;

use crate::{
    ANSWER_DEADLINE, HALF_OPEN, HOST_CID, LINE_DEADLINE, NOTIFY_DEADLINE, NOTIFY_PORT,
    NOTIFY_STREAMS, RESETS,
    client::{self, Client, Progress, Refusal},
    connection::{Connection, Packet, State},
    connector::Answer,
    device::Rules,
    notify::{Bucket, NotifyStream},
    packet::{Header, Op, STREAM},
    stream::Stream,
    table::{Entry, Key, Table, Token},
};

pub(crate) struct Hub {
    rules: Arc<Rules>,
    table: Table,
    /// Those that may have a packet, each once.
    ready: VecDeque<Token>,
    resets: VecDeque<Key>,
    /// Streams that are over, for the event loop to forget.
    closed: Vec<Stream>,
    /// Those whose streams may be to be watched for something else.
    changed: Vec<Token>,
    deadline: Option<Instant>,
    deadline_is_old: bool,
    bucket: Bucket,
    complained: bool,
    complained_of_notify: bool,
    /// The last question; each has a number of its own, also after a reset of the device.
    question: u64,
}

/// What a packet or an event means for an entry.
enum Outcome {
    GoesOn,
    /// It is over, and the guest is to know, or knows.
    Over {
        reset: bool,
        why: Option<Refusal>,
    },
    /// It is over for the guest, who is to know, or knows.
    Drain {
        reset: bool,
    },
}

const BROKEN: Outcome = Outcome::Over {
    reset: true,
    why: None,
};

impl Hub {
    pub(crate) fn new(rules: Arc<Rules>, question: u64, now: Instant) -> Self {
        Self {
            rules,
            table: Table::default(),
            ready: VecDeque::new(),
            resets: VecDeque::new(),
            closed: Vec::new(),
            changed: Vec::new(),
            deadline: None,
            deadline_is_old: false,
            bucket: Bucket::new(now),
            complained: false,
            complained_of_notify: false,
            question,
        }
    }

    /// The number of the last question that was asked.
    pub(crate) fn question(&self) -> u64 {
        self.question
    }

    /// Whether a packet of the guest can be dealt with: what would have to be said of it may have no room.
    pub(crate) fn can_receive(&self) -> bool {
        self.resets.len() < RESETS
    }

    /// Says once what the guest's driver does that no driver does.
    pub(crate) fn complain(&mut self, what: &str) {
        if !std::mem::replace(&mut self.complained, true) {
            tracing::warn!("vsock: {what}; more of this kind is not logged");
        }
    }

    /// A packet whose bytes are not all there, or are more than any stream takes.
    pub(crate) fn malformed(&mut self, header: &Header) {
        self.complain("a packet with a wrong length");
        let key = key(header);
        match self.table.find(key) {
            Some(token) => self.conclude(token, BROKEN),
            None => self.reset_unknown(header),
        }
    }

    /// A packet of the guest, with its bytes.
    pub(crate) fn receive(&mut self, now: Instant, header: &Header, data: &[u8]) {
        // As the host's kernel does in its own device: nobody can be told.
        if header.src_cid != self.rules.cid || header.dst_cid != HOST_CID {
            return self.complain("a packet from or to an address that is neither's");
        }
        let key = key(header);
        let op = Op::new(header.op);
        if header.kind != STREAM {
            // 5.10.6.2: a reset for an unknown type.
            return self.reset_unknown(header);
        }
        match (self.table.find(key), op) {
            (Some(token), _) => {
                let outcome = self.packet(now, token, op, header, data);
                self.conclude(token, outcome);
            }
            (None, Some(Op::Request)) => self.requested(now, key, header),
            (None, _) => self.reset_unknown(header),
        }
    }

    /// Nobody answers a reset.
    fn reset_unknown(&mut self, header: &Header) {
        if header.op != Op::Reset as u16 {
            self.resets.push_back(key(header));
        }
    }

    /// The guest wants a new connection.
    fn requested(&mut self, now: Instant, key: Key, header: &Header) {
        if key.host == NOTIFY_PORT && self.rules.on_notify.is_some() {
            let others = self.count(|entry| matches!(entry, Entry::Notify(_)));
            let stream = NotifyStream::new(key, now + NOTIFY_DEADLINE);
            if others >= NOTIFY_STREAMS || self.insert(Entry::Notify(stream), Some(key)).is_none() {
                self.resets.push_back(key);
            }
            return;
        }
        if !self.rules.to_host.contains(key.host) {
            tracing::debug!(
                port = key.host,
                "vsock: a port that the guest may not connect to"
            );
            return self.resets.push_back(key);
        }
        let others = self.count(|entry| {
            matches!(entry, Entry::Connection(c) if matches!(c.state, State::Connecting { .. }))
        });
        let id = self.question + 1;
        let deadline = now + ANSWER_DEADLINE;
        let mut connection = Connection::new(key, State::Connecting { id, deadline }, None);
        connection.update(header);
        let entry = Entry::Connection(Box::new(connection));
        let token = match others < HALF_OPEN {
            true => self.insert(entry, Some(key)),
            false => None,
        };
        match token {
            None => self.resets.push_back(key),
            Some(token) => {
                self.question = id;
                if !(self.rules.ask)(id, key.host) {
                    self.conclude(token, BROKEN);
                }
            }
        }
    }

    /// A packet for something that there is.
    fn packet(
        &mut self,
        now: Instant,
        token: Token,
        op: Option<Op>,
        header: &Header,
        data: &[u8],
    ) -> Outcome {
        match self.table.get_mut(token) {
            Some(Entry::Connection(connection)) => packet(connection, op, header, data),
            Some(Entry::Notify(stream)) => {
                match op {
                    Some(Op::Data) if stream.receive(data) => {}
                    Some(Op::Shutdown) => stream.shutdown(header.flags),
                    Some(Op::CreditUpdate | Op::CreditRequest) => {}
                    Some(Op::Reset) => {
                        return Outcome::Over {
                            reset: false,
                            why: None,
                        };
                    }
                    _ => return BROKEN,
                }
                if let Some(text) = stream.take_text() {
                    self.notified(now, &text);
                }
                Outcome::GoesOn
            }
            // A client has no ports.
            Some(Entry::Client(_)) | None => Outcome::GoesOn,
        }
    }

    fn notified(&mut self, now: Instant, text: &[u8]) {
        if !self.bucket.take(now) {
            if !std::mem::replace(&mut self.complained_of_notify, true) {
                tracing::warn!("vsock: the guest tells of itself too often, some of it is dropped");
            }
        } else if let Some(on_notify) = &self.rules.on_notify {
            on_notify(text);
        }
    }

    /// A program of the host has connected.
    pub(crate) fn accept(&mut self, now: Instant, stream: UnixStream) {
        let stream = Stream::new(stream);
        if !self.has_room_for_client() {
            // Those that have gone may not have been seen yet.
            let clients = self.table.entries();
            let clients = clients.filter(|(_, entry)| matches!(entry, Entry::Client(_)));
            for token in clients.map(|(token, _)| token).collect::<Vec<_>>() {
                self.on_events(now, token, EventSet::IN);
            }
            if !self.has_room_for_client() {
                return client::refuse(&stream, Refusal::Full);
            }
        }
        let client = Client::new(stream, now + LINE_DEADLINE);
        self.insert(Entry::Client(client), None);
    }

    fn has_room_for_client(&self) -> bool {
        let others = self.count(|entry| match entry {
            Entry::Client(_) => true,
            Entry::Connection(c) => matches!(c.state, State::Requested { .. }),
            Entry::Notify(_) => false,
        });
        others < HALF_OPEN && !self.table.is_full()
    }

    /// Somebody has connected, or has not, for streams that the guest wants.
    pub(crate) fn answered(&mut self, answers: Vec<Answer>) {
        for Answer { id, stream } in answers {
            let token = self.table.entries().find_map(|(token, entry)| match entry {
                Entry::Connection(c) => match c.state {
                    State::Connecting { id: asked, .. } if asked == id => Some(token),
                    _ => None,
                },
                _ => None,
            });
            let Some(token) = token else { continue };
            let outcome = match (self.table.get_mut(token), stream) {
                (Some(Entry::Connection(connection)), Some(stream)) => {
                    connection.accepted_by_host(Stream::new(stream));
                    Outcome::GoesOn
                }
                _ => BROKEN,
            };
            self.deadline_is_old = true;
            self.conclude(token, outcome);
        }
    }

    /// Something happened on a stream.
    pub(crate) fn on_events(&mut self, now: Instant, token: Token, events: EventSet) {
        let outcome = match self.table.get_mut(token) {
            Some(Entry::Connection(connection)) => {
                connection.on_events(events);
                if connection.is_given_up() {
                    BROKEN
                } else if connection.is_drained() {
                    Outcome::Over {
                        reset: false,
                        why: None,
                    }
                } else {
                    Outcome::GoesOn
                }
            }
            Some(Entry::Client(client)) => {
                let why = match client.read() {
                    Progress::Reading => return,
                    Progress::To(port) => return self.connect_client(now, token, port),
                    Progress::Malformed => Some(Refusal::Malformed),
                    Progress::Gone => None,
                };
                Outcome::Over { reset: false, why }
            }
            // Too late.
            Some(Entry::Notify(_)) | None => return,
        };
        self.conclude(token, outcome);
    }

    /// A client has said where it wants to go.
    fn connect_client(&mut self, now: Instant, token: Token, port: u32) {
        if !self.rules.to_guest.contains(port) {
            let why = Some(Refusal::NotAllowed(port));
            return self.conclude(token, Outcome::Over { reset: false, why });
        }
        let key = self.table.free_port(port);
        let Some(Entry::Client(client)) = self.table.remove(token) else {
            return;
        };
        let state = State::Requested {
            sent: false,
            deadline: now + ANSWER_DEADLINE,
        };
        let connection = Connection::new(key, state, Some(client.stream));
        // It has a new token, and what is watched is told so.
        self.insert(Entry::Connection(Box::new(connection)), Some(key));
    }

    /// Gives up what has taken too long.
    pub(crate) fn expire(&mut self, now: Instant) {
        if self.deadline.is_none_or(|deadline| now < deadline) {
            return;
        }
        self.deadline_is_old = true;
        let late = self.table.entries().filter_map(|(token, entry)| {
            let why = match entry {
                Entry::Client(_) => Some(Refusal::TooSlow),
                Entry::Connection(_) => Some(Refusal::NoAnswer),
                Entry::Notify(_) => None,
            };
            (entry.deadline()? <= now).then_some((token, why))
        });
        for (token, why) in late.collect::<Vec<_>>() {
            self.conclude(token, Outcome::Over { reset: true, why });
        }
    }

    /// When [`expire`](Self::expire) has something to do.
    pub(crate) fn deadline(&mut self) -> Option<Instant> {
        if std::mem::take(&mut self.deadline_is_old) {
            let all = self.table.entries();
            self.deadline = all.filter_map(|(_, entry)| entry.deadline()).min();
        }
        self.deadline
    }

    /// Whether [`next_packet`](Self::next_packet) is worth a buffer of the guest's.
    pub(crate) fn may_have_packet(&self) -> bool {
        !self.resets.is_empty() || !self.ready.is_empty()
    }

    /// The next packet for the guest: its header, and its bytes at the beginning of `payload`, which is as long as there is
    /// room for them.
    pub(crate) fn next_packet(&mut self, payload: &mut [u8]) -> Option<Header> {
        if let Some(key) = self.resets.pop_front() {
            return Some(self.header(key, Op::Reset));
        }
        while let Some(token) = self.ready.pop_front() {
            self.table.set_queued(token, false);
            let header = match self.table.get_mut(token) {
                Some(Entry::Connection(connection)) => {
                    let key = connection.key;
                    match connection.next_packet(payload) {
                        Packet::None => None,
                        Packet::Some(op, flags, len) => {
                            let own = &mut connection.own;
                            let mut header = header_of(&self.rules, key, op);
                            own.tell(&mut header);
                            header.flags = flags;
                            header.len = len as u32;
                            Some(header)
                        }
                        Packet::Reset => {
                            let why = None;
                            self.conclude(token, Outcome::Over { reset: false, why });
                            return Some(self.header(key, Op::Reset));
                        }
                    }
                }
                Some(Entry::Notify(stream)) => {
                    let key = stream.key;
                    stream.next_packet().map(|(op, flags)| {
                        let mut header = header_of(&self.rules, key, op);
                        stream.own.tell(&mut header);
                        header.flags = flags;
                        header
                    })
                }
                Some(Entry::Client(_)) | None => None,
            };
            // Its reset, which comes next, is for nobody then.
            let is_over = matches!(self.table.get_mut(token), Some(Entry::Notify(_)))
                && header.is_some_and(|header| header.op == Op::Shutdown as u16);
            if is_over {
                let why = None;
                self.conclude(token, Outcome::Over { reset: false, why });
            } else {
                self.touch(token);
            }
            if header.is_some() {
                return header;
            }
        }
        None
    }

    fn header(&self, key: Key, op: Op) -> Header {
        header_of(&self.rules, key, op)
    }

    /// Streams that are over; to be forgotten by the event loop, and closed.
    pub(crate) fn take_closed(&mut self) -> Vec<Stream> {
        std::mem::take(&mut self.closed)
    }

    /// Those whose [`interest`](Self::interest) may have changed; some more than once.
    pub(crate) fn take_changed(&mut self) -> Vec<Token> {
        std::mem::take(&mut self.changed)
    }

    /// What a stream is to be watched for, beside the stream.
    pub(crate) fn interest(&mut self, token: Token) -> Option<(Option<EventSet>, &mut Stream)> {
        let entry = self.table.get_mut(token)?;
        let interest = match entry {
            Entry::Client(_) => Some(Client::interest()),
            Entry::Connection(connection) => connection.interest(),
            Entry::Notify(_) => None,
        };
        Some((interest, entry.stream_mut()?))
    }

    /// A stream cannot be watched.
    pub(crate) fn lose(&mut self, token: Token) {
        self.conclude(token, BROKEN);
    }

    /// Ends everything, without a word to the guest.
    pub(crate) fn close(&mut self) {
        let all: Vec<Token> = self.table.entries().map(|(token, _)| token).collect();
        for token in all {
            let why = None;
            self.conclude(token, Outcome::Over { reset: false, why });
        }
        self.resets.clear();
        self.ready.clear();
    }

    fn count(&self, is_one: impl Fn(&Entry) -> bool) -> usize {
        self.table.entries().filter(|(_, e)| is_one(e)).count()
    }

    fn insert(&mut self, entry: Entry, key: Option<Key>) -> Option<Token> {
        let token = self.table.insert(entry)?;
        if let Some(key) = key {
            self.table.name(key, token);
        }
        self.deadline_is_old = true;
        self.touch(token);
        Some(token)
    }

    /// Does what follows from a packet or an event.
    fn conclude(&mut self, token: Token, outcome: Outcome) {
        match outcome {
            Outcome::GoesOn => self.touch(token),
            Outcome::Over { reset, why } => {
                let Some(entry) = self.table.remove(token) else {
                    return;
                };
                self.deadline_is_old = true;
                match &entry {
                    Entry::Connection(connection) => {
                        // What was never asked of the guest need not be taken back.
                        let known = !matches!(
                            connection.state,
                            State::Requested { sent: false, .. } | State::Draining
                        );
                        self.forget(token, connection.key, reset && known);
                    }
                    Entry::Notify(stream) => self.forget(token, stream.key, reset),
                    Entry::Client(_) => {}
                }
                if let Some(stream) = entry.into_stream() {
                    if let Some(why) = why {
                        client::refuse(&stream, why);
                    }
                    self.closed.push(stream);
                }
            }
            Outcome::Drain { reset } => {
                let Some(Entry::Connection(connection)) = self.table.get_mut(token) else {
                    return;
                };
                let (key, drained) = (connection.key, connection.drain());
                self.forget(token, key, reset);
                if drained {
                    let why = None;
                    self.conclude(token, Outcome::Over { reset: false, why });
                } else {
                    self.touch(token);
                }
            }
        }
    }

    /// The ports are free again.
    fn forget(&mut self, token: Token, key: Key, reset: bool) {
        if self.table.find(key) == Some(token) {
            self.table.forget(key);
        }
        if reset {
            self.resets.push_back(key);
        }
    }

    /// Looks at an entry after it was changed.
    fn touch(&mut self, token: Token) {
        let has_packet = match self.table.get_mut(token) {
            Some(Entry::Connection(connection)) => connection.has_packet(),
            Some(Entry::Notify(stream)) => stream.has_packet(),
            Some(Entry::Client(_)) => false,
            None => return,
        };
        if has_packet && !self.table.set_queued(token, true) {
            self.ready.push_back(token);
        }
        self.changed.push(token);
    }
}

/// A packet for a connection.
fn packet(connection: &mut Connection, op: Option<Op>, header: &Header, data: &[u8]) -> Outcome {
    let established = connection.state == State::Established;
    connection.update(header);
    match (op, connection.state) {
        (Some(Op::Response), State::Requested { sent: true, .. }) => {
            connection.accepted_by_guest();
            let port = connection.key.host;
            let stream = connection.stream.as_ref();
            match stream.is_some_and(|stream| client::accept(stream, port)) {
                true => Outcome::GoesOn,
                false => BROKEN,
            }
        }
        (Some(Op::Reset), State::Requested { .. }) => Outcome::Over {
            reset: false,
            why: Some(Refusal::ByGuest),
        },
        (Some(Op::Reset), State::Connecting { .. }) => Outcome::Over {
            reset: false,
            why: None,
        },
        (Some(Op::Reset), _) => Outcome::Drain { reset: false },
        (Some(Op::Data), _) if established && connection.receive(data) => Outcome::GoesOn,
        (Some(Op::Shutdown), _) if established => {
            connection.shutdown(header.flags);
            match connection.is_closed_by_guest() {
                // The end of a clean disconnect (5.10.6.6).
                true => Outcome::Drain { reset: true },
                false => Outcome::GoesOn,
            }
        }
        // It has changed its mind.
        (Some(Op::Shutdown), _) => BROKEN,
        (Some(Op::CreditUpdate), _) => Outcome::GoesOn,
        (Some(Op::CreditRequest), _) => {
            connection.credit_requested();
            Outcome::GoesOn
        }
        // What is not for this state, twice, or unknown.
        _ => BROKEN,
    }
}

fn key(header: &Header) -> Key {
    Key {
        host: header.dst_port,
        guest: header.src_port,
    }
}

fn header_of(rules: &Rules, key: Key, op: Op) -> Header {
    Header {
        src_cid: HOST_CID,
        dst_cid: rules.cid,
        src_port: key.host,
        dst_port: key.guest,
        kind: STREAM,
        op: op as u16,
        ..Header::default()
    }
}

#[cfg(test)]
mod tests;
