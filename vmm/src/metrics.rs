//! What a VM has done so far, in numbers.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use minivmm_devices::{
    GuestMemory,
    console::ConsoleSink,
    virtio::{DeviceType, balloon::BalloonControl, pci::VirtioPci, queue::QueueCounts},
};
use minivmm_net::{Counters, counters::Counts};
use serde::{Deserialize, Serialize};

use crate::{balloon::BalloonReport, memory};

/// Why a vCPU left the guest for the VMM; what KVM does by itself is not among them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// The guest read a port.
    IoIn,
    /// The guest wrote to a port.
    IoOut,
    /// The guest read what is no memory.
    MmioRead,
    /// The guest wrote to what is no memory.
    MmioWrite,
    /// Somebody wanted the vCPU's thread, or a signal came.
    Interrupted,
    /// Everything else: the ends.
    Other,
}

impl Exit {
    /// All of them, as [`Metrics::exits`] has them.
    pub const ALL: [Self; 6] = [
        Self::IoIn,
        Self::IoOut,
        Self::MmioRead,
        Self::MmioWrite,
        Self::Interrupted,
        Self::Other,
    ];

    /// Its name in a label.
    pub fn name(self) -> &'static str {
        match self {
            Self::IoIn => "io_in",
            Self::IoOut => "io_out",
            Self::MmioRead => "mmio_read",
            Self::MmioWrite => "mmio_write",
            Self::Interrupted => "interrupted",
            Self::Other => "other",
        }
    }
}

/// The exits of one vCPU: written by its thread alone, in cache lines that no other one writes to.
#[derive(Debug, Default)]
#[repr(align(64))]
pub struct ExitCounters([AtomicU64; Exit::ALL.len()]);

impl ExitCounters {
    /// One more.
    pub fn count(&self, exit: Exit) {
        let counter = &self.0[exit as usize];
        // There is one writer, so nothing is lost between the two, and no bus is locked.
        counter.store(counter.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
    }

    fn read(&self) -> [u64; Exit::ALL.len()] {
        self.0.each_ref().map(|n| n.load(Ordering::Relaxed))
    }
}

/// Where it is counted what a VM's devices do.
pub struct Sources {
    memory: Arc<GuestMemory>,
    devices: Vec<Arc<VirtioPci>>,
    cards: Vec<(String, Arc<Counters>)>,
    balloon: Option<BalloonControl>,
    disks: Vec<(String, Arc<minivmm_block::Counters>)>,
}

impl Sources {
    /// The guest's memory alone.
    pub(crate) fn new(memory: Arc<GuestMemory>) -> Self {
        Self {
            memory,
            devices: Vec::new(),
            cards: Vec::new(),
            balloon: None,
            disks: Vec::new(),
        }
    }

    /// One more device.
    pub(crate) fn device(&mut self, device: &Arc<VirtioPci>) {
        self.devices.push(device.clone());
    }

    /// One more network card, which is one of the devices.
    pub(crate) fn card(&mut self, name: &str, counters: Arc<Counters>) {
        self.cards.push((name.to_owned(), counters));
    }

    /// The balloon, which is one of the devices.
    pub(crate) fn balloon(&mut self, control: BalloonControl) {
        self.balloon = Some(control);
    }

    /// Wants so many bytes in the balloon, if there is one.
    pub(crate) fn set_balloon(&self, bytes: u64) {
        if let Some(balloon) = &self.balloon {
            balloon.set_target(bytes);
        }
    }

    /// What is known of the balloon, if there is one. Nobody is asked.
    pub(crate) fn balloon_report(&self) -> Option<BalloonReport> {
        let balloon = self.balloon.as_ref()?;
        let resident = memory::allocated(&self.memory);
        Some(BalloonReport::new(balloon.state(), resident))
    }

    /// Asks the guest how much memory it uses, and tells what is known of the balloon when it has answered, or after a
    /// second. Nothing is known where there is no balloon.
    pub(crate) fn ask_balloon(&self, told: impl FnOnce(Option<BalloonReport>) + Send + 'static) {
        let Some(balloon) = &self.balloon else {
            return told(None);
        };
        let memory = self.memory.clone();
        balloon.ask(Box::new(move |state| {
            let resident = memory::allocated(&memory);
            told(Some(BalloonReport::new(state, resident)));
        }));
    }

    /// One more disk, which is one of the devices.
    pub(crate) fn disk(&mut self, name: &str, counters: Arc<minivmm_block::Counters>) {
        self.disks.push((name.to_owned(), counters));
    }

    /// What they have counted, with the vCPUs' exits and the console's bytes.
    pub(crate) fn read(&self, exits: &[ExitCounters], console: &ConsoleSink) -> Metrics {
        let mut metrics = Metrics {
            console_bytes: console.written(),
            console_dropped_bytes: console.dropped(),
            memory_bytes: memory::allocated(&self.memory),
            balloon: self.balloon_report(),
            ..Metrics::of_exits(exits)
        };
        if let Some(balloon) = &self.balloon {
            // For the next one who wants to know: the answer is not waited for.
            balloon.ask(Box::new(|_| ()));
        }
        let served_here = |device: &&Arc<VirtioPci>| device.kind() != DeviceType::FileSystem;
        for device in self.devices.iter().filter(served_here) {
            metrics.add_queues(device.name(), device.counts());
        }
        for (name, counters) in &self.cards {
            metrics.add_card(name, counters.read());
        }
        for (name, counters) in &self.disks {
            metrics.add_disk(name, counters.read());
        }
        metrics
    }
}

/// What a VM has done since it was started. Every list is bounded by what the configuration may have.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Metrics {
    /// For each vCPU how often it left the guest, by [`Exit::ALL`].
    pub exits: Vec<[u64; Exit::ALL.len()]>,
    /// The queues that the VMM itself serves: those of shares are virtiofsd's.
    pub queues: Vec<Queue>,
    /// The network cards.
    pub cards: Vec<Card>,
    /// The disks.
    #[serde(default)]
    pub disks: Vec<Disk>,
    /// Bytes that the guest has written to its console.
    pub console_bytes: u64,
    /// Those of them that nobody took in time.
    pub console_dropped_bytes: u64,
    /// Bytes of the guest's memory that it has touched, whoever maps them; of private memory the VMM does not know.
    pub memory_bytes: Option<u64>,
    /// The balloon, if there is one. Its statistics are those that came when they were asked for last.
    pub balloon: Option<BalloonReport>,
}

/// A virtqueue.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Queue {
    /// The device, by its name in the configuration.
    pub device: String,
    /// Its number.
    pub queue: u16,
    /// Chains of buffers that were given back to the driver.
    pub requests: u64,
    /// Bytes for the device, headers included.
    pub read_bytes: u64,
    /// Bytes that the device wrote, headers included.
    pub written_bytes: u64,
    /// Notifications that came.
    pub notifications: u64,
    /// Interrupts that the driver wanted.
    pub interrupts: u64,
}

/// A network card.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Card {
    /// Its `id` in the configuration.
    pub device: String,
    /// Frames that the guest received.
    pub received: u64,
    /// Frames that the guest sent.
    pub sent: u64,
    /// Frames for the guest that were dropped.
    pub receive_dropped: u64,
    /// Frames of the guest that were dropped.
    pub send_dropped: u64,
}

/// A disk. A request counts when it is answered.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Disk {
    /// What the guest calls it, as `vda`.
    pub device: String,
    /// Reads.
    pub reads: u64,
    /// Their bytes.
    pub read_bytes: u64,
    /// Writes.
    pub writes: u64,
    /// Their bytes.
    pub written_bytes: u64,
    /// Flushes.
    pub flushes: u64,
    /// Discards and writes of zeros.
    pub discards: u64,
    /// Requests that were answered with an error.
    pub errors: u64,
    /// Requests that wait now because the host has no room.
    pub waiting: u64,
}

impl Metrics {
    /// Of vCPUs alone.
    pub(crate) fn of_exits(counters: &[ExitCounters]) -> Self {
        Self {
            exits: counters.iter().map(ExitCounters::read).collect(),
            ..Self::default()
        }
    }

    pub(crate) fn add_queues(&mut self, device: &str, counts: Vec<QueueCounts>) {
        let queues = (0..).zip(counts).map(|(queue, counts)| Queue {
            device: device.to_owned(),
            queue,
            requests: counts.requests,
            read_bytes: counts.read_bytes,
            written_bytes: counts.written_bytes,
            notifications: counts.notifications,
            interrupts: counts.interrupts,
        });
        self.queues.extend(queues);
    }

    pub(crate) fn add_disk(&mut self, device: &str, counts: minivmm_block::Counts) {
        self.disks.push(Disk {
            device: device.to_owned(),
            reads: counts.reads,
            read_bytes: counts.read_bytes,
            writes: counts.writes,
            written_bytes: counts.written_bytes,
            flushes: counts.flushes,
            discards: counts.discards,
            errors: counts.errors,
            waiting: counts.waiting,
        });
    }

    pub(crate) fn add_card(&mut self, device: &str, counts: Counts) {
        self.cards.push(Card {
            device: device.to_owned(),
            received: counts.rx_frames,
            sent: counts.tx_frames,
            receive_dropped: counts.rx_dropped,
            send_dropped: counts.tx_dropped,
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exits_are_counted_by_kind_and_vcpu() {
        let counters: [ExitCounters; 2] = Default::default();
        for exit in Exit::ALL {
            for _ in 0..=exit as usize {
                counters[1].count(exit);
            }
        }
        let metrics = Metrics::of_exits(&counters);
        assert_eq!(metrics.exits, [[0; 6], [1, 2, 3, 4, 5, 6]]);
        let mut names = Exit::ALL.map(Exit::name).to_vec();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), Exit::ALL.len());
    }
}
