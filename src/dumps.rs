//! No core dumps.

use rustix::{
    io,
    process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit},
};

/// No core dump of this process, which has secrets or the guest's memory, or of one that it starts as it is; and no other
/// process of this user looks into it.
pub fn forbid() {
    if let Err(error) = try_to_forbid() {
        tracing::warn!("cannot forbid core dumps: {error}");
    }
}

fn try_to_forbid() -> io::Result<()> {
    let none = Rlimit {
        current: Some(0),
        maximum: Some(0),
    };
    setrlimit(Resource::Core, none)?;
    set_dumpable_behavior(DumpableBehavior::NotDumpable)
}
