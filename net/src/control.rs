//! The control queue (virtio 1.3, 5.1.6.5). The one command that there is sets how many pairs are used.

use minivmm_devices::{
    GuestMemory,
    virtio::{
        ActiveQueue,
        queue::{BrokenRing, Chain},
    },
};
use virtio_bindings::virtio_net::{
    VIRTIO_NET_CTRL_MQ, VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET, VIRTIO_NET_ERR, VIRTIO_NET_OK,
};

/// class, command, and what VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET has as its data.
const PAIRS_SET: [u8; 2] = [
    VIRTIO_NET_CTRL_MQ as u8,
    VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET as u8,
];

/// The control queue, with the command that waits for its answer.
pub(crate) struct Control {
    pub(crate) queue: ActiveQueue,
    chain: Chain,
}

/// What a driver asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Command {
    /// To use so many pairs.
    UsePairs(usize),
    /// Something that is not there.
    Unknown,
}

impl Control {
    pub(crate) fn new(queue: ActiveQueue) -> Self {
        Self {
            queue,
            chain: Chain::new(),
        }
    }

    /// Takes the next command, which is to be [answered](Self::answer) before another one is taken. None: the driver
    /// will notify of the next one.
    pub(crate) fn next(&mut self, memory: &GuestMemory) -> Result<Option<Command>, BrokenRing> {
        let queue = &mut self.queue.queue;
        loop {
            if queue.pop(memory, &mut self.chain)? {
                return Ok(Some(self.command(memory)));
            }
            if !queue.enable_notification(memory)? {
                return Ok(None);
            }
        }
    }

    fn command(&self, memory: &GuestMemory) -> Command {
        let mut bytes = [0; 4];
        let len = self.chain.read_at(memory, 0, &mut bytes);
        let [class, command, low, high] = bytes;
        match (len, [class, command]) {
            (4, PAIRS_SET) => Command::UsePairs(u16::from_le_bytes([low, high]).into()),
            _ => Command::Unknown,
        }
    }

    /// Answers the command that was taken last.
    pub(crate) fn answer(&mut self, memory: &GuestMemory, done: bool) -> Result<(), BrokenRing> {
        let ack = if done { VIRTIO_NET_OK } else { VIRTIO_NET_ERR };
        let written = self.chain.write_at(memory, 0, &[ack as u8]);
        let queue = &mut self.queue.queue;
        queue.push_used(memory, self.chain.head(), written as u32)?;
        if queue.needs_interrupt(memory)? {
            self.queue.interrupt.signal();
        }
        Ok(())
    }
}
