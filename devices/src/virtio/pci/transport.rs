//! The life of a device behind its registers: reset, negotiation, DRIVER_OK, work, and reset again
//! (virtio 1.3, 2.1, 2.4, 3.1).

use std::{io, mem, sync::Arc};

use virtio_bindings::{
    virtio_config::{
        VIRTIO_CONFIG_S_ACKNOWLEDGE, VIRTIO_CONFIG_S_DRIVER, VIRTIO_CONFIG_S_DRIVER_OK,
        VIRTIO_CONFIG_S_FAILED, VIRTIO_CONFIG_S_FEATURES_OK,
    },
    virtio_ring::VIRTIO_RING_F_EVENT_IDX,
};
use vmm_sys_util::eventfd::EventFd;

use super::{
    common::{CommonConfig, DEVICE_STATUS, InvalidQueue, QueueRegisters},
    layout::{NOTIFY, NOTIFY_OFF_MULTIPLIER},
};
use crate::{
    GuestMemory,
    hypervisor::Hypervisor,
    pci::Msix,
    virtio::{
        Activation, ActiveQueue, DeviceInterrupt, DeviceStatus, QueueInterrupt, VirtioDevice,
        Worker, queue::QueueCounts,
    },
};

const ACKNOWLEDGE: u8 = VIRTIO_CONFIG_S_ACKNOWLEDGE as u8;
const DRIVER: u8 = VIRTIO_CONFIG_S_DRIVER as u8;
const FEATURES_OK: u8 = VIRTIO_CONFIG_S_FEATURES_OK as u8;
const DRIVER_OK: u8 = VIRTIO_CONFIG_S_DRIVER_OK as u8;
const FAILED: u8 = VIRTIO_CONFIG_S_FAILED as u8;

/// Where the device is.
enum State {
    /// Here.
    Idle(Box<dyn VirtioDevice>),
    /// In its worker.
    Active(Worker, DeviceInterrupt),
    /// In its worker, which was asked to give it back.
    Resetting(Worker),
    /// Gone with its worker, or stopped for good.
    Lost,
}

/// Why DRIVER_OK did not start the device.
#[derive(Debug, thiserror::Error)]
enum ActivationError {
    #[error("cannot start: {0}")]
    Queue(#[from] InvalidQueue),
    #[error("cannot start: {0}")]
    Io(#[from] io::Error),
    #[error("cannot start: it failed before")]
    Lost,
}

/// Registers, device, and what connects the two to the guest.
pub(super) struct Transport {
    name: Arc<str>,
    common: CommonConfig,
    /// A new one after each reset, so that a late word of an old activation does not reach the next.
    status: DeviceStatus,
    state: State,
    memory: Arc<GuestMemory>,
    hypervisor: Arc<dyn Hypervisor>,
    msix: Arc<Msix>,
    notify: Arc<[EventFd]>,
    /// Where the BAR answers.
    base: Option<u64>,
    /// Queues with an ioeventfd, and where that is.
    attached: Vec<(usize, u64)>,
    /// The log has been told of a hypervisor that refused an ioeventfd.
    warned: bool,
}

impl Transport {
    pub(super) fn new(
        name: Arc<str>,
        common: CommonConfig,
        device: Box<dyn VirtioDevice>,
        memory: Arc<GuestMemory>,
        hypervisor: Arc<dyn Hypervisor>,
        msix: Arc<Msix>,
        notify: Arc<[EventFd]>,
    ) -> Self {
        Self {
            name,
            common,
            status: DeviceStatus::default(),
            state: State::Idle(device),
            memory,
            hypervisor,
            msix,
            notify,
            base: None,
            attached: Vec::new(),
            warned: false,
        }
    }

    /// Reads the common configuration.
    pub(super) fn read_common(&mut self, generation: u8, offset: u32, data: &mut [u8]) {
        self.poll();
        self.common
            .read(self.status.get(), generation, offset, data);
    }

    /// Writes the common configuration.
    pub(super) fn write_common(&mut self, offset: u32, data: &[u8]) {
        if !self.takes_writes() {
            return;
        }
        match (offset, data) {
            (DEVICE_STATUS, [0]) => self.reset(),
            (DEVICE_STATUS, &[bits]) => self.add_status(bits),
            _ => self.common.write(self.status.get(), offset, data),
        }
    }

    /// Whether a driver's writes count: not until a reset is done.
    pub(super) fn takes_writes(&mut self) -> bool {
        self.poll();
        !matches!(self.state, State::Resetting(_))
    }

    /// The BAR answers at `base` now.
    pub(super) fn place(&mut self, base: Option<u64>) {
        self.base = base;
        if let State::Active(..) = self.state {
            self.detach();
            self.attach();
        }
    }

    /// What has gone through each queue.
    pub(super) fn counts(&self) -> Vec<QueueCounts> {
        let queues = self.common.queues.iter();
        queues.map(QueueRegisters::counts).collect()
    }

    /// Takes the worker out for good, if there is one, and asks it to end.
    pub(super) fn stop(&mut self) -> Option<Worker> {
        self.detach();
        match mem::replace(&mut self.state, State::Lost) {
            State::Active(worker, _) | State::Resetting(worker) => {
                worker.stop();
                Some(worker)
            }
            State::Idle(_) | State::Lost => None,
        }
    }

    /// A driver only ever adds bits (2.1.1), in their order; what comes too early does not stick.
    fn add_status(&mut self, bits: u8) {
        let before = self.status.get();
        let added = bits & !before;
        self.status.insert(added & (ACKNOWLEDGE | FAILED));
        if added & DRIVER != 0 && self.has(ACKNOWLEDGE) {
            self.status.insert(DRIVER);
        }
        if added & FEATURES_OK != 0 && self.has(DRIVER) && self.common.features_acceptable() {
            self.status.insert(FEATURES_OK);
        }
        // FEATURES_OK of an earlier write: the driver has to look whether it stuck (3.1.1).
        if added & DRIVER_OK != 0 && before & FEATURES_OK != 0 && !self.has(FAILED) {
            self.status.insert(DRIVER_OK);
            self.activate();
        }
    }

    fn has(&self, bits: u8) -> bool {
        self.status.get() & bits == bits
    }

    fn activate(&mut self) {
        let interrupt = DeviceInterrupt::new(
            self.name.clone(),
            self.status.clone(),
            self.interrupt(self.common.config_vector),
        );
        match self.start(interrupt.clone()) {
            Ok(worker) => {
                self.state = State::Active(worker, interrupt);
                self.attach();
            }
            Err(error) => interrupt.needs_reset(&error),
        }
    }

    /// Moves the device into its worker. It stays here if the driver's queues are not usable.
    fn start(&mut self, interrupt: DeviceInterrupt) -> Result<Worker, ActivationError> {
        let features = self.common.driver_features;
        let event_idx = features & 1 << VIRTIO_RING_F_EVENT_IDX != 0;
        let mut queues = Vec::new();
        for (index, (registers, notify)) in
            (0..).zip(self.common.queues.iter().zip(self.notify.iter()))
        {
            if !registers.enabled {
                continue;
            }
            queues.push(ActiveQueue {
                index,
                queue: registers.queue(index, &self.memory, event_idx)?,
                notify: notify.try_clone()?,
                interrupt: self.interrupt(registers.vector),
            });
        }
        match mem::replace(&mut self.state, State::Lost) {
            State::Idle(device) => Ok(device.activate(Activation {
                memory: self.memory.clone(),
                features,
                queues,
                interrupt,
            })?),
            state => {
                self.state = state;
                Err(ActivationError::Lost)
            }
        }
    }

    fn interrupt(&self, vector: u16) -> QueueInterrupt {
        QueueInterrupt::new(self.msix.event(vector).cloned())
    }

    fn reset(&mut self) {
        self.detach();
        match mem::replace(&mut self.state, State::Lost) {
            State::Active(worker, _) => {
                worker.stop();
                self.state = State::Resetting(worker);
            }
            state => {
                self.state = state;
                self.forget();
            }
        }
    }

    /// Looks whether the worker has ended, asked or not.
    fn poll(&mut self) {
        let ended = match &self.state {
            State::Active(worker, _) | State::Resetting(worker) => worker.is_finished(),
            State::Idle(_) | State::Lost => false,
        };
        if !ended {
            return;
        }
        let back = |worker: Worker| worker.join().map_or(State::Lost, State::Idle);
        match mem::replace(&mut self.state, State::Lost) {
            State::Resetting(worker) => {
                self.state = back(worker);
                self.forget();
            }
            State::Active(worker, interrupt) => {
                self.detach();
                self.state = back(worker);
                interrupt.needs_reset(&"its worker ended");
            }
            state => self.state = state,
        }
    }

    /// Everything reads as fresh, and nothing of the last activation is seen in the next.
    fn forget(&mut self) {
        self.common.reset();
        self.status = DeviceStatus::default();
        self.msix.clear_pending();
        for event in self.notify.iter() {
            // An empty eventfd refuses to be read; then there was nothing to forget.
            let _ = event.read();
        }
    }

    /// Has the hypervisor signal the queues' eventfds itself. Where it cannot, the write comes to us and
    /// the device is only slower.
    fn attach(&mut self) {
        let Some(base) = self.base else { return };
        for (index, registers) in self.common.queues.iter().enumerate() {
            if !registers.enabled {
                continue;
            }
            let address = base + u64::from(NOTIFY + index as u32 * NOTIFY_OFF_MULTIPLIER);
            match self.hypervisor.attach_notify(address, &self.notify[index]) {
                Ok(()) => self.attached.push((index, address)),
                Err(error) if !mem::replace(&mut self.warned, true) => {
                    tracing::warn!(device = %self.name, %error, "notifications are slow");
                }
                Err(_) => {}
            }
        }
    }

    fn detach(&mut self) {
        for (index, address) in self.attached.drain(..) {
            if let Err(error) = self.hypervisor.detach_notify(address, &self.notify[index])
                && !mem::replace(&mut self.warned, true)
            {
                tracing::warn!(device = %self.name, %error, "cannot detach a notification");
            }
        }
    }
}
