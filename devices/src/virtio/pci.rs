//! The virtio-pci transport (virtio 1.3, 4.1), modern devices only.
//!
//! * `layout`: where the registers are in the BAR and how the capabilities say so
//! * `common`: the common configuration registers
//! * `transport`: the device's life, from reset to DRIVER_OK to reset
//!
//! Registers are the slow path and behind one lock. What runs afterwards is not: a notification is an
//! eventfd attached to the guest's address, an interrupt an eventfd attached to a GSI.

mod common;
mod layout;
#[cfg(test)]
mod tests;
mod transport;

use std::{
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use virtio_bindings::virtio_config::VIRTIO_F_VERSION_1;
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use self::{
    common::CommonConfig,
    layout::{BAR, CapabilityOffsets, Region},
    transport::Transport,
};
use super::{
    ConfigSpace as DeviceConfig, DeviceType, VirtioDevice, Worker,
    queue::{MAX_SIZE, QueueCounts},
};
use crate::{
    GuestMemory,
    hypervisor::Hypervisor,
    pci::{BAR_COUNT, BarRange, ConfigSpace, Msix, PciFunction, config_space},
};

pub use layout::MAX_QUEUES;

/// Why a virtio device could not be put on PCI, or not be taken off it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The device has no queue, too many, or one of an impossible size.
    #[error("{device} has queue sizes {sizes:?}: want 1 to {MAX_QUEUES} powers of two up to 32768")]
    Queues {
        /// Its name.
        device: Arc<str>,
        /// What it asked for.
        sizes: Vec<u16>,
    },
    /// No file descriptors left, most likely.
    #[error("cannot make the eventfds of {device}")]
    EventFd {
        /// Its name.
        device: Arc<str>,
        /// Why.
        source: io::Error,
    },
    /// The registers have no room.
    #[error("cannot describe {device} on PCI")]
    ConfigSpace {
        /// Its name.
        device: Arc<str>,
        /// Why.
        source: config_space::Error,
    },
    /// The device's worker did not end in time.
    #[error("{device} did not stop in time")]
    StillRunning {
        /// Its name.
        device: Arc<str>,
    },
}

/// A virtio device as a PCI function.
pub struct VirtioPci {
    name: Arc<str>,
    kind: DeviceType,
    initial: ConfigSpace,
    capabilities: CapabilityOffsets,
    msix: Arc<Msix>,
    config: Arc<dyn DeviceConfig>,
    notify: Arc<[EventFd]>,
    transport: Mutex<Transport>,
}

impl VirtioPci {
    /// Puts `device` behind registers; `name` stands for it in the log.
    pub fn new(
        name: &str,
        device: Box<dyn VirtioDevice>,
        memory: Arc<GuestMemory>,
        hypervisor: Arc<dyn Hypervisor>,
    ) -> Result<Arc<Self>, Error> {
        let name: Arc<str> = name.into();
        let sizes = device.queue_sizes().to_vec();
        let possible = |size: &u16| size.is_power_of_two() && *size <= MAX_SIZE;
        if !(1..=MAX_QUEUES).contains(&sizes.len()) || !sizes.iter().all(possible) {
            let device = name;
            return Err(Error::Queues { device, sizes });
        }
        // At most MAX_QUEUES and one for the configuration.
        let vectors = sizes.len() as u16 + 1;
        let (initial, capabilities) =
            layout::config_space(device.device_type(), vectors).map_err(|source| {
                Error::ConfigSpace {
                    device: name.clone(),
                    source,
                }
            })?;
        let eventfd_error = |source| Error::EventFd {
            device: name.clone(),
            source,
        };
        let msix = Msix::new(name.clone(), vectors, hypervisor.clone()).map_err(eventfd_error)?;
        let notify = sizes
            .iter()
            .map(|_| EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC))
            .collect::<io::Result<Arc<[_]>>>()
            .map_err(eventfd_error)?;
        let msix = Arc::new(msix);
        let offered = device.features() | 1 << VIRTIO_F_VERSION_1;
        Ok(Arc::new(Self {
            kind: device.device_type(),
            initial,
            capabilities,
            config: device.config(),
            transport: Mutex::new(Transport::new(
                name.clone(),
                CommonConfig::new(offered, &sizes),
                device,
                memory,
                hypervisor,
                msix.clone(),
                notify.clone(),
            )),
            name,
            msix,
            notify,
        }))
    }

    /// Its name in the log.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What it is.
    pub fn kind(&self) -> DeviceType {
        self.kind
    }

    /// What has gone through each queue, as far as the device itself serves it. A vCPU that writes to a register waits
    /// meanwhile.
    pub fn counts(&self) -> Vec<QueueCounts> {
        self.lock().counts()
    }

    /// Ends the device for good, as when the virtual machine has ended, and waits for that until
    /// `deadline`.
    pub fn stop(&self, deadline: Instant) -> Result<(), Error> {
        self.begin_stop().wait(deadline)
    }

    /// Asks the device to end for good, and does not wait for it.
    pub fn begin_stop(&self) -> Stopping {
        Stopping {
            device: self.name.clone(),
            worker: self.lock().stop(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Transport> {
        self.transport
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// A write that came here instead of to the eventfd: the ioeventfd could not be attached, or the
    /// driver uses VIRTIO_PCI_CAP_PCI_CFG.
    fn notify(&self, offset: u32) {
        if let Some(event) = self
            .notify
            .get((offset / layout::NOTIFY_OFF_MULTIPLIER) as usize)
        {
            // A full counter is a notification that is still to be seen.
            let _ = event.write(1);
        }
    }
}

/// A device that was asked to end.
#[must_use]
pub struct Stopping {
    device: Arc<str>,
    worker: Option<Worker>,
}

impl Stopping {
    /// Waits until `deadline` for the device's end.
    pub fn wait(self, deadline: Instant) -> Result<(), Error> {
        match self.worker {
            Some(worker) if !worker.wait(deadline) => Err(Error::StillRunning {
                device: self.device,
            }),
            Some(worker) => {
                drop(worker.join());
                Ok(())
            }
            None => Ok(()),
        }
    }
}

impl PciFunction for VirtioPci {
    fn config_space(&self) -> ConfigSpace {
        self.initial.clone()
    }

    fn place(&self, bars: [Option<BarRange>; BAR_COUNT]) {
        let base = bars[BAR].map(|range| u64::from(range.base));
        self.lock().place(base);
    }

    fn read_bar(&self, _bar: usize, offset: u32, data: &mut [u8]) {
        match layout::region(offset) {
            Some((Region::Common, at)) => {
                let generation = self.config.generation();
                self.lock().read_common(generation, at, data);
            }
            Some((Region::Device, at)) => self.config.read(at.into(), data),
            Some((Region::MsixTable, at)) => self.msix.read_table(at, data),
            Some((Region::MsixPba, at)) => self.msix.read_pba(at, data),
            // Without INTx the ISR status has nothing to say (4.1.4.5).
            Some((Region::Isr | Region::Notify, _)) | None => data.fill(0),
        }
    }

    fn write_bar(&self, _bar: usize, offset: u32, data: &[u8]) {
        match layout::region(offset) {
            Some((Region::Common, at)) => self.lock().write_common(at, data),
            Some((Region::Device, at)) => {
                if self.lock().takes_writes() {
                    self.config.write(at.into(), data);
                }
            }
            Some((Region::Notify, at)) => self.notify(at),
            Some((Region::MsixTable, at)) => self.msix.write_table(at, data),
            Some((Region::Isr | Region::MsixPba, _)) | None => {}
        }
    }

    fn before_config_read(&self, config: &mut ConfigSpace, offset: u16, len: usize) {
        if self.capabilities.touches_cfg_data(offset, len)
            && let Some((at, len)) = self.capabilities.cfg_access(config)
        {
            let mut data = [0; 4];
            self.read_bar(BAR, at, &mut data[..len]);
            config.set(self.capabilities.cfg_data(), &data[..len]);
        }
    }

    fn after_config_write(&self, config: &mut ConfigSpace, offset: u16, len: usize) {
        if self.capabilities.touches_msix_control(offset, len) {
            self.msix
                .set_control(self.capabilities.msix_control(config));
        }
        if self.capabilities.touches_cfg_data(offset, len)
            && let Some((at, len)) = self.capabilities.cfg_access(config)
        {
            let data = self.capabilities.cfg_data_bytes(config);
            self.write_bar(BAR, at, &data[..len]);
        }
    }
}
