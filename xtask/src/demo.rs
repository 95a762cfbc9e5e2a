//! The demo: `examples/adguard.toml` from nothing to a DNS filter that keeps its data, where KVM is able.

mod inside;
mod network;
mod vm;

use std::env;
use std::ffi::OsString;
use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result, bail};

use crate::command::is_root;
use crate::lab::{self, Job};
use crate::progress::{Steps, seconds};
use crate::{guest, test, tools, workspace};

pub use inside::run as run_inside;

/// Makes what is missing and runs the demo.
pub fn run() -> Result<u8> {
    let begin = Instant::now();
    let steps = Steps::new(4);
    steps.step("Debian packages", tools::packages)?;
    let virtiofsd = steps.loud("virtiofsd, from its crate", tools::virtiofsd)?;
    steps.step("the guest, from Debian packages", guest::dns)?;
    steps.loud("minivmm", test::build_minivmm)?;
    steps.finish("what the demo needs");

    let code = lab::run(&job(&virtiofsd)?, None)?;
    if code == 0 {
        println!("demo: all of it worked, in {}", seconds(begin.elapsed()));
    }
    Ok(code)
}

/// This program again, with a mount namespace of its own: network namespaces are named by mounts, so the kernel takes
/// them away when the demo ends, however it ends.
fn job(virtiofsd: &Path) -> Result<Job> {
    let this = env::current_exe().context("cannot find this program")?;
    let mut command: Vec<OsString> = ["unshare", "--mount", "--propagation", "private", "--"]
        .map(OsString::from)
        .into();
    command.extend([this.into(), "demo-inside".into()]);
    let mut job = Job::new(command);

    // minivmm looks for virtiofsd where every program is looked for.
    let mut path = OsString::from(virtiofsd.parent().unwrap_or(virtiofsd));
    path.push(":");
    path.push(env::var_os("PATH").unwrap_or_default());
    job.environment = vec![
        ("PATH".to_owned(), path),
        ("CARGO_TARGET_DIR".to_owned(), workspace::target().into()),
    ];
    Ok(job)
}

/// Network namespaces and taps are made by root; in the lab that is everybody.
fn need_root() -> Result<()> {
    if !is_root() {
        bail!("the demo makes network namespaces and a tap, which takes root: sudo -E make demo");
    }
    Ok(())
}
