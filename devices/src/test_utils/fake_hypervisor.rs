//! A hypervisor that keeps a list.

use std::{
    collections::BTreeMap,
    io,
    os::fd::AsRawFd,
    sync::{Mutex, MutexGuard},
    time::{Duration, Instant},
};

use vmm_sys_util::eventfd::EventFd;

use super::readable;
use crate::hypervisor::{Gsi, Hypervisor, MsiMessage};

/// What a device asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Call {
    AllocateGsi(Gsi),
    ConnectMsi(Gsi, MsiMessage),
    DisconnectMsi(Gsi),
    AttachNotify(u64),
    DetachNotify(u64),
}

#[derive(Default)]
struct State {
    calls: Vec<Call>,
    gsis: u32,
    connected: BTreeMap<Gsi, (EventFd, i32, MsiMessage)>,
    attached: BTreeMap<u64, (EventFd, i32)>,
    failing: bool,
}

/// Stands in for KVM: interrupts and notifications go where KVM would take them, and every call is kept.
///
/// It is strict: what a device must not ask (attach an address twice, disconnect what is not connected)
/// panics.
#[derive(Default)]
pub struct FakeHypervisor(Mutex<State>);

impl FakeHypervisor {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    /// The calls since this was asked last.
    pub fn take_calls(&self) -> Vec<Call> {
        std::mem::take(&mut self.state().calls)
    }

    /// Makes every call from now on fail, or work again.
    pub fn set_failing(&self, failing: bool) {
        self.state().failing = failing;
    }

    /// Addresses with an eventfd attached, ascending.
    pub fn attached(&self) -> Vec<u64> {
        self.state().attached.keys().copied().collect()
    }

    /// Messages that are connected, in the order of their GSIs.
    pub fn connected(&self) -> Vec<MsiMessage> {
        self.state().connected.values().map(|c| c.2).collect()
    }

    /// Writes to `address` as a guest would; `false` if no eventfd is attached there, which would be an
    /// exit to the VMM.
    pub fn notify(&self, address: u64) -> bool {
        match self.state().attached.get(&address) {
            Some((event, _)) => {
                event.write(1).unwrap();
                true
            }
            None => false,
        }
    }

    /// Takes the interrupt with `data` as its message, if it was raised.
    pub fn take_interrupt(&self, data: u32) -> bool {
        self.state()
            .connected
            .values()
            .filter(|c| c.2.data == data)
            .any(|c| c.0.read().is_ok())
    }

    /// Waits for the interrupt with `data` as its message and takes it; `false` after `timeout`.
    pub fn wait_interrupt(&self, data: u32, timeout: Duration) -> bool {
        let until = Instant::now() + timeout;
        let event = self
            .state()
            .connected
            .values()
            .find(|c| c.2.data == data)
            .map(|c| c.0.try_clone().unwrap());
        event.is_some_and(|event| {
            readable(&event, until.saturating_duration_since(Instant::now()))
                && event.read().is_ok()
        })
    }

    fn record(&self, call: Call) -> io::Result<MutexGuard<'_, State>> {
        let mut state = self.state();
        if state.failing {
            return Err(io::Error::other("the fake hypervisor was told to fail"));
        }
        state.calls.push(call);
        Ok(state)
    }
}

impl Hypervisor for FakeHypervisor {
    fn allocate_gsi(&self) -> io::Result<Gsi> {
        let gsi = Gsi(self.state().gsis + 24);
        let mut state = self.record(Call::AllocateGsi(gsi))?;
        state.gsis += 1;
        Ok(gsi)
    }

    fn connect_msi(&self, gsi: Gsi, event: &EventFd, message: MsiMessage) -> io::Result<()> {
        let mut state = self.record(Call::ConnectMsi(gsi, message))?;
        let clone = event.try_clone()?;
        let before = state
            .connected
            .insert(gsi, (clone, event.as_raw_fd(), message));
        if let Some((_, fd, _)) = before {
            assert_eq!(fd, event.as_raw_fd(), "{gsi:?} has another eventfd");
        }
        Ok(())
    }

    fn disconnect_msi(&self, gsi: Gsi, event: &EventFd) -> io::Result<()> {
        let mut state = self.record(Call::DisconnectMsi(gsi))?;
        let (_, fd, _) = state.connected.remove(&gsi).unwrap();
        assert_eq!(fd, event.as_raw_fd());
        Ok(())
    }

    fn attach_notify(&self, address: u64, event: &EventFd) -> io::Result<()> {
        let mut state = self.record(Call::AttachNotify(address))?;
        let clone = event.try_clone()?;
        let before = state.attached.insert(address, (clone, event.as_raw_fd()));
        assert!(before.is_none(), "{address:#x} is attached already");
        Ok(())
    }

    fn detach_notify(&self, address: u64, event: &EventFd) -> io::Result<()> {
        let mut state = self.record(Call::DetachNotify(address))?;
        let (_, fd) = state.attached.remove(&address).unwrap();
        assert_eq!(fd, event.as_raw_fd());
        Ok(())
    }
}
