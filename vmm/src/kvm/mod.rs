//! KVM: the system handle, one VM's, and what of the CPU KVM must be told.
//!
//! * [`interrupts`]: interrupt routes, irqfds and ioeventfds
//! * [`cpuid`]: what CPUID says in the guest
//! * [`internal_error`]: why KVM gave up on a guest
//! * [`registers`]: the boot CPU's first register values

pub mod cpuid;
pub mod internal_error;
pub mod interrupts;
pub mod registers;

use std::{
    fs::{File, OpenOptions},
    io,
    os::fd::{FromRawFd, IntoRawFd, OwnedFd},
    path::Path,
    sync::Arc,
};

use kvm_bindings::kvm_userspace_memory_region;
use kvm_ioctls::{Cap, Kvm, VmFd};
use minivmm_devices::GuestMemory;

use crate::{layout, memory};

/// Where KVM is.
pub const DEVICE: &str = "/dev/kvm";

/// Why KVM cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No device node.
    #[error(
        "{DEVICE} is missing: load the module kvm_amd or kvm_intel, and turn virtualization on in the firmware (in a VM: nested virtualization)"
    )]
    Missing,
    /// Not permitted.
    #[error(
        "{DEVICE} may not be opened by this user: add the user to the group that owns it (`kvm`)"
    )]
    NotPermitted,
    /// Another reason not to open it.
    #[error("cannot open {DEVICE}: {0}")]
    Open(io::Error),
    /// Not KVM, or an unknown API.
    #[error("{DEVICE} speaks version {0} of the KVM interface, needed is 12")]
    Version(i32),
    /// Something is missing in this host's KVM.
    #[error("this host's KVM lacks {0}: a newer kernel is needed")]
    Capability(&'static str),
    /// A KVM call failed.
    #[error("KVM cannot {doing}: {source}")]
    Call {
        /// What was tried.
        doing: &'static str,
        /// Why not.
        source: io::Error,
    },
}

impl Error {
    /// Turns a KVM call's error number into an error that says what was tried.
    pub(crate) fn call(doing: &'static str) -> impl Fn(kvm_ioctls::Error) -> Self {
        move |error| Self::Call {
            doing,
            source: error.into(),
        }
    }
}

/// Opens `/dev/kvm`, for [`system`]. Done by whoever has the right to; the rest works on the descriptor.
pub fn open() -> Result<File, Error> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .open(Path::new(DEVICE))
        .map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => Error::Missing,
            io::ErrorKind::PermissionDenied => Error::NotPermitted,
            _ if error.raw_os_error() == Some(libc::ENODEV) => Error::Missing,
            _ => Error::Open(error),
        })
}

/// Checks that the descriptor is a KVM that has all that a VM here needs.
#[allow(unsafe_code)]
pub fn system(device: OwnedFd) -> Result<Kvm, Error> {
    // SAFETY: the descriptor is owned and given away; a descriptor that is not KVM's fails the version
    // check below and is only closed.
    let kvm = unsafe { Kvm::from_raw_fd(device.into_raw_fd()) };
    let version = kvm.get_api_version();
    if version != 12 {
        return Err(Error::Version(version));
    }
    for (capability, name) in [
        (Cap::Irqchip, "in-kernel interrupt controllers"),
        (Cap::Ioeventfd, "ioeventfd"),
        (Cap::IoeventfdNoLength, "ioeventfd of any length"),
        (Cap::Irqfd, "irqfd"),
        (Cap::IrqRouting, "interrupt routing"),
        (Cap::UserMemory, "user memory"),
        (Cap::SetTssAddr, "KVM_SET_TSS_ADDR"),
        (Cap::SetIdentityMapAddr, "KVM_SET_IDENTITY_MAP_ADDR"),
        (Cap::ExtCpuid, "KVM_GET_SUPPORTED_CPUID"),
    ] {
        if !kvm.check_extension(capability) {
            return Err(Error::Capability(name));
        }
    }
    Ok(kvm)
}

/// Makes a VM with `memory` and the in-kernel interrupt controllers. There is no PIT: guests take their
/// time from the TSC and the local APIC's TSC-deadline timer.
pub fn create_vm(kvm: &Kvm, memory: &GuestMemory) -> Result<Arc<VmFd>, Error> {
    // A pending signal makes KVM_CREATE_VM fail with EINTR; tried again it succeeds.
    let vm = loop {
        match kvm.create_vm() {
            Ok(vm) => break vm,
            Err(error) if error.errno() == libc::EINTR => {}
            Err(error) => return Err(Error::call("make a VM")(error)),
        }
    };
    vm.set_identity_map_address(layout::KVM_IDENTITY_MAP)
        .map_err(Error::call("set the identity map page"))?;
    vm.set_tss_address(layout::KVM_TSS as usize)
        .map_err(Error::call("set the TSS pages"))?;
    vm.create_irq_chip()
        .map_err(Error::call("make the interrupt controllers"))?;
    give_memory(&vm, memory)?;
    Ok(Arc::new(vm))
}

/// Gives `memory` to a VM.
#[allow(unsafe_code)]
pub(crate) fn give_memory(vm: &VmFd, memory: &GuestMemory) -> Result<(), Error> {
    for (slot, range) in (0..).zip(memory::slots(memory)) {
        let region = kvm_userspace_memory_region {
            slot,
            flags: 0,
            guest_phys_addr: range.guest,
            memory_size: range.size,
            userspace_addr: range.host,
        };
        // SAFETY: the range comes from a mapping of guest memory that the caller keeps for as long as the
        // VM exists, and ranges of guest memory do not overlap.
        unsafe { vm.set_user_memory_region(region) }
            .map_err(Error::call("take the guest's memory"))?;
    }
    Ok(())
}
