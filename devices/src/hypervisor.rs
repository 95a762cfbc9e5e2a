//! What a device asks of the hypervisor: eventfds in, eventfds out.
//!
//! KVM fulfils this in the `vmm` crate (irqfd, ioeventfd and MSI routes); tests fulfil it with a list.

use std::io;

use vmm_sys_util::eventfd::EventFd;

/// A global system interrupt number, the index of a KVM interrupt route.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Gsi(pub u32);

/// A message-signalled interrupt as the guest's driver wrote it into an MSI-X table entry
/// (PCI Local Bus 3.0, 6.8.2).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MsiMessage {
    /// Address of the memory write, 0xFEEx_xxxx on x86.
    pub address: u64,
    /// Data of the memory write.
    pub data: u32,
}

/// The hypervisor as devices see it.
pub trait Hypervisor: Send + Sync {
    /// A route number of the caller's own, not yet connected to anything.
    fn allocate_gsi(&self) -> io::Result<Gsi>;

    /// Makes every write to `event` raise `message`, until [`disconnect_msi`](Self::disconnect_msi).
    ///
    /// A count that is in `event` already raises it at once, so what was signalled while the vector was
    /// masked is not lost. Calling it again with another message replaces the first.
    fn connect_msi(&self, gsi: Gsi, event: &EventFd, message: MsiMessage) -> io::Result<()>;

    /// Undoes [`connect_msi`](Self::connect_msi): writes to `event` stay in it and raise nothing.
    fn disconnect_msi(&self, gsi: Gsi, event: &EventFd) -> io::Result<()>;

    /// Makes every guest write of any size to the guest physical `address` signal `event` instead of
    /// leaving the guest.
    fn attach_notify(&self, address: u64, event: &EventFd) -> io::Result<()>;

    /// Undoes [`attach_notify`](Self::attach_notify).
    fn detach_notify(&self, address: u64, event: &EventFd) -> io::Result<()>;
}
