//! The block device (virtio 1.3, 5.2): what it offers; what it does is in its worker.

use std::{io, sync::Arc};

use minivmm_devices::virtio::{
    Activation, ConfigSpace, DeviceType, StaticConfig, VirtioDevice, Worker,
};

use crate::{
    QUEUE_SIZE, QUEUES_MAX, SERIAL_MAX,
    active::Active,
    config,
    counters::Counters,
    disk::Disk,
    engine::{Engine, EngineKind},
    image::Image,
};

/// What becomes of a write for which the host has no room.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnEnospc {
    /// It waits, and is tried again each second; the guest goes on meanwhile.
    #[default]
    Pause,
    /// It is answered with an I/O error.
    Error,
}

/// Told whether the host has no room for what the guest writes, on a thread of the disk's. Must not block.
pub type OnFull = Box<dyn Fn(bool) + Send + Sync>;

/// What a disk is like.
pub struct BlockOptions {
    /// Its name in the log.
    pub name: String,
    /// What it says of itself (VIRTIO_BLK_T_GET_ID): at most [`SERIAL_MAX`] bytes, what is beyond is left out.
    pub serial: String,
    /// From 1 to [`QUEUES_MAX`], each with a thread.
    pub queues: u16,
    /// What carries requests out.
    pub engine: EngineKind,
    /// What becomes of a write for which the host has no room.
    pub on_enospc: OnEnospc,
    /// Told when the first write begins to wait for room, and when none does any more.
    pub on_full: Option<OnFull>,
}

/// A disk on an image.
pub struct BlockDevice {
    pub(crate) disk: Arc<Disk>,
    pub(crate) kind: EngineKind,
    /// One for each queue, but for those that are at work.
    pub(crate) engines: Vec<Option<Engine>>,
    features: u64,
    config: StaticConfig,
    queue_sizes: Vec<u16>,
}

impl BlockDevice {
    /// A disk on `image`. Fails if no engine can be made: if [`EngineKind::IoUring`] is wanted and not permitted.
    pub fn new(image: Image, options: BlockOptions) -> io::Result<Self> {
        let queues = options.queues.clamp(1, QUEUES_MAX);
        let mut serial = [0; SERIAL_MAX];
        for (byte, given) in serial.iter_mut().zip(options.serial.bytes()) {
            *byte = given;
        }
        let (features, config) = (
            config::features(&image, queues),
            config::space(&image, queues),
        );
        let disk = Disk::new(
            options.name,
            image,
            serial,
            (options.on_enospc, options.on_full),
        );
        // Here and not when a driver comes: later it may be forbidden.
        let engine = |_| Engine::new(options.engine, &disk.file, QUEUE_SIZE).map(Some);
        let engines = (0..queues).map(engine).collect::<io::Result<Vec<_>>>()?;
        let by_threads = matches!(engines.first(), Some(Some(Engine::Threads(_))));
        if by_threads && options.engine == EngineKind::Auto {
            tracing::info!(
                volume = disk.name,
                "the kernel permits no io_uring here: threads read and write"
            );
        }
        Ok(Self {
            disk: Arc::new(disk),
            kind: options.engine,
            engines,
            features,
            config: StaticConfig(config),
            queue_sizes: vec![QUEUE_SIZE; queues.into()],
        })
    }

    /// What goes through it, to be read while it works.
    pub fn counters(&self) -> Arc<Counters> {
        self.disk.counters.clone()
    }

    /// The engine of a queue: the one that is there, or a new one if that was lost.
    pub(crate) fn engine(&mut self, queue: usize) -> io::Result<Engine> {
        match self.engines.get_mut(queue).and_then(Option::take) {
            Some(engine) => Ok(engine),
            None => Engine::new(self.kind, &self.disk.file, QUEUE_SIZE),
        }
    }
}

impl VirtioDevice for BlockDevice {
    fn device_type(&self) -> DeviceType {
        DeviceType::Block
    }

    fn features(&self) -> u64 {
        self.features
    }

    fn queue_sizes(&self) -> &[u16] {
        &self.queue_sizes
    }

    fn config(&self) -> Arc<dyn ConfigSpace> {
        Arc::new(self.config.clone())
    }

    fn activate(self: Box<Self>, activation: Activation) -> io::Result<Worker> {
        let name = format!("blk-{}", activation.interrupt.name());
        let active = Active::new(*self, activation)?;
        Worker::spawn(&name, Box::new(active))
    }
}
