//! Puts a virtual machine together and runs it on KVM.
//!
//! * [`config`]: what a VM is, and the one schema for it
//! * [`kvm`]: the KVM system handle, CPUID, registers, interrupt routes
//! * [`layout`], [`slots`], [`cmdline`]: the machine as the guest sees it: addresses, PCI slots, command line
//! * [`memory`]: the guest's RAM
//! * [`host`]: what a host must have for a configuration
//! * [`plan`]: the machine as it would be made, to look at
//! * [`machine`]: everything put together from opened [`Resources`]
//! * [`vm`]: [`Vm::start`] and the [`Handle`] of a running VM; `vcpu` has its threads
//! * [`end`]: how a VM ends; [`metrics`]: what it has done, in numbers
//! * [`check`]: whether KVM is able on this host
//!
//! A [`Vm`] opens nothing, installs no signal handler, has no global state and never ends the process:
//! two of them in one program do not know of each other.
#![deny(unsafe_code)]

mod balloon;
pub mod check;
pub mod cmdline;
pub mod config;
mod console;
mod console_input;
pub mod end;
mod error;
mod gate;
pub mod host;
mod kick;
pub mod kvm;
pub mod layout;
pub mod machine;
pub mod memory;
pub mod metrics;
pub mod plan;
pub mod slots;
mod vcpu;
pub mod vm;
mod watchdog;

pub use balloon::BalloonReport;
pub use config::VmConfig;
pub use console::{Console as ConsoleThread, WaitingWriter};
pub use end::End;
pub use error::{Blame, Error, boot_key};
pub use gate::Progress;
pub use machine::Resources;
pub use metrics::Metrics;
pub use minivmm_devices::text::one_line;
pub use vm::{Handle, Vm};
