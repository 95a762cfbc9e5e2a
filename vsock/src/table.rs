//! All streams of a device, by their tokens and by their ports.

use std::{collections::HashMap, time::Instant};

use crate::{
    CONNECTIONS, client::Client, connection::Connection, notify::NotifyStream, stream::Stream,
};

/// Bits of a token that are its place.
const PLACE: u32 = 9;
const _: () = assert!(CONNECTIONS <= 1 << PLACE);
/// Generations of a place, so that an event that is late is not taken for another stream's.
const GENERATIONS: u32 = 1 << 22;
/// The first port of the host that is given to a client.
const FIRST_PORT: u32 = 1 << 30;

/// The ports of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Key {
    pub(crate) host: u32,
    pub(crate) guest: u32,
}

/// Names a stream: from 512 to 2³¹, and none is used again soon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Token(pub(crate) u32);

impl Token {
    fn place(self) -> usize {
        (self.0 & ((1 << PLACE) - 1)) as usize
    }
}

/// One stream.
#[derive(Debug)]
pub(crate) enum Entry {
    Client(Client),
    Connection(Box<Connection>),
    Notify(NotifyStream),
}

impl Entry {
    pub(crate) fn stream_mut(&mut self) -> Option<&mut Stream> {
        match self {
            Self::Client(client) => Some(&mut client.stream),
            Self::Connection(connection) => connection.stream.as_mut(),
            Self::Notify(_) => None,
        }
    }

    pub(crate) fn into_stream(self) -> Option<Stream> {
        match self {
            Self::Client(client) => Some(client.stream),
            Self::Connection(connection) => connection.stream,
            Self::Notify(_) => None,
        }
    }

    pub(crate) fn deadline(&self) -> Option<Instant> {
        match self {
            Self::Client(client) => Some(client.deadline),
            Self::Connection(connection) => connection.deadline(),
            Self::Notify(stream) => Some(stream.deadline),
        }
    }
}

#[derive(Debug, Default)]
struct Place {
    generation: u32,
    /// It stands in the queue of those that may have a packet.
    queued: bool,
    entry: Option<Entry>,
}

/// At most [`CONNECTIONS`] streams.
#[derive(Debug, Default)]
pub(crate) struct Table {
    places: Vec<Place>,
    count: usize,
    keys: HashMap<Key, Token>,
    last_port: u32,
}

impl Table {
    pub(crate) fn is_full(&self) -> bool {
        self.count >= CONNECTIONS
    }

    /// Puts an entry in; None if there is no room.
    pub(crate) fn insert(&mut self, entry: Entry) -> Option<Token> {
        if self.is_full() {
            return None;
        }
        let free = self.places.iter().position(|place| place.entry.is_none());
        let index = free.unwrap_or_else(|| {
            self.places.push(Place::default());
            self.places.len() - 1
        });
        let place = &mut self.places[index];
        place.generation = place.generation % (GENERATIONS - 1) + 1;
        place.queued = false;
        place.entry = Some(entry);
        self.count += 1;
        Some(Token(place.generation << PLACE | index as u32))
    }

    pub(crate) fn get_mut(&mut self, token: Token) -> Option<&mut Entry> {
        let place = self.places.get_mut(token.place())?;
        (place.generation == token.0 >> PLACE)
            .then_some(place.entry.as_mut())
            .flatten()
    }

    /// Notes whether it stands in the queue, and says whether it did.
    pub(crate) fn set_queued(&mut self, token: Token, queued: bool) -> bool {
        match self.places.get_mut(token.place()) {
            Some(place) if place.generation == token.0 >> PLACE => {
                std::mem::replace(&mut place.queued, queued)
            }
            _ => true,
        }
    }

    /// Takes one out; its ports are to be forgotten by [`forget`](Self::forget).
    pub(crate) fn remove(&mut self, token: Token) -> Option<Entry> {
        self.get_mut(token)?;
        self.count -= 1;
        self.places.get_mut(token.place())?.entry.take()
    }

    pub(crate) fn name(&mut self, key: Key, token: Token) {
        self.keys.insert(key, token);
    }

    pub(crate) fn find(&self, key: Key) -> Option<Token> {
        self.keys.get(&key).copied()
    }

    /// The ports are no connection's any more.
    pub(crate) fn forget(&mut self, key: Key) {
        self.keys.remove(&key);
    }

    /// A port of the host for a stream to the guest's port.
    pub(crate) fn free_port(&mut self, guest: u32) -> Key {
        loop {
            // 2³⁰ ports and a few hundred streams: one is free soon.
            let next = self.last_port.wrapping_add(1) % FIRST_PORT;
            self.last_port = next;
            let key = Key {
                host: FIRST_PORT + next,
                guest,
            };
            if !self.keys.contains_key(&key) {
                return key;
            }
        }
    }

    pub(crate) fn entries(&self) -> impl Iterator<Item = (Token, &Entry)> {
        self.places.iter().enumerate().filter_map(|(index, place)| {
            let token = Token(place.generation << PLACE | index as u32);
            Some((token, place.entry.as_ref()?))
        })
    }
}
