//! The conversation with a vhost-user back end, none of it longer than [`DEADLINE`].
//!
//! Follows the vhost-user protocol (QEMU, docs/interop/vhost-user.rst): the back end gets the guest's
//! memory and rings once, with an eventfd to be kicked by and one to call, and serves the queues alone
//! from then on.

use std::{
    io,
    net::Shutdown,
    os::{fd::AsFd, unix::net::UnixStream},
    sync::mpsc::{self, RecvTimeoutError},
    thread,
    time::Duration,
};

use minivmm_devices::{GuestMemory, virtio::ActiveQueue};
use vhost::{
    VhostBackend, VhostUserMemoryRegionInfo, VringConfigData,
    vhost_user::{
        Frontend, VhostUserFrontend,
        message::{VhostUserHeaderFlag, VhostUserProtocolFeatures, VhostUserVirtioFeatures},
    },
};
use virtio_bindings::{
    virtio_config::VIRTIO_F_VERSION_1,
    virtio_ring::{VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC},
};
use vm_memory::{GuestAddress, GuestMemoryBackend, GuestMemoryRegion};
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

/// How long a back end may take for one exchange, which is a handful of messages that it answers at
/// once. One that takes longer is counted as lost.
pub const DEADLINE: Duration = Duration::from_secs(5);

/// What became of an exchange with a back end.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A message failed, or its answer was malformed, or the back end refused it.
    #[error("virtiofsd failed to {what}: {source}")]
    Message {
        /// What was asked of it.
        what: &'static str,
        /// What happened.
        source: vhost::Error,
    },
    /// Nothing came for [`DEADLINE`].
    #[error("virtiofsd did not {what} within {} seconds", DEADLINE.as_secs())]
    Silent {
        /// What was asked of it.
        what: &'static str,
    },
    /// It is some other vhost-user back end, or a very old one.
    #[error("virtiofsd lacks {what}: version 1.0 or newer is needed")]
    Lacks {
        /// The feature.
        what: &'static str,
    },
    /// Only a file that can be passed on is memory that another process can see.
    #[error("guest memory at {address:#x} is private: virtiofsd cannot see it")]
    PrivateMemory {
        /// Guest physical address of the region.
        address: u64,
    },
    /// The driver's ring is not in guest memory.
    #[error("a ring of queue {index} at {address:#x} is outside of guest memory")]
    Ring {
        /// The queue.
        index: u16,
        /// Guest physical address.
        address: u64,
    },
    /// The connection ended.
    #[error("virtiofsd closed its connection")]
    Closed,
    /// The back end speaks only when it is asked.
    #[error("virtiofsd sent a message that nobody asked for")]
    Unexpected,
    /// Something that has to do with this process only.
    #[error("cannot {what} for virtiofsd: {source}")]
    Local {
        /// What was being done.
        what: &'static str,
        /// What happened.
        source: io::Error,
    },
}

/// Names the request that failed.
trait Asked<T> {
    fn asked(self, what: &'static str) -> Result<T, Error>;
}

impl<T> Asked<T> for vhost::Result<T> {
    fn asked(self, what: &'static str) -> Result<T, Error> {
        self.map_err(|source| Error::Message { what, source })
    }
}

fn local(what: &'static str) -> impl FnOnce(io::Error) -> Error {
    move |source| Error::Local { what, source }
}

/// A vhost-user back end that we are connected to.
pub struct Backend {
    frontend: Frontend,
    socket: UnixStream,
    features: u64,
    can_reset: bool,
}

impl Backend {
    /// Claims the back end at the other end of `socket` and agrees on the protocol with it.
    ///
    /// `queues` is how many virtqueues it must have.
    pub fn connect(socket: UnixStream, queues: u64) -> Result<Self, Error> {
        let frontend = Frontend::from_stream(
            socket.try_clone().map_err(local("duplicate a socket"))?,
            queues,
        );
        let mut backend = Self {
            frontend,
            socket,
            features: 0,
            can_reset: false,
        };
        backend.exchange(|backend| backend.negotiate(queues))?;
        Ok(backend)
    }

    /// The ring features that it offers to the driver.
    pub fn ring_features(&self) -> u64 {
        self.features & (bit(VIRTIO_RING_F_INDIRECT_DESC) | bit(VIRTIO_RING_F_EVENT_IDX))
    }

    /// The connection, to be watched for its end.
    pub fn socket(&self) -> &UnixStream {
        &self.socket
    }

    /// Hands guest memory and queues over; the back end serves them from then on.
    pub fn start(
        &mut self,
        memory: &GuestMemory,
        features: u64,
        queues: &[ActiveQueue],
    ) -> Result<(), Error> {
        self.exchange(|backend| backend.hand_over(memory, features, queues))
    }

    /// Takes the queues back and makes the back end forget the driver; it can be started again.
    pub fn stop(&mut self, queues: &[ActiveQueue]) -> Result<(), Error> {
        self.exchange(|backend| backend.take_back(queues))
    }

    /// Asks for something that is answered at once, also while requests of the guest are being worked on.
    pub fn ping(&mut self) -> Result<(), Error> {
        self.exchange(|backend| {
            let features = backend.frontend.get_features();
            features.asked("say that it is there").map(drop)
        })
    }

    /// What ended or disturbed the connection, if it was readable without a request of ours.
    pub fn hung_up(&self) -> Error {
        let mut byte = [0];
        match rustix::net::recv(
            self.socket.as_fd(),
            &mut byte,
            rustix::net::RecvFlags::PEEK | rustix::net::RecvFlags::DONTWAIT,
        ) {
            Ok((_, 1..)) => Error::Unexpected,
            _ => Error::Closed,
        }
    }

    fn negotiate(&mut self, queues: u64) -> Result<(), Error> {
        let protocol = VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits();
        self.frontend.set_owner().asked("accept an owner")?;
        self.features = self.frontend.get_features().asked("say its features")?;
        for (feature, what) in [
            (bit(VIRTIO_F_VERSION_1), "VIRTIO_F_VERSION_1"),
            (protocol, "VHOST_USER_F_PROTOCOL_FEATURES"),
        ] {
            if self.features & feature == 0 {
                return Err(Error::Lacks { what });
            }
        }
        let offered = self
            .frontend
            .get_protocol_features()
            .asked("say its protocol features")?;
        let needed = VhostUserProtocolFeatures::MQ | VhostUserProtocolFeatures::REPLY_ACK;
        if !offered.contains(needed) {
            return Err(Error::Lacks {
                what: "the protocol features MQ and REPLY_ACK",
            });
        }
        self.can_reset = offered.contains(VhostUserProtocolFeatures::RESET_DEVICE);
        self.frontend
            .set_protocol_features(needed | (offered & VhostUserProtocolFeatures::RESET_DEVICE))
            .asked("accept protocol features")?;
        // From here on every message is answered, so that a refusal is known where it happens.
        self.frontend.set_hdr_flags(VhostUserHeaderFlag::NEED_REPLY);
        if self.frontend.get_queue_num().asked("say its queues")? < queues {
            return Err(Error::Lacks {
                what: "enough queues",
            });
        }
        Ok(())
    }

    fn hand_over(
        &mut self,
        memory: &GuestMemory,
        features: u64,
        queues: &[ActiveQueue],
    ) -> Result<(), Error> {
        let regions = memory
            .iter()
            .map(|region| {
                VhostUserMemoryRegionInfo::from_guest_region(region).map_err(|_| {
                    Error::PrivateMemory {
                        address: region.start_addr().0,
                    }
                })
            })
            .collect::<Result<Vec<_>, _>>()?;
        let features = (features & self.features)
            | bit(VIRTIO_F_VERSION_1)
            | VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits();
        self.frontend
            .set_features(features)
            .asked("accept features")?;
        self.frontend
            .set_mem_table(&regions)
            .asked("map guest memory")?;
        for queue in queues {
            self.hand_over_queue(memory, queue)?;
        }
        for queue in queues {
            self.frontend
                .set_vring_enable(queue.index.into(), true)
                .asked("enable a queue")?;
        }
        Ok(())
    }

    fn hand_over_queue(&self, memory: &GuestMemory, active: &ActiveQueue) -> Result<(), Error> {
        // The back end knows our addresses from the memory table, and finds its own by them.
        let ours = |address| {
            memory
                .get_host_address(GuestAddress(address))
                .map(|pointer| pointer as u64)
                .map_err(|_| Error::Ring {
                    index: active.index,
                    address,
                })
        };
        let index = usize::from(active.index);
        let layout = active.queue.layout();
        let rings = VringConfigData {
            queue_max_size: layout.size,
            queue_size: layout.size,
            flags: 0,
            desc_table_addr: ours(layout.desc_table)?,
            used_ring_addr: ours(layout.used_ring)?,
            avail_ring_addr: ours(layout.avail_ring)?,
            log_addr: None,
        };
        // Without a vector the driver polls; the protocol wants an eventfd to call all the same.
        let unheard;
        let call = match active.interrupt.event() {
            Some(event) => event,
            None => {
                unheard =
                    EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC).map_err(local("make an eventfd"))?;
                &unheard
            }
        };
        let what = "take a queue";
        let frontend = &self.frontend;
        frontend.set_vring_num(index, layout.size).asked(what)?;
        frontend.set_vring_addr(index, &rings).asked(what)?;
        frontend
            .set_vring_base(index, active.queue.next_avail())
            .asked(what)?;
        frontend.set_vring_call(index, call).asked(what)?;
        frontend.set_vring_kick(index, &active.notify).asked(what)
    }

    fn take_back(&mut self, queues: &[ActiveQueue]) -> Result<(), Error> {
        for queue in queues {
            let index = queue.index.into();
            self.frontend
                .set_vring_enable(index, false)
                .asked("disable a queue")?;
            // This is the message that stops a ring. The index is of no use: a driver that comes back
            // after a reset begins with zero.
            self.frontend
                .get_vring_base(index)
                .asked("give a queue back")?;
        }
        if self.can_reset {
            self.frontend.reset_device().asked("reset")?;
        }
        Ok(())
    }

    /// Runs `messages` with the deadline.
    ///
    /// The `vhost` crate begins again when a socket's timeout strikes, so a timeout of the socket's own
    /// would end nothing: a second thread shuts the connection down, which does.
    fn exchange(
        &mut self,
        messages: impl FnOnce(&mut Self) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let socket = self
            .socket
            .try_clone()
            .map_err(local("duplicate a socket"))?;
        let (done, finished) = mpsc::channel::<()>();
        thread::scope(|scope| {
            let watch = thread::Builder::new()
                .name("fs-deadline".to_owned())
                .spawn_scoped(scope, move || {
                    let late = finished.recv_timeout(DEADLINE) == Err(RecvTimeoutError::Timeout);
                    if late {
                        // It fails if the connection has ended by itself, which is as good.
                        let _ = socket.shutdown(Shutdown::Both);
                    }
                    late
                })
                .map_err(local("start a thread"))?;
            let result = messages(self);
            drop(done);
            match (result, watch.join()) {
                (Err(Error::Message { what, .. }), Ok(true)) => Err(Error::Silent { what }),
                (result, _) => result,
            }
        })
    }
}

/// The bit of a feature number.
const fn bit(feature: u32) -> u64 {
    1 << feature
}
