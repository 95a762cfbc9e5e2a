//! The guest's console outside of the VMM: kept, shown and typed to.
//!
//! * [`ring`]: what was printed last
//! * [`hub`]: the thread between the VMM, the ring, and whoever looks on
//! * [`viewer`]: one who looks on
//! * [`claim`]: who may look on, and who may type
//! * [`lines`]: lines without control characters out of what a guest prints
//! * [`journal`], [`stdout`]: the supervisor's standard output
//!
//! Nobody who looks on costs the guest anything: viewers read out of the ring, and who is too slow is told what they
//! have missed.

pub mod claim;
pub mod hub;
pub mod journal;
pub mod lines;
pub mod ring;
pub mod stdout;
pub mod viewer;

pub use claim::Refused;
pub use hub::Hub;
