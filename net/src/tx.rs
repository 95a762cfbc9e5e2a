//! From the guest to the tap: transmitq1 (virtio 1.3, 5.1.6.2).

use std::{io, ops::RangeInclusive};

use minivmm_devices::{
    GuestMemory,
    virtio::{
        ActiveQueue,
        queue::{BrokenRing, Chain},
    },
};
use vm_memory::VolatileSlice;

use crate::{
    HEADER,
    device::{BUDGET, Counters},
    tap::Tap,
    vectored::Vectors,
};

/// Bytes of a frame with its header: from an empty Ethernet frame to the largest IP packet
/// (5.1.6.3.1 counts 65562 too).
const FRAME: RangeInclusive<usize> = HEADER + 14..=HEADER + 65550;

/// What the kernel gets instead of the guest's header: without negotiated offloads every field is zero
/// (5.1.6.2.1), and a guest that writes something else is not to reach the kernel's segmentation.
const PLAIN: [u8; HEADER] = [0; HEADER];

/// The sending half of the worker.
pub(crate) struct Sender {
    pub(crate) queue: ActiveQueue,
    chain: Chain,
    vectors: Vectors,
}

impl Sender {
    pub(crate) fn new(queue: ActiveQueue) -> Self {
        Self {
            queue,
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
        tap: Option<&Tap>,
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
        mut tap: Option<&Tap>,
        memory: &GuestMemory,
        counters: &Counters,
    ) -> Result<Option<io::Error>, BrokenRing> {
        let Self {
            queue: ActiveQueue { queue, notify, .. },
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
            let sent = match tap {
                Some(tap) if FRAME.contains(&chain.readable_len()) => {
                    let frame = after_header(chain.readable_slices(memory));
                    vectors.write(tap.file(), &PLAIN, frame)
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
