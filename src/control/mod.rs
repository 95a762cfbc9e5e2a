//! The control socket: varlink (`varlinkctl`, [`interface`]) on a thread of its own, so that nobody who asks holds up the
//! VM, and a VM that is busy with starting or stopping still answers.
//!
//! [`server`] has the thread and its connections, [`connection`] one of them, [`interface`] what is said on it. What the
//! VM is to do goes to the supervisor's loop ([`requests`](crate::requests)), what it is doing is on the
//! [`board`](crate::board).

mod connection;
mod console;
pub mod interface;
mod server;

pub use server::{Context, Control};
