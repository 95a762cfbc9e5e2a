//! What CPUID says in the guest: the host's features minus what a service VM has no use for, and a
//! topology of one socket with one thread to a core.
//!
//! Leaves and bits: Intel SDM volume 2A, CPUID; AMD APM volume 3, appendix E.

use kvm_bindings::{CpuId, KVM_MAX_CPUID_ENTRIES, kvm_cpuid_entry2};
use kvm_ioctls::Kvm;

use super::Error;

/// KVM_CAP_TSC_DEADLINE_TIMER (Linux, include/uapi/linux/kvm.h): KVM has the timer although its list of
/// CPUID features does not say so before Linux 6.15.
const TSC_DEADLINE_TIMER: u64 = 72;

mod bit {
    pub const VMX: u32 = 1 << 5;
    pub const TSC_DEADLINE: u32 = 1 << 24;
    pub const HYPERVISOR: u32 = 1 << 31;
    pub const HTT: u32 = 1 << 28;
    pub const SGX: u32 = 1 << 2;
    pub const SGX_LC: u32 = 1 << 30;
    pub const PROCESSOR_TRACE: u32 = 1 << 25;
    pub const CMP_LEGACY: u32 = 1 << 1;
    pub const SVM: u32 = 1 << 2;
    pub const IBS: u32 = 1 << 10;
    pub const PERFCTR: u32 = 1 << 23 | 1 << 24 | 1 << 28;
    pub const PDCM: u32 = 1 << 15;
}

/// What every vCPU's CPUID has in common.
pub struct Template {
    entries: Vec<kvm_cpuid_entry2>,
    cpus: u8,
}

impl Template {
    /// From what this host's KVM supports, for a machine of `cpus` vCPUs.
    pub fn new(kvm: &Kvm, cpus: u8) -> Result<Self, Error> {
        let supported = kvm
            .get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)
            .map_err(Error::call("say which CPU features it supports"))?;
        let deadline = kvm.check_extension_raw(TSC_DEADLINE_TIMER) > 0;
        let mut entries = supported.as_slice().to_vec();
        // The leaves of the topology are written anew, for each vCPU.
        entries.retain(|e| !matches!(e.function, 0xB | 0x1F));
        for entry in &mut entries {
            reduce(entry, deadline);
        }
        Ok(Self { entries, cpus })
    }

    /// The CPUID of the vCPU with APIC id `id`.
    pub fn for_vcpu(&self, id: u8) -> Result<CpuId, Error> {
        let mut entries = self.entries.clone();
        for entry in &mut entries {
            place(entry, id, self.cpus);
        }
        let has_extended_topology = entries.iter().any(|e| e.function == 0 && e.eax >= 0xB);
        if has_extended_topology {
            entries.extend(extended_topology(id, self.cpus));
        }
        CpuId::from_entries(&entries).map_err(|error| Error::Call {
            doing: "take the guest's CPUID",
            source: std::io::Error::other(error),
        })
    }
}

/// Takes away what a service VM has no use for: nested virtualization, performance counters, enclaves,
/// processor trace, memory encryption.
fn reduce(entry: &mut kvm_cpuid_entry2, tsc_deadline: bool) {
    let clear = |e: &mut kvm_cpuid_entry2| (e.eax, e.ebx, e.ecx, e.edx) = (0, 0, 0, 0);
    match (entry.function, entry.index) {
        (0x1, _) => {
            entry.ecx &= !(bit::VMX | bit::PDCM);
            entry.ecx |= bit::HYPERVISOR;
            if tsc_deadline {
                entry.ecx |= bit::TSC_DEADLINE;
            }
        }
        (0x7, 0) => {
            entry.ebx &= !(bit::SGX | bit::PROCESSOR_TRACE);
            entry.ecx &= !bit::SGX_LC;
        }
        (0xA | 0x12 | 0x14, _) => clear(entry),
        (0x8000_0001, _) => entry.ecx &= !(bit::SVM | bit::IBS | bit::PERFCTR),
        (0x8000_000A | 0x8000_001B | 0x8000_001F | 0x8000_0022, _) => clear(entry),
        _ => {}
    }
}

/// Writes the vCPU's place in the topology into the leaves that carry it.
fn place(entry: &mut kvm_cpuid_entry2, id: u8, cpus: u8) {
    let (id, cpus) = (u32::from(id), u32::from(cpus));
    let others = cpus.saturating_sub(1);
    match entry.function {
        0x1 => {
            entry.ebx = entry.ebx & 0x0000_FFFF | cpus << 16 | id << 24;
            entry.edx = with(entry.edx, bit::HTT, cpus > 1);
        }
        // Deterministic cache parameters: which logical processors share a cache (Intel leaf 4, AMD
        // leaf 0x8000_001D); level 3 belongs to all cores, the others to one.
        0x4 | 0x8000_001D => {
            let (kind, level) = (entry.eax & 0x1F, entry.eax >> 5 & 0x7);
            if kind != 0 {
                // Intel counts ids that could be, AMD processors that are.
                let most = match entry.function {
                    0x4 => (1 << apic_id_bits(cpus)) - 1,
                    _ => others,
                };
                let sharing = if level >= 3 { most } else { 0 };
                entry.eax = entry.eax & !(0xFFF << 14) | sharing << 14;
                if entry.function == 0x4 {
                    entry.eax = entry.eax & !(0x3F << 26) | most.min(0x3F) << 26;
                }
            }
        }
        // On AMD: leaf 1 counts cores, not threads. Intel's CPUs do not know the bit.
        0x8000_0001 if cpus == 1 => entry.ecx &= !bit::CMP_LEGACY,
        0x8000_0008 => entry.ecx = entry.ecx & !0xF0FF | others | apic_id_bits(cpus) << 12,
        0x8000_001E => {
            entry.eax = id;
            entry.ebx = id; // core id, and no other thread in the core
            entry.ecx = 0;
        }
        _ => {}
    }
}

/// Leaf 0xB, the extended topology: level 0 is the thread, level 1 the core.
fn extended_topology(id: u8, cpus: u8) -> [kvm_cpuid_entry2; 3] {
    // KVM_CPUID_FLAG_SIGNIFCANT_INDEX
    const INDEXED: u32 = 1;
    let level = |index: u32, shift: u32, count: u32, kind: u32| kvm_cpuid_entry2 {
        function: 0xB,
        index,
        flags: INDEXED,
        eax: shift,
        ebx: count,
        ecx: index | kind << 8,
        edx: id.into(),
        ..Default::default()
    };
    [
        level(0, 0, 1, 1),
        level(1, apic_id_bits(cpus.into()), cpus.into(), 2),
        level(2, 0, 0, 0),
    ]
}

/// Bits of an APIC id that tell cores apart.
fn apic_id_bits(cpus: u32) -> u32 {
    cpus.next_power_of_two().trailing_zeros()
}

fn with(register: u32, bit: u32, set: bool) -> u32 {
    if set { register | bit } else { register & !bit }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(function: u32, index: u32) -> kvm_cpuid_entry2 {
        kvm_cpuid_entry2 {
            function,
            index,
            eax: u32::MAX,
            ebx: u32::MAX,
            ecx: u32::MAX,
            edx: u32::MAX,
            ..Default::default()
        }
    }

    #[test]
    fn nested_virtualization_and_counters_are_taken_away() {
        let mut leaf1 = entry(1, 0);
        reduce(&mut leaf1, false);
        assert_eq!(leaf1.ecx & bit::VMX, 0);
        let mut extended = entry(0x8000_0001, 0);
        reduce(&mut extended, false);
        assert_eq!(extended.ecx & (bit::SVM | bit::PERFCTR), 0);
        let mut pmu = entry(0xA, 0);
        reduce(&mut pmu, false);
        assert_eq!((pmu.eax, pmu.edx), (0, 0));
    }

    #[test]
    fn each_vcpu_is_a_core_of_its_own() {
        for (cpus, bits) in [(1, 0), (2, 1), (3, 2), (4, 2), (32, 5)] {
            let [thread, core, end] = extended_topology(cpus - 1, cpus);
            assert_eq!((thread.eax, thread.ebx), (0, 1), "one thread to a core");
            assert_eq!((core.eax, core.ebx), (bits, cpus.into()));
            assert_eq!(end.ebx, 0);
            assert_eq!(core.edx, u32::from(cpus - 1));
        }
        let mut leaf1 = entry(1, 0);
        place(&mut leaf1, 3, 4);
        assert_eq!(leaf1.ebx >> 16, 0x0304);
        let mut amd = entry(0x8000_001E, 0);
        place(&mut amd, 3, 4);
        assert_eq!((amd.eax, amd.ebx >> 8 & 0xFF), (3, 0));
    }
}
