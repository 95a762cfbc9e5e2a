//! How many bytes each side of a connection may send (virtio 1.3, 5.10.6.3). All counts are modulo 2³².

use crate::{BUFFER, packet::Header};

/// What the guest has room for.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct GuestRoom {
    buf_alloc: u32,
    fwd_cnt: u32,
    sent: u32,
}

impl GuestRoom {
    /// What every packet of the guest says.
    pub(crate) fn update(&mut self, header: &Header) {
        self.buf_alloc = header.buf_alloc;
        self.fwd_cnt = header.fwd_cnt;
    }

    /// Bytes that may be sent now. A guest that claims to have taken more than it was sent has no room.
    pub(crate) fn left(&self) -> usize {
        let in_flight = self.sent.wrapping_sub(self.fwd_cnt);
        self.buf_alloc.saturating_sub(in_flight) as usize
    }

    /// So many were sent.
    pub(crate) fn sent(&mut self, bytes: usize) {
        self.sent = self.sent.wrapping_add(bytes as u32);
    }
}

/// What the guest may send.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct OurRoom {
    received: u32,
    taken: u32,
    /// `taken`, as the guest was told last.
    told: u32,
}

impl OurRoom {
    /// So many bytes have come; `false` if the guest may not have sent them.
    #[must_use]
    pub(crate) fn receive(&mut self, bytes: usize) -> bool {
        let kept = self.received.wrapping_sub(self.taken) as usize;
        if kept + bytes > BUFFER as usize {
            return false;
        }
        self.received = self.received.wrapping_add(bytes as u32);
        true
    }

    /// So many of them are not kept any more.
    pub(crate) fn take(&mut self, bytes: usize) {
        self.taken = self.taken.wrapping_add(bytes as u32);
    }

    /// Puts our room into a header, by which the guest is told.
    pub(crate) fn tell(&mut self, header: &mut Header) {
        header.buf_alloc = BUFFER;
        header.fwd_cnt = self.taken;
        self.told = self.taken;
    }

    /// The guest believes that less than half of the room is left, and there is more.
    pub(crate) fn is_worth_telling(&self) -> bool {
        let left = BUFFER.saturating_sub(self.received.wrapping_sub(self.told));
        self.told != self.taken && left < BUFFER / 2
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A guest that does as it should, with buffers of `alloc` bytes; all counts begin at `start`.
    struct Guest {
        alloc: u32,
        received: u32,
        taken: u32,
    }

    proptest! {
        /// However the counts wrap, and whatever is told when: the guest never gets more than it has room for.
        #[test]
        fn no_more_is_sent_than_the_guest_has_room_for(
            start: u32,
            alloc in 1..0x10_0000_u32,
            steps in proptest::collection::vec((any::<u32>(), any::<u32>(), any::<bool>()), 1..100),
        ) {
            let mut room = GuestRoom { buf_alloc: alloc, fwd_cnt: start, sent: start };
            let mut guest = Guest { alloc, received: start, taken: start };
            for (send, take, tell) in steps {
                let send = (send as usize).min(room.left());
                room.sent(send);
                guest.received = guest.received.wrapping_add(send as u32);
                let kept = guest.received.wrapping_sub(guest.taken);
                prop_assert!(kept <= guest.alloc, "{kept} bytes are kept");
                guest.taken = guest.taken.wrapping_add(take % (kept + 1));
                if tell {
                    room.update(&Header { buf_alloc: alloc, fwd_cnt: guest.taken, ..Header::default() });
                    prop_assert_eq!(room.left() as u32, alloc - guest.received.wrapping_sub(guest.taken));
                }
            }
        }

        /// A guest that sends what it was told to have room for is never refused, and never waits for ever.
        #[test]
        fn a_guest_that_keeps_to_its_credit_goes_on(
            start: u32,
            steps in proptest::collection::vec((any::<u32>(), any::<u32>()), 1..200),
        ) {
            let mut room = OurRoom { received: start, taken: start, told: start };
            let (mut sent, mut told) = (start, start);
            for (send, take) in steps {
                let left = BUFFER - sent.wrapping_sub(told);
                let send = send % (left + 1);
                prop_assert!(room.receive(send as usize));
                sent = sent.wrapping_add(send);
                let kept = room.received.wrapping_sub(room.taken);
                room.take((take % (kept + 1)) as usize);
                if room.is_worth_telling() {
                    let mut header = Header::default();
                    room.tell(&mut header);
                    prop_assert_eq!(header.buf_alloc, BUFFER);
                    told = header.fwd_cnt;
                    prop_assert!(!room.is_worth_telling());
                }
                // What was taken while the guest has no room is told.
                let empty = BUFFER == sent.wrapping_sub(told);
                prop_assert!(!empty || room.taken == told);
            }
        }
    }

    #[test]
    fn a_guest_that_sends_beyond_its_credit_is_found_out() {
        let mut room = OurRoom::default();
        assert!(room.receive(BUFFER as usize));
        assert!(!room.receive(1));
        room.take(10);
        assert!(room.receive(10));
        assert!(!room.receive(1));
    }

    #[test]
    fn a_guest_that_has_taken_what_nobody_sent_gets_nothing() {
        let mut room = GuestRoom::default();
        let header = |buf_alloc, fwd_cnt| Header {
            buf_alloc,
            fwd_cnt,
            ..Header::default()
        };
        room.update(&header(1000, 1));
        assert_eq!(room.left(), 0);
        room.update(&header(1000, 0));
        room.sent(400);
        assert_eq!(room.left(), 600);
        // A buffer that was made smaller than what is under way.
        room.update(&header(300, 0));
        assert_eq!(room.left(), 0);
    }
}
