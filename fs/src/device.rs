//! The virtio-fs device (virtio 1.3, 5.11): its constants are ours, its queues are virtiofsd's.

use std::{io, os::unix::net::UnixStream, sync::Arc};

use event_manager::{EventOps, EventSet, Events};
use minivmm_devices::virtio::{
    Activation, ConfigSpace, DeviceType, Handler, StaticConfig, VirtioDevice, Worker,
};

use crate::{
    backend::{Backend, Error},
    tag::Tag,
};

/// The high priority queue and one request queue (5.11.2): virtiofsd serves no more.
const QUEUE_SIZES: [u16; 2] = [1024, 1024];
/// How many of them are request queues, for the configuration space.
const REQUEST_QUEUES: u32 = 1;

/// Token of the back end's connection.
const CONNECTION: u32 = 0;

/// Why there is no device for a share.
#[derive(Debug, thiserror::Error)]
#[error("share `{tag}`: {source}")]
pub struct ConnectError {
    /// The share.
    pub tag: Tag,
    /// What happened.
    pub source: Error,
}

/// What to do when the back end is lost; it only tells somebody.
pub type OnLost = Box<dyn Fn() + Send>;

/// A virtio-fs device whose back end is connected.
///
/// It never touches the guest's requests. What it does is on its worker thread: it hands the queues over
/// when the driver is ready, takes them back at a reset, and watches the connection between the two.
pub struct FsDevice {
    tag: Tag,
    config: Arc<StaticConfig>,
    backend: Backend,
    lost: bool,
    on_lost: OnLost,
}

impl FsDevice {
    /// Makes the device of a connection to virtiofsd and agrees with it on the protocol, which takes at
    /// most [`DEADLINE`](crate::backend::DEADLINE), so it belongs before the guest runs.
    ///
    /// `on_lost` is called once, on the device's thread, when the back end ends, misbehaves or falls silent while the device
    /// is active: the guest cannot go on without its file system, and its owner decides what then.
    pub fn connect(socket: UnixStream, tag: &Tag, on_lost: OnLost) -> Result<Self, ConnectError> {
        let backend =
            Backend::connect(socket, QUEUE_SIZES.len() as u64).map_err(|source| ConnectError {
                tag: tag.clone(),
                source,
            })?;
        let mut config = tag.padded().to_vec();
        config.extend(REQUEST_QUEUES.to_le_bytes());
        Ok(Self {
            tag: tag.clone(),
            config: Arc::new(StaticConfig(config)),
            backend,
            lost: false,
            on_lost,
        })
    }

    /// Says that the back end is gone, once.
    fn lose(&mut self, why: &Error) {
        if self.lost {
            return;
        }
        self.lost = true;
        tracing::error!(share = %self.tag, "{why}: the share is lost");
        (self.on_lost)();
    }
}

impl VirtioDevice for FsDevice {
    fn device_type(&self) -> DeviceType {
        DeviceType::FileSystem
    }

    fn features(&self) -> u64 {
        self.backend.ring_features()
    }

    fn queue_sizes(&self) -> &[u16] {
        &QUEUE_SIZES
    }

    fn config(&self) -> Arc<dyn ConfigSpace> {
        self.config.clone()
    }

    fn activate(self: Box<Self>, activation: Activation) -> io::Result<Worker> {
        let name = format!("fs-{}", self.tag);
        Worker::spawn(
            &name,
            Box::new(Active {
                device: *self,
                activation,
            }),
        )
    }
}

/// The device while its driver uses it.
struct Active {
    device: FsDevice,
    activation: Activation,
}

impl Active {
    fn begin(&mut self, ops: &mut EventOps) -> Result<(), Error> {
        let Activation {
            memory,
            features,
            queues,
            ..
        } = &self.activation;
        self.device.backend.start(memory, *features, queues)?;
        ops.add(self.connection()).map_err(|error| Error::Local {
            what: "watch the connection",
            source: io::Error::other(error),
        })
    }

    fn connection(&self) -> Events {
        Events::with_data(
            self.device.backend.socket(),
            CONNECTION,
            EventSet::IN | EventSet::READ_HANG_UP,
        )
    }

    fn lose(&mut self, why: &Error) {
        self.device.lose(why);
        self.activation
            .interrupt
            .needs_reset(&"its virtiofsd is lost");
    }
}

impl Handler for Active {
    fn start(&mut self, ops: &mut EventOps) {
        let begun = if self.device.lost {
            Err(Error::Closed)
        } else {
            self.begin(ops)
        };
        if let Err(error) = begun {
            self.lose(&error);
        }
    }

    fn process(&mut self, _events: Events, ops: &mut EventOps) {
        let why = self.device.backend.hung_up();
        if let Err(error) = ops.remove(self.connection()) {
            tracing::warn!(share = %self.device.tag, %error, "cannot stop watching a lost virtiofsd");
        }
        self.lose(&why);
    }

    fn stop(mut self: Box<Self>) -> Box<dyn VirtioDevice> {
        if !self.device.lost
            && let Err(error) = self.device.backend.stop(&self.activation.queues)
        {
            self.device.lose(&error);
        }
        Box::new(self.device)
    }
}
