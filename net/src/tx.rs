//! From the guest to the tap: a transmit queue (virtio 1.3, 5.1.6.2).

use std::{fs::File, io};

use minivmm_devices::{
    GuestMemory,
    virtio::{
        ActiveQueue,
        queue::{BrokenRing, Chain},
    },
};
use vm_memory::VolatileSlice;

use crate::{
    FRAME_MAX, FRAME_MIN, HEADER, counters::Counters, features::Features, header::Header,
    pair::BUDGET, vectored::Vectors,
};

/// The sending half of a pair.
pub(crate) struct Sender {
    pub(crate) queue: ActiveQueue,
    features: Features,
    chain: Chain,
    vectors: Vectors,
}

impl Sender {
    pub(crate) fn new(queue: ActiveQueue, features: Features) -> Self {
        Self {
            queue,
            features,
            chain: Chain::new(),
            vectors: Vectors::default(),
        }
    }

    /// Moves frames until there are none or as many as a turn has, then interrupts once. A tap that does
    /// not work any more is given as an error beside; the frames for it are dropped.
    ///
    /// A frame that the tap does not take at once is dropped, as by a card whose link is saturated. A tap
    /// hardly ever does that: its sending buffer has no limit, and what it hands on is queued or dropped
    /// by the host's network stack.
    pub(crate) fn turn(
        &mut self,
        tap: Option<&File>,
        memory: &GuestMemory,
        counters: &Counters,
    ) -> Result<Option<io::Error>, BrokenRing> {
        let gone = self.send(tap, memory, counters)?;
        let queue = &mut self.queue.queue;
        if queue.needs_interrupt(memory)? {
            self.queue.interrupt.signal();
        }
        Ok(gone)
    }

    fn send(
        &mut self,
        mut tap: Option<&File>,
        memory: &GuestMemory,
        counters: &Counters,
    ) -> Result<Option<io::Error>, BrokenRing> {
        let Self {
            queue: ActiveQueue { queue, notify, .. },
            features,
            chain,
            vectors,
        } = self;
        let mut gone = None;
        queue.disable_notification(memory)?;
        for _ in 0..BUDGET {
            if !queue.pop(memory, chain)? {
                if queue.enable_notification(memory)? {
                    continue;
                }
                return Ok(gone);
            }
            let sent = match (tap, header(chain, memory, *features)) {
                (Some(tap), Some(header)) => {
                    vectors.write(tap, &header.0, after_header(chain.readable_slices(memory)))
                }
                _ => Err(io::ErrorKind::InvalidData.into()),
            };
            match sent {
                Ok(_) => counters.sent(),
                Err(error) => {
                    counters.tx_dropped();
                    if error.raw_os_error() == Some(libc::EBADFD) {
                        tap = None;
                        gone = Some(error);
                    }
                }
            }
            queue.push_used(memory, chain.head(), 0)?;
        }
        // The others' turn, and then ours again: the driver was told not to notify.
        let _ = notify.write(1);
        Ok(gone)
    }
}

/// What goes before the frame in place of the guest's header; None if the frame goes nowhere. The header is read once,
/// so the guest cannot change what was found good.
fn header(chain: &Chain, memory: &GuestMemory, features: Features) -> Option<Header> {
    let len = chain.readable_len().checked_sub(HEADER)?;
    if !(FRAME_MIN..=FRAME_MAX).contains(&len) {
        return None;
    }
    let mut header = Header::default();
    chain.read_at(memory, 0, &mut header.0);
    header.of_guest(len, features)
}

/// Without the first [`HEADER`] bytes, wherever the guest has put the borders between its buffers: a device
/// makes no assumption about them (2.7.4.1).
fn after_header<'a>(
    slices: impl Iterator<Item = VolatileSlice<'a>>,
) -> impl Iterator<Item = VolatileSlice<'a>> {
    let mut header = HEADER;
    slices.filter_map(move |slice| {
        let skipped = header.min(slice.len());
        header -= skipped;
        slice.offset(skipped).ok().filter(|rest| !rest.is_empty())
    })
}
