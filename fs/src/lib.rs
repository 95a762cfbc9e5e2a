//! virtio-fs: a directory of the host in the guest, served by virtiofsd.
//!
//! Two processes use this crate, each its own half:
//!
//! * the supervisor finds virtiofsd ([`program`]) and runs one for each share ([`virtiofsd`]), or
//!   connects to one that somebody else runs ([`external`]); what it gets is one connected socket, which
//!   it hands on;
//! * the VMM makes a [`device::FsDevice`] of that socket: a virtio device whose queues are served by
//!   virtiofsd itself, set up over vhost-user ([`backend`]). Requests of the guest never pass through
//!   the VMM; `watch` sees whether they are worked on.
//!
//! A share is known everywhere by its [`Tag`], the name under which the guest mounts it.
#![deny(unsafe_code)]

pub mod backend;
pub mod device;
pub mod external;
pub mod program;
pub mod tag;
pub mod virtiofsd;
mod watch;

pub use device::FsDevice;
pub use program::Program;
pub use tag::Tag;
pub use virtiofsd::{Share, Virtiofsd};
