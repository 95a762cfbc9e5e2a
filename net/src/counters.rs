//! What has gone through a card.

use std::sync::atomic::{AtomicU64, Ordering};

/// What has gone through a card since it was made. Frames are dropped silently, as on a wire: here is
/// where they are seen.
#[derive(Debug, Default)]
pub struct Counters {
    rx_frames: AtomicU64,
    rx_dropped: AtomicU64,
    tx_frames: AtomicU64,
    tx_dropped: AtomicU64,
}

/// [`Counters`] at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Frames that the guest received; one that is to be segmented counts as one.
    pub rx_frames: u64,
    /// Frames from the host that were larger than the guest's buffers, or unfinished in a way that it does not know.
    pub rx_dropped: u64,
    /// Frames that the guest sent; one that is to be segmented counts as one.
    pub tx_frames: u64,
    /// Frames of the guest that were malformed or that the tap did not take.
    pub tx_dropped: u64,
}

impl Counters {
    /// The numbers now.
    pub fn read(&self) -> Counts {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Counts {
            rx_frames: read(&self.rx_frames),
            rx_dropped: read(&self.rx_dropped),
            tx_frames: read(&self.tx_frames),
            tx_dropped: read(&self.tx_dropped),
        }
    }

    pub(crate) fn received(&self) {
        self.rx_frames.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn rx_dropped(&self) {
        self.rx_dropped.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn sent(&self) {
        self.tx_frames.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn tx_dropped(&self) {
        self.tx_dropped.fetch_add(1, Ordering::Relaxed);
    }
}
