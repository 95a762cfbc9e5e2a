//! Whether KVM is able on this host: not only there, but true to an ordinary guest and fast enough for it.
//!
//! Some hosts offer a `/dev/kvm` that emulates guest kernels an instruction at a time and lacks some of
//! them. A tiny guest finds out: it runs what every Linux guest runs (cmpxchg16b, xsave and xrstor,
//! SYSRET and SYSCALL) and then a counted loop.

mod guest;
mod host;

use std::{
    os::fd::OwnedFd,
    sync::mpsc::{self, Receiver, RecvTimeoutError},
    time::{Duration, Instant},
};

use kvm_bindings::KVM_MAX_CPUID_ENTRIES;
use kvm_ioctls::{Kvm, VcpuExit, VcpuFd};
use serde::Serialize;

use crate::{
    kick,
    kvm::{self, Error},
    memory::{self, Sharing},
};

pub use host::HostKind;

/// Guest instructions a second below which a host is not able.
pub const MIN_INSTRUCTIONS_PER_SECOND: u64 = 20_000_000;

/// How long the tiny guest may take: twice what a host at the limit needs.
const DEADLINE: Duration = Duration::from_secs(4);

/// What the tiny guest does, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Step {
    /// Entering the guest.
    Enter,
    /// `lock cmpxchg16b`.
    Cmpxchg16b,
    /// `xsave` and `xrstor`.
    Xsave,
    /// SYSRET to user mode and SYSCALL back, with the right privilege levels.
    Syscall,
    /// The counted loop.
    Loop,
}

impl Step {
    const ALL: [Self; 5] = [
        Self::Enter,
        Self::Cmpxchg16b,
        Self::Xsave,
        Self::Syscall,
        Self::Loop,
    ];
}

impl std::fmt::Display for Step {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Enter => "enter the guest",
            Self::Cmpxchg16b => "cmpxchg16b",
            Self::Xsave => "xsave and xrstor",
            Self::Syscall => "sysret and syscall",
            Self::Loop => "a counted loop",
        })
    }
}

/// What was found.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// The steps that went right.
    pub passed: Vec<Step>,
    /// Why the host is not able; `None` if it is.
    pub obstacle: Option<String>,
    /// Guest instructions a second, of the counted loop.
    pub instructions_per_second: Option<u64>,
    /// What the host itself runs on.
    pub host: HostKind,
}

impl Report {
    /// Whether Linux guests can run here.
    pub fn is_able(&self) -> bool {
        self.obstacle.is_none()
    }
}

/// Runs the tiny guest on `device`, an open `/dev/kvm`. Takes at most 4 seconds and a little.
pub fn check(device: OwnedFd) -> Result<Report, Error> {
    let kvm = kvm::system(device)?;
    let Prepared { vcpu, _memory } = Prepared::new(&kvm)?;
    let (sender, receiver) = mpsc::channel();
    let thread = kick::spawn("check".to_owned(), vcpu, move |vcpu| run(vcpu, &sender)).map_err(
        |source| Error::Call {
            doing: "start a thread for the check",
            source,
        },
    )?;
    let report = watch(&receiver);
    // Whatever it still does, the guest leaves KVM_RUN now, and its memory stays until then.
    kick::kick(&thread);
    if thread.join().is_err() {
        tracing::error!("the check's thread failed");
    }
    Ok(report)
}

/// What the vCPU's thread tells.
enum Event {
    /// The guest reached the end of a step.
    Passed(u8),
    /// The guest ended, or KVM ended it.
    Ended(String),
}

fn watch(events: &Receiver<Event>) -> Report {
    let mut report = Report {
        passed: Vec::new(),
        obstacle: None,
        instructions_per_second: None,
        host: host::kind(),
    };
    let deadline = Instant::now() + DEADLINE;
    let mut last = Instant::now();
    while let Some(step) = Step::ALL.get(report.passed.len()).copied() {
        let left = deadline.saturating_duration_since(Instant::now());
        let obstacle = match events.recv_timeout(left) {
            Ok(Event::Passed(number)) if usize::from(number) == report.passed.len() + 1 => {
                report.passed.push(step);
                let now = Instant::now();
                if step == Step::Loop {
                    let rate = guest::LOOP_INSTRUCTIONS as f64 / (now - last).as_secs_f64();
                    report.instructions_per_second = Some(rate as u64);
                }
                last = now;
                continue;
            }
            Ok(Event::Passed(_)) => format!("{step}: the result was wrong"),
            Ok(Event::Ended(what)) => format!("{step}: {what}"),
            Err(RecvTimeoutError::Timeout) => {
                format!("{step}: not done within {} s", DEADLINE.as_secs())
            }
            Err(RecvTimeoutError::Disconnected) => format!("{step}: the check itself failed"),
        };
        report.obstacle = Some(obstacle);
        return report;
    }
    let rate = report.instructions_per_second.unwrap_or(0);
    if rate < MIN_INSTRUCTIONS_PER_SECOND {
        report.obstacle = Some(format!(
            "guests run at {rate} instructions a second, needed are {MIN_INSTRUCTIONS_PER_SECOND}"
        ));
    }
    report
}

/// A vCPU at the tiny guest's first instruction, with the memory that it runs in.
struct Prepared {
    vcpu: VcpuFd,
    /// Mapped for as long as the guest runs.
    _memory: minivmm_devices::GuestMemory,
}

impl Prepared {
    fn new(kvm: &Kvm) -> Result<Self, Error> {
        let ram = [minivmm_boot::RamRange {
            base: vm_memory::GuestAddress(0),
            size: guest::MEMORY,
        }];
        let failed = |source: std::io::Error| Error::Call {
            doing: "prepare the check",
            source,
        };
        let memory = memory::allocate(&ram, Sharing::Private)
            .map_err(std::io::Error::other)
            .map_err(failed)?;
        guest::load(&memory)
            .map_err(std::io::Error::other)
            .map_err(failed)?;
        let vm = kvm.create_vm().map_err(Error::call("make a VM"))?;
        kvm::give_memory(&vm, &memory)?;
        let vcpu = vm.create_vcpu(0).map_err(Error::call("make a vCPU"))?;
        let cpuid = kvm
            .get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)
            .map_err(Error::call("say which CPU features it supports"))?;
        vcpu.set_cpuid2(&cpuid)
            .map_err(Error::call("take the guest's CPUID"))?;
        guest::set_registers(&vcpu).map_err(Error::call("set the guest's registers"))?;
        Ok(Self {
            vcpu,
            _memory: memory,
        })
    }
}

/// Runs the guest until it ends, fails or is kicked.
fn run(mut vcpu: VcpuFd, events: &mpsc::Sender<Event>) {
    let ended = loop {
        match vcpu.run() {
            Ok(VcpuExit::IoOut(guest::REPORT_PORT, &[step])) => {
                // Nobody listens any more once the deadline has passed.
                if events.send(Event::Passed(step)).is_err() {
                    return;
                }
            }
            Ok(VcpuExit::Hlt) => return,
            Ok(VcpuExit::Shutdown) => break "the guest faulted".to_owned(),
            Ok(VcpuExit::InternalError) => break "KVM could not emulate it".to_owned(),
            Ok(other) => break format!("KVM left the guest: {other:?}"),
            Err(error) if error.errno() == libc::EAGAIN => {}
            Err(error) => break format!("KVM_RUN failed: {error}"),
        }
    };
    // Nobody listens any more once the deadline has passed.
    let _ = events.send(Event::Ended(ended));
}
