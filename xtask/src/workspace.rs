//! Where things are in the checkout.

use std::env;
use std::path::{Path, PathBuf};

/// The checkout's directory.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("this crate's directory is inside the workspace")
}

/// Cargo's target directory, absolute.
pub fn target() -> PathBuf {
    match env::var_os("CARGO_TARGET_DIR") {
        Some(directory) => root().join(directory),
        None => root().join("target"),
    }
}

/// What is made or downloaded for the lab, the guests and the demo. It may be removed at any time.
pub fn cache() -> PathBuf {
    target().join("lab")
}

/// The launcher, as `cargo build --release` makes it.
pub fn minivmm() -> PathBuf {
    target().join("release/minivmm")
}
