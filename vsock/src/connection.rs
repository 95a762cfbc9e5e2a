//! One connection between the guest and a program of the host: its states, and the bytes on their way.
//!
//! Each direction ends for itself. What the guest says with a shutdown becomes a shutdown(2) of the unix stream, when all
//! that it had sent before is written; the stream's end becomes a shutdown to the guest, when all that was read before is
//! sent. Bytes from the host are read only when they can be passed on at once, so none are kept; of the guest's, as many
//! are kept as it has credit for.

use std::{collections::VecDeque, io, net::Shutdown, time::Instant};

use event_manager::EventSet;

use crate::{
    credit::{GuestRoom, OurRoom},
    packet::{Header, NO_RECEIVE, NO_SEND, NOTHING, Op},
    stream::Stream,
    table::Key,
};

/// How far a connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// A client of the host wants it; the guest is asked, or is to be.
    Requested { sent: bool, deadline: Instant },
    /// The guest wants it; a stream is on its way.
    Connecting { id: u64, deadline: Instant },
    /// Bytes go.
    Established,
    /// It is over for the guest; the host's program gets what is left.
    Draining,
}

#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) key: Key,
    pub(crate) state: State,
    pub(crate) stream: Option<Stream>,
    pub(crate) own: OurRoom,
    room: GuestRoom,
    to_host: VecDeque<u8>,
    /// The guest is to be told that it is connected.
    accept: bool,
    /// There may be something to read.
    readable: bool,
    /// The stream has neither a reader nor a writer any more, which cannot be seen twice.
    hung_up: bool,
    /// What the program on the host does no more: [`NO_SEND`], [`NO_RECEIVE`].
    host: u32,
    /// Of that the guest knows.
    told: u32,
    /// What the guest does no more.
    guest: u32,
    /// A word about room is due.
    tell_room: bool,
    /// The guest was asked for room, and has none yet.
    asked: bool,
}

/// What a connection has for the guest.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Packet {
    None,
    /// With flags, and so many bytes.
    Some(Op, u32, usize),
    /// It is broken.
    Reset,
}

impl Connection {
    pub(crate) fn new(key: Key, state: State, stream: Option<Stream>) -> Self {
        Self {
            key,
            state,
            stream,
            own: OurRoom::default(),
            room: GuestRoom::default(),
            to_host: VecDeque::new(),
            accept: false,
            readable: false,
            hung_up: false,
            host: 0,
            told: 0,
            guest: 0,
            tell_room: false,
            asked: false,
        }
    }

    /// When it is given up, if nothing happens.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        match self.state {
            State::Requested { deadline, .. } | State::Connecting { deadline, .. } => {
                Some(deadline)
            }
            State::Established | State::Draining => None,
        }
    }

    /// The guest has accepted what a client wanted.
    pub(crate) fn accepted_by_guest(&mut self) {
        self.state = State::Established;
        // It may have written behind its line.
        self.readable = true;
    }

    /// The host has what the guest wanted.
    pub(crate) fn accepted_by_host(&mut self, stream: Stream) {
        self.state = State::Established;
        self.stream = Some(stream);
        self.accept = true;
        self.readable = true;
    }

    /// Takes what every packet of the guest says.
    pub(crate) fn update(&mut self, header: &Header) {
        self.room.update(header);
        if self.room.left() > 0 {
            self.asked = false;
        }
    }

    /// The guest asks for room.
    pub(crate) fn credit_requested(&mut self) {
        self.tell_room = true;
    }

    /// Takes bytes of the guest; `false` if it may not have sent them.
    #[must_use]
    pub(crate) fn receive(&mut self, data: &[u8]) -> bool {
        if self.guest & NO_SEND != 0 || !self.own.receive(data.len()) {
            return false;
        }
        if !self.to_host.is_empty() {
            self.to_host.extend(data);
            return true;
        }
        let written = self.write(data);
        if self.host & NO_RECEIVE != 0 {
            self.own.take(data.len());
        } else {
            self.own.take(written);
            self.to_host.extend(&data[written..]);
        }
        true
    }

    /// Writes to the stream as much as it takes; if nobody reads there any more, that is noted.
    fn write(&mut self, data: &[u8]) -> usize {
        let mut written = 0;
        while written < data.len() && self.host & NO_RECEIVE == 0 {
            let sent = match &self.stream {
                Some(stream) => stream.send(&data[written..]),
                None => Err(io::ErrorKind::BrokenPipe.into()),
            };
            match sent {
                Ok(count) => written += count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(_) => self.host |= NO_RECEIVE,
            }
        }
        written
    }

    /// Writes what is kept.
    fn flush(&mut self) {
        if !self.to_host.is_empty() {
            // Taken out, it may be written and the connection changed.
            let mut kept = std::mem::take(&mut self.to_host);
            let mut written = 0;
            for part in [kept.as_slices().0, kept.as_slices().1] {
                let count = self.write(part);
                written += count;
                if count < part.len() {
                    break;
                }
            }
            if self.host & NO_RECEIVE != 0 {
                written = kept.len();
            }
            self.own.take(written);
            if written < kept.len() {
                kept.drain(..written);
                self.to_host = kept;
                return;
            }
        }
        if self.guest & NO_SEND != 0
            && let Some(stream) = &self.stream
        {
            stream.shut(Shutdown::Write);
        }
    }

    /// The guest sends, or takes, no more.
    pub(crate) fn shutdown(&mut self, flags: u32) {
        self.guest |= flags & NOTHING;
        if self.guest & NO_RECEIVE != 0
            && let Some(stream) = &self.stream
        {
            stream.shut(Shutdown::Read);
        }
        self.forget_unwanted();
        self.flush();
    }

    /// The last bytes of a program that has gone are for nobody if the guest takes none.
    fn forget_unwanted(&mut self) {
        if self.hung_up && self.guest & NO_RECEIVE != 0 {
            self.host |= NO_SEND;
        }
    }

    /// The guest has closed it.
    pub(crate) fn is_closed_by_guest(&self) -> bool {
        self.guest == NOTHING
    }

    /// It is over for the guest. `true` if nothing is left to do.
    pub(crate) fn drain(&mut self) -> bool {
        self.state = State::Draining;
        self.guest = NOTHING;
        self.is_drained()
    }

    /// Everything is written that the host's program takes.
    pub(crate) fn is_drained(&self) -> bool {
        self.state == State::Draining && self.to_host.is_empty()
    }

    /// Bytes of the guest's that its program on the host has not taken.
    #[cfg(test)]
    pub(crate) fn kept(&self) -> usize {
        self.to_host.len()
    }

    /// The stream is ready for something.
    pub(crate) fn on_events(&mut self, events: EventSet) {
        self.readable |= events.contains(EventSet::IN);
        if events.intersects(EventSet::HANG_UP | EventSet::ERROR) {
            self.hung_up = true;
            self.host |= NO_RECEIVE;
            // Its last bytes, and its end.
            self.readable = true;
            self.forget_unwanted();
        }
        if events.contains(EventSet::OUT) || self.hung_up {
            self.flush();
        }
    }

    /// The client that wanted it has gone before it was connected.
    pub(crate) fn is_given_up(&self) -> bool {
        matches!(self.state, State::Requested { .. }) && self.hung_up
    }

    /// What its stream is to be watched for; None if it must not be, because what happens there once would wake us again
    /// and again.
    pub(crate) fn interest(&self) -> Option<EventSet> {
        if self.hung_up {
            return None;
        }
        let mut interest = EventSet::empty();
        // What can be read already waits for the guest and not for the stream.
        if self.can_read() && !self.readable {
            interest |= EventSet::IN;
        }
        if !self.to_host.is_empty() {
            interest |= EventSet::OUT;
        }
        Some(interest)
    }

    /// The host may send, and the guest takes it.
    fn can_read(&self) -> bool {
        self.state == State::Established
            && self.stream.is_some()
            && self.host & NO_SEND == 0
            && self.guest & NO_RECEIVE == 0
    }

    fn may_read(&self) -> bool {
        self.readable && self.can_read() && self.room.left() > 0
    }

    fn must_ask(&self) -> bool {
        self.readable && self.can_read() && self.room.left() == 0 && !self.asked
    }

    /// Whether [`next_packet`](Self::next_packet) may have one.
    pub(crate) fn has_packet(&self) -> bool {
        match self.state {
            State::Requested { sent, .. } => !sent,
            State::Established => {
                self.accept
                    || self.may_read()
                    || self.host != self.told
                    || self.must_ask()
                    || self.tell_room
                    || self.own.is_worth_telling()
            }
            State::Connecting { .. } | State::Draining => false,
        }
    }

    /// The next packet, its bytes in `payload`, which is as long as there is room.
    pub(crate) fn next_packet(&mut self, payload: &mut [u8]) -> Packet {
        let packet = |op| Packet::Some(op, 0, 0);
        match &mut self.state {
            State::Requested { sent, .. } if !*sent => {
                *sent = true;
                return packet(Op::Request);
            }
            State::Established => {}
            _ => return Packet::None,
        }
        if std::mem::take(&mut self.accept) {
            return packet(Op::Response);
        }
        if self.may_read() {
            let room = payload.len().min(self.room.left());
            if room == 0 {
                // A buffer for nothing but a header.
                return packet(Op::CreditUpdate);
            }
            let received = match &self.stream {
                Some(stream) => stream.receive(&mut payload[..room]),
                None => Ok(0),
            };
            match received {
                Ok(0) => {
                    self.host |= NO_SEND;
                    self.readable = false;
                }
                Ok(count) => {
                    self.room.sent(count);
                    return Packet::Some(Op::Data, 0, count);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.readable = false,
                Err(_) => return Packet::Reset,
            }
        }
        if self.host != self.told {
            self.told = self.host;
            return Packet::Some(Op::Shutdown, self.told, 0);
        }
        if self.must_ask() {
            self.asked = true;
            return packet(Op::CreditRequest);
        }
        if self.tell_room || self.own.is_worth_telling() {
            self.tell_room = false;
            return packet(Op::CreditUpdate);
        }
        Packet::None
    }
}
