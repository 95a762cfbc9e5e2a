//! The streams with which a guest's systemd tells of itself (`vmm.notify_socket`, sd_notify(3)).
//!
//! It connects, writes lines, says that it sends no more, and waits until the other side closes. So a stream is accepted
//! and closed right here: nobody in the guest waits for another process of the host.

use std::time::Instant;

use crate::{
    NOTIFY_BURST, NOTIFY_RATE, NOTIFY_TEXT,
    credit::OurRoom,
    packet::{NO_SEND, NOTHING, Op},
    table::Key,
};

/// One such stream.
#[derive(Debug)]
pub(crate) struct NotifyStream {
    pub(crate) key: Key,
    pub(crate) own: OurRoom,
    pub(crate) deadline: Instant,
    text: Vec<u8>,
    accept: bool,
    complete: bool,
}

impl NotifyStream {
    pub(crate) fn new(key: Key, deadline: Instant) -> Self {
        Self {
            key,
            own: OurRoom::default(),
            deadline,
            text: Vec::new(),
            accept: true,
            complete: false,
        }
    }

    /// Takes bytes; `false` if the guest may not have sent them. What is too much is dropped.
    #[must_use]
    pub(crate) fn receive(&mut self, data: &[u8]) -> bool {
        if !self.own.receive(data.len()) {
            return false;
        }
        self.own.take(data.len());
        let room = NOTIFY_TEXT - self.text.len();
        self.text.extend_from_slice(&data[..data.len().min(room)]);
        self.complete |= self.text.len() == NOTIFY_TEXT;
        true
    }

    /// The guest sends, or takes, no more.
    pub(crate) fn shutdown(&mut self, flags: u32) {
        self.complete |= flags & NO_SEND != 0;
    }

    /// The text, once, when all of it is there.
    pub(crate) fn take_text(&mut self) -> Option<Vec<u8>> {
        let complete = self.complete && !self.text.is_empty();
        complete.then(|| std::mem::take(&mut self.text))
    }

    pub(crate) fn has_packet(&self) -> bool {
        self.accept || self.complete
    }

    /// The next packet, with its flags. With [`Op::Shutdown`] the stream is over.
    pub(crate) fn next_packet(&mut self) -> Option<(Op, u32)> {
        match (std::mem::take(&mut self.accept), self.complete) {
            (true, _) => Some((Op::Response, 0)),
            (false, true) => Some((Op::Shutdown, NOTHING)),
            (false, false) => None,
        }
    }
}

/// Keeps a guest that tells without end from occupying whoever listens: [`NOTIFY_BURST`] at once, and then
/// [`NOTIFY_RATE`] a second.
#[derive(Debug)]
pub(crate) struct Bucket {
    tokens: u32,
    since: Instant,
}

impl Bucket {
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            tokens: NOTIFY_BURST,
            since: now,
        }
    }

    /// Takes one, if there is one.
    pub(crate) fn take(&mut self, now: Instant) -> bool {
        let passed = now.saturating_duration_since(self.since).as_millis();
        let new = passed * u128::from(NOTIFY_RATE) / 1000;
        if new > 0 {
            // What is left of the last one's time is lost, which is less than it takes.
            self.since = now;
            let new = u32::try_from(new).unwrap_or(NOTIFY_BURST);
            self.tokens = NOTIFY_BURST.min(self.tokens.saturating_add(new));
        }
        let left = self.tokens.checked_sub(1);
        self.tokens = left.unwrap_or(0);
        left.is_some()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_burst_and_then_so_many_a_second() {
        let start = Instant::now();
        let mut bucket = Bucket::new(start);
        let mut taken = |now| (0..1000).filter(|_| bucket.take(now)).count();
        assert_eq!(taken(start), NOTIFY_BURST as usize);
        let second = start + Duration::from_secs(1);
        assert_eq!(taken(second), NOTIFY_RATE as usize);
        assert_eq!(
            taken(second + Duration::from_millis(50)),
            NOTIFY_RATE as usize / 20
        );
        assert_eq!(taken(start), 0, "a clock that goes back gives nothing");
        let hour = start + Duration::from_secs(3600);
        assert_eq!(taken(hour), NOTIFY_BURST as usize);
    }

    #[test]
    fn a_text_is_handed_over_once_and_cut() {
        let key = Key { host: 1, guest: 2 };
        let mut stream = NotifyStream::new(key, Instant::now());
        assert!(stream.receive(b"READY=1\n"));
        assert_eq!(stream.take_text(), None);
        assert_eq!(stream.next_packet(), Some((Op::Response, 0)));
        assert_eq!(stream.next_packet(), None);
        stream.shutdown(NO_SEND);
        assert_eq!(stream.take_text().as_deref(), Some(&b"READY=1\n"[..]));
        assert_eq!(stream.take_text(), None);
        assert_eq!(stream.next_packet(), Some((Op::Shutdown, NOTHING)));

        let mut stream = NotifyStream::new(key, Instant::now());
        assert!(stream.receive(&[b'x'; NOTIFY_TEXT + 1]));
        assert_eq!(stream.take_text().map(|text| text.len()), Some(NOTIFY_TEXT));
    }
}
