//! A small KVM virtual machine monitor for service VMs, as a library.
//!
//! The program `minivmm` is a launcher on top of it. See [`Vm`].

pub use minivmm_vmm::*;
