//! The first register values of the vCPUs.

use kvm_bindings::{Msrs, kvm_msr_entry, kvm_segment};
use kvm_ioctls::VcpuFd;
use minivmm_boot::{BootCpu, cpu::Segment};

use super::Error;

/// IA32_MTRR_DEF_TYPE: MTRRs on, no fixed ranges, write-back by default (Intel SDM volume 3, 13.11.2.1).
const MTRR_DEF_TYPE: (u32, u64) = (0x2FF, 1 << 11 | 6);

/// What firmware would have set on every CPU.
pub fn set_common(vcpu: &VcpuFd) -> Result<(), Error> {
    let entry = kvm_msr_entry {
        index: MTRR_DEF_TYPE.0,
        data: MTRR_DEF_TYPE.1,
        ..Default::default()
    };
    let failed = |source| Error::Call {
        doing: "set the guest's MTRR default type",
        source,
    };
    let msrs = Msrs::from_entries(&[entry]).map_err(|e| failed(std::io::Error::other(e)))?;
    match vcpu.set_msrs(&msrs) {
        Ok(1) => Ok(()),
        Ok(_) => Err(failed(std::io::Error::other("the MSR was refused"))),
        Err(error) => Err(failed(error.into())),
    }
}

/// The boot CPU at the kernel's entry. Other CPUs wait for INIT and SIPI as KVM made them.
pub fn set_boot(vcpu: &VcpuFd, boot: &BootCpu) -> Result<(), Error> {
    let doing = "set the boot CPU's registers";
    let mut sregs = vcpu.get_sregs().map_err(Error::call(doing))?;
    (sregs.cr0, sregs.cr3, sregs.cr4) = (boot.cr0, boot.cr3, boot.cr4);
    sregs.efer = boot.efer;
    (sregs.gdt.base, sregs.gdt.limit) = (boot.gdt.base, boot.gdt.limit);
    (sregs.idt.base, sregs.idt.limit) = (boot.idt.base, boot.idt.limit);
    sregs.cs = segment(&boot.cs);
    let data = segment(&boot.data);
    (sregs.ds, sregs.es, sregs.fs, sregs.gs, sregs.ss) = (data, data, data, data, data);
    sregs.tr = segment(&boot.tr);
    vcpu.set_sregs(&sregs).map_err(Error::call(doing))?;
    let mut regs = vcpu.get_regs().map_err(Error::call(doing))?;
    (regs.rip, regs.rsp, regs.rflags) = (boot.rip, boot.rsp, boot.rflags);
    (regs.rsi, regs.rbx) = (boot.rsi, boot.rbx);
    vcpu.set_regs(&regs).map_err(Error::call(doing))
}

fn segment(segment: &Segment) -> kvm_segment {
    kvm_segment {
        base: segment.base,
        limit: segment.limit,
        selector: segment.selector,
        type_: segment.type_,
        present: segment.present.into(),
        dpl: segment.dpl,
        db: segment.db.into(),
        s: segment.s.into(),
        l: segment.l.into(),
        g: segment.g.into(),
        ..Default::default()
    }
}
