//! The virtio-fs device (virtio 1.3, 5.11): its constants are ours, its queues are virtiofsd's.

use std::{io, os::unix::net::UnixStream, sync::Arc};

use event_manager::{EventOps, EventSet, Events};
use minivmm_devices::virtio::{
    Activation, ConfigSpace, DeviceType, Handler, StaticConfig, VirtioDevice, Worker,
};

use crate::{
    backend::{Backend, Error},
    tag::Tag,
    watch::{Look, Watch},
};

/// The high priority queue and one request queue (5.11.2): virtiofsd serves no more.
const QUEUE_SIZES: [u16; 2] = [1024, 1024];
/// How many of them are request queues, for the configuration space.
const REQUEST_QUEUES: u32 = 1;

/// Token of the back end's connection; those of [`Watch`] follow.
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
/// when the driver is ready, takes them back at a reset, and in between watches the connection and whether
/// requests are worked on at all.
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
    /// `on_lost` is called once, on the device's thread, when the back end ends, misbehaves or falls silent
    /// while the device is active; the device needs a reset then, and nobody serves it any more. What else
    /// follows is for whoever owns the VM to decide.
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
                watch: Watch::new()?,
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
    watch: Watch,
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
        ops.add(self.connection())
            .and_then(|()| self.watch.begin(queues, ops))
            .map_err(|error| Error::Local {
                what: "watch the connection",
                source: io::Error::other(error),
            })
    }

    /// Asks a back end that has got nowhere whether it is still there: a long request of the guest's does
    /// not keep it from answering.
    fn look(&mut self, ops: &mut EventOps) -> Result<(), Error> {
        let Activation { memory, queues, .. } = &self.activation;
        let look = self.watch.look(memory, queues, ops);
        if look.map_err(local_watch)? == Look::Stalled {
            self.device.backend.ping()?;
        }
        Ok(())
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

fn local_watch(source: io::Error) -> Error {
    Error::Local {
        what: "watch the queues",
        source,
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

    fn process(&mut self, events: Events, ops: &mut EventOps) {
        if self.device.lost {
            return; // what was due already
        }
        let Activation { memory, queues, .. } = &self.activation;
        let went = match events.data() {
            CONNECTION => Err(self.device.backend.hung_up()),
            Watch::TIMER => self.look(ops),
            _ => self.watch.kicked(memory, queues).map_err(local_watch),
        };
        if let Err(why) = went {
            if let Err(error) = ops.remove(self.connection()) {
                tracing::warn!(share = %self.device.tag, %error, "cannot stop watching a lost virtiofsd");
            }
            self.lose(&why);
        }
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
