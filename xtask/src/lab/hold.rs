//! Keeps a VM in the lab machine, so that KVM never goes from no VM to one: see `xtask/lab/session`.

use std::thread;

use anyhow::{Context, Result};
use kvm_ioctls::Kvm;

/// Makes a VM, says so, and keeps it until this process is killed.
pub fn hold_vm() -> Result<u8> {
    let kvm = Kvm::new().context("cannot open /dev/kvm")?;
    let _vm = kvm.create_vm().context("cannot make a VM")?;
    println!("held");
    loop {
        thread::park();
    }
}
