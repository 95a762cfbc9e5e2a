//! How a vCPU thread is made to leave the guest: a signal that is blocked on it but while KVM_RUN runs.
//!
//! So a kick is never lost, never runs a handler, and needs none in this process. The mask is
//! KVM_SET_SIGNAL_MASK, which kvm-ioctls does not have.
#![allow(unsafe_code)]

use std::{
    io,
    sync::mpsc,
    thread::{self, JoinHandle},
};

use kvm_ioctls::VcpuFd;
use vmm_sys_util::{
    ioctl::ioctl_with_ref,
    ioctl_iow_nr,
    signal::{self, Killable},
};

/// `struct kvm_signal_mask` (Linux, include/uapi/linux/kvm.h) with the kernel's 64-bit signal set.
#[repr(C, packed)]
struct SignalMask {
    len: u32,
    sigset: u64,
}

/// The kernel's struct ends in an array without a size, so the call's number counts its first field only.
#[repr(C)]
struct SignalMaskHeader {
    len: u32,
}

ioctl_iow_nr!(
    KVM_SET_SIGNAL_MASK,
    kvm_bindings::KVMIO,
    0x8b,
    SignalMaskHeader
);

fn kick_signal() -> i32 {
    signal::SIGRTMIN()
}

/// Starts a thread called `name` that runs `vcpu` by `run` and can be kicked from the moment this returns.
pub fn spawn<F>(name: String, vcpu: VcpuFd, run: F) -> io::Result<JoinHandle<()>>
where
    F: FnOnce(VcpuFd) + Send + 'static,
{
    let (sender, prepared) = mpsc::channel();
    let thread = thread::Builder::new().name(name).spawn(move || {
        let done = prepare(&vcpu);
        let failed = done.is_err();
        // Whoever started this thread waits for exactly this.
        let _ = sender.send(done);
        if !failed {
            run(vcpu);
        }
    })?;
    // A kick before the signal is blocked would end the process.
    prepared.recv().map_err(io::Error::other)??;
    Ok(thread)
}

/// Blocks the signal on the calling thread, but for the time that it spends in KVM_RUN of `vcpu`.
fn prepare(vcpu: &VcpuFd) -> io::Result<()> {
    match signal::block_signal(kick_signal()) {
        // Whoever started this thread blocks it already.
        Ok(()) | Err(signal::Error::SignalAlreadyBlocked(_)) => {}
        Err(error) => return Err(failed(error)),
    }
    let blocked = signal::get_blocked_signals().map_err(failed)?;
    let sigset = blocked
        .into_iter()
        .filter(|number| *number != kick_signal() && (1..=64).contains(number))
        .fold(0u64, |set, number| set | 1 << (number - 1));
    let mask = SignalMask { len: 8, sigset };
    // SAFETY: the kernel reads `len` and that many bytes behind it, which `SignalMask` has.
    match unsafe { ioctl_with_ref(vcpu, KVM_SET_SIGNAL_MASK(), &mask) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Makes the vCPU of `thread` leave the guest, now or, if it is not in it, as soon as it enters.
pub fn kick<T>(thread: &JoinHandle<T>) {
    if let Err(error) = thread.kill(kick_signal()) {
        tracing::debug!(%error, "a vCPU that was to be kicked has ended");
    }
}

/// Takes a kick away that made KVM_RUN fail with EINTR: it stays pending, and KVM_RUN would return at
/// once for ever.
pub fn take() {
    if let Err(error) = signal::clear_signal(kick_signal()) {
        tracing::warn!("cannot take a pending kick away: {error:?}");
    }
}

fn failed(error: signal::Error) -> io::Error {
    io::Error::other(format!("{error:?}"))
}
