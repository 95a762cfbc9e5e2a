//! Debian's static busybox in an initramfs.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use crate::command::{capture_text, program};
use crate::cpio::Archive;

/// Adds busybox, and a link for each of its applets, from the package unpacked in `root`.
pub fn add(root: &Path, archive: &mut Archive) -> Result<()> {
    let busybox = root.join("bin/busybox");
    for applet in capture_text(program(&busybox).arg("--list"))?.lines() {
        if applet != "busybox" {
            archive.symlink(&format!("bin/{applet}"), "busybox");
        }
    }
    let content =
        fs::read(&busybox).with_context(|| format!("cannot read {}", busybox.display()))?;
    archive.file("bin/busybox", 0o755, content);
    Ok(())
}
