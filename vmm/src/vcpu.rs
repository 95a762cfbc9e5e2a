//! A vCPU: one thread that runs the guest and carries its exits to the buses.

use std::{
    io,
    sync::Arc,
    thread::{self, JoinHandle},
};

use kvm_ioctls::{VcpuExit, VcpuFd};
use minivmm_devices::bus::Bus;

use crate::{
    end::{End, EndReport},
    gate::{Gate, Passed},
    kick,
    kvm::internal_error,
    metrics::{Exit, ExitCounters},
};

/// Where a vCPU's exits go.
pub struct Buses {
    /// Port I/O.
    pub ports: Bus,
    /// Memory-mapped I/O.
    pub mmio: Bus,
}

/// What all vCPUs of a VM share.
pub struct Shared {
    /// The devices.
    pub buses: Buses,
    /// Where an end is reported.
    pub end: Arc<EndReport>,
    /// Whether a triple fault is how this guest restarts.
    pub triple_fault_is_reset: bool,
    /// How often each vCPU has left the guest.
    pub exits: Vec<ExitCounters>,
    /// What is wanted of the vCPUs beside running the guest.
    pub gate: Gate,
}

/// A vCPU's thread.
pub struct Vcpu {
    thread: JoinHandle<()>,
}

impl Vcpu {
    /// Lets `vcpu` run on a thread of its own until the gate is [stopped](Gate::stop) and it is kicked.
    pub fn spawn(id: u8, vcpu: VcpuFd, shared: Arc<Shared>) -> io::Result<Self> {
        let name = format!("vcpu{id}");
        let thread = kick::spawn(name, vcpu, move |vcpu| run(id, vcpu, &shared))?;
        Ok(Self { thread })
    }

    /// Makes the vCPU leave the guest, now or, if it is not in it, as soon as it enters.
    pub fn kick(&self) {
        kick::kick(&self.thread);
    }

    /// Waits for the thread's end.
    pub fn join(self) {
        if self.thread.join().is_err() {
            tracing::error!("a vCPU thread failed");
        }
    }
}

/// Reports a vCPU thread that panics, where a panic does not end the process: a VM without one of its vCPUs
/// would stand still for ever.
struct Guard<'a> {
    id: u8,
    shared: &'a Shared,
}

impl Drop for Guard<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            let what = format!("vCPU {}: its thread failed: a defect of minivmm", self.id);
            self.shared.end.report(End::Fault { what });
        }
    }
}

/// Tells a guest with KVM's clock that it was not run for a while, so that none of its watchdogs takes its own silence
/// for a lockup (Linux, Documentation/virt/kvm/api.rst, KVM_KVMCLOCK_CTRL).
fn excuse(vcpu: &VcpuFd) {
    // A guest without that clock, EINVAL, is told nothing.
    if let Err(error) = vcpu.kvmclock_ctrl()
        && error.errno() != libc::EINVAL
    {
        tracing::warn!("the guest cannot be told that it was paused: {error}");
    }
}

fn run(id: u8, mut vcpu: VcpuFd, shared: &Shared) {
    let _guard = Guard { id, shared };
    let exits = &shared.exits[usize::from(id)];
    let mut calls = 0;
    loop {
        let now = shared.gate.calls();
        if std::mem::replace(&mut calls, now) != now {
            match shared.gate.pass(id) {
                Passed::Through => {}
                Passed::AfterPause => excuse(&vcpu),
                Passed::Stop => return,
            }
        }
        let fault = match vcpu.run() {
            Ok(VcpuExit::IoOut(port, data)) => {
                exits.count(Exit::IoOut);
                shared.buses.ports.write(port.into(), data);
                continue;
            }
            Ok(VcpuExit::IoIn(port, data)) => {
                exits.count(Exit::IoIn);
                shared.buses.ports.read(port.into(), data);
                continue;
            }
            Ok(VcpuExit::MmioRead(address, data)) => {
                exits.count(Exit::MmioRead);
                shared.buses.mmio.read(address, data);
                continue;
            }
            Ok(VcpuExit::MmioWrite(address, data)) => {
                exits.count(Exit::MmioWrite);
                shared.buses.mmio.write(address, data);
                continue;
            }
            Ok(VcpuExit::Shutdown) => {
                exits.count(Exit::Other);
                return shared.end.report(match shared.triple_fault_is_reset {
                    true => End::Reset,
                    false => End::TripleFault,
                });
            }
            Ok(VcpuExit::Intr) => {
                exits.count(Exit::Interrupted);
                continue;
            }
            Err(error) if error.errno() == libc::EINTR => {
                exits.count(Exit::Interrupted);
                kick::take();
                continue;
            }
            Err(error) if error.errno() == libc::EAGAIN => continue,
            Ok(VcpuExit::InternalError) => internal_error::describe(&mut vcpu),
            Ok(VcpuExit::FailEntry(reason, cpu)) => {
                format!("the CPU refused to enter the guest (reason {reason:#x} on host CPU {cpu})")
            }
            Ok(other) => format!("KVM left the guest for an unexpected reason: {other:?}"),
            Err(error) => format!("KVM_RUN failed: {error}"),
        };
        exits.count(Exit::Other);
        let what = format!("vCPU {id}: {fault}; `minivmm check` says whether KVM is able here");
        return shared.end.report(End::Fault { what });
    }
}
