//! The balloon (virtio 1.3, 5.5): how memory that the guest does not use goes back to the host.
//!
//! There are two ways. The guest *reports* what is free, by itself and in large pieces, and takes it again by touching
//! it. And the host asks it to *inflate* a balloon: to set memory aside until it is told otherwise.
//!
//! * [`control`]: what the rest of the VMM asks of the device, and is told
//! * [`statistics`]: what the guest says of its memory, when it is asked
//! * `fields`: the configuration space
//! * `pages`: the pages that a request names, in ranges
//! * `discard`: giving a range of guest memory back
//! * `worker`: the thread that does it

pub mod control;
mod discard;
mod fields;
mod pages;
pub mod statistics;
#[cfg(test)]
mod tests;
mod worker;

use std::{io, sync::Arc};

use virtio_bindings::virtio_ring::VIRTIO_RING_F_EVENT_IDX;

use super::{Activation, ConfigSpace, DeviceType, VirtioDevice, Worker};

pub use control::{BalloonControl, BalloonState};
pub use statistics::{Statistic, Statistics};

/// Bytes of a page as this device counts them, whatever the guest's are (5.5.6).
pub const PAGE: u64 = 4096;

/// Feature bits (5.5.3). VIRTIO_BALLOON_F_MUST_TELL_HOST is not offered: a page comes back by being touched.
mod feature {
    pub const STATS_VQ: u64 = 1 << 1;
    pub const DEFLATE_ON_OOM: u64 = 1 << 2;
    pub const PAGE_POISON: u64 = 1 << 4;
    pub const PAGE_REPORTING: u64 = 1 << 5;
}

/// Linux reports up to 32 ranges at once and wants room for them in whichever queue it takes for that (see
/// [`Role::of`]); of the first two it uses one descriptor at a time.
const QUEUE_SIZES: [u16; 5] = [16, 16, 64, 64, 64];

/// What a queue is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    /// Pages that the guest sets aside.
    Inflate,
    /// Pages that it takes back.
    Deflate,
    /// Statistics.
    Statistics,
    /// Ranges that are free.
    Reporting,
}

impl Role {
    /// The role of the queue with this number, for a driver that has accepted `features`; None if it has none.
    ///
    /// The standard numbers the reporting queue 4 (5.5.2). Linux' PCI driver leaves out the numbers of queues that a device
    /// does not offer, so it is 3 there, or 2 without statistics, as it is in QEMU. Free page hints, whose queue would be 3,
    /// are not offered; so both are understood.
    fn of(index: u16, features: u64) -> Option<Self> {
        let has = |feature| features & feature != 0;
        match index {
            0 => Some(Self::Inflate),
            1 => Some(Self::Deflate),
            2 if has(feature::STATS_VQ) => Some(Self::Statistics),
            2..=4 if has(feature::PAGE_REPORTING) => Some(Self::Reporting),
            _ => None,
        }
    }
}

/// What a balloon is like.
#[derive(Clone, Copy, Debug)]
pub struct BalloonOptions {
    /// Bytes of the guest's memory: more cannot be in the balloon.
    pub memory: u64,
    /// Bytes that the guest is asked for at first.
    pub size: u64,
    /// Lets the guest take pages back from the balloon when it has no others.
    pub deflate_on_oom: bool,
    /// Lets the guest report what is free.
    pub free_page_reporting: bool,
    /// Lets the guest be asked for statistics.
    pub statistics: bool,
}

/// The balloon device.
pub struct Balloon {
    features: u64,
    control: BalloonControl,
}

impl Balloon {
    /// A balloon with nothing in it.
    pub fn new(options: BalloonOptions) -> io::Result<Self> {
        let features = [
            (options.deflate_on_oom, feature::DEFLATE_ON_OOM),
            (options.statistics, feature::STATS_VQ),
            // A guest that fills free memory with a value (init_on_free, page_poisoning) reports nothing unless it can say
            // with what (5.5.3.1).
            (
                options.free_page_reporting,
                feature::PAGE_REPORTING | feature::PAGE_POISON,
            ),
        ];
        let offered = features.iter().filter(|(wanted, _)| *wanted);
        Ok(Self {
            features: offered.fold(0, |all, (_, feature)| all | feature),
            control: BalloonControl::new(options.memory, options.size)?,
        })
    }

    /// What others ask of it, and are told.
    pub fn control(&self) -> BalloonControl {
        self.control.clone()
    }
}

impl VirtioDevice for Balloon {
    fn device_type(&self) -> DeviceType {
        DeviceType::Balloon
    }

    fn features(&self) -> u64 {
        self.features | 1 << VIRTIO_RING_F_EVENT_IDX
    }

    fn queue_sizes(&self) -> &[u16] {
        &QUEUE_SIZES
    }

    fn config(&self) -> Arc<dyn ConfigSpace> {
        self.control.fields()
    }

    fn activate(self: Box<Self>, activation: Activation) -> io::Result<Worker> {
        let name = activation.interrupt.name().to_owned();
        let handler = worker::BalloonWorker::new(*self, activation)?;
        Worker::spawn(&name, Box::new(handler))
    }
}
