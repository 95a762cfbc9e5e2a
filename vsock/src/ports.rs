//! Which ports may be connected to.

use std::collections::BTreeSet;

/// Ports that may be connected to in one direction.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ports(BTreeSet<u32>);

impl Ports {
    /// Whether `port` is one of them.
    pub fn contains(&self, port: u32) -> bool {
        self.0.contains(&port)
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Ascending.
    pub fn iter(&self) -> impl Iterator<Item = u32> {
        self.0.iter().copied()
    }
}

impl FromIterator<u32> for Ports {
    fn from_iter<I: IntoIterator<Item = u32>>(ports: I) -> Self {
        Self(ports.into_iter().collect())
    }
}
