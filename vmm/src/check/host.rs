//! What the host itself runs on.

use std::arch::x86_64::__cpuid;

use serde::Serialize;

/// Bare metal or a VM, as CPUID tells.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum HostKind {
    /// No hypervisor is seen.
    BareMetal,
    /// A VM of the hypervisor with this signature (CPUID leaf 0x4000_0000), as `KVMKVMKVM`.
    Virtual {
        /// Its signature.
        hypervisor: String,
    },
}

impl std::fmt::Display for HostKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::BareMetal => f.write_str("bare metal"),
            Self::Virtual { hypervisor } => write!(f, "itself virtual ({hypervisor})"),
        }
    }
}

/// CPUID leaf 1 ECX bit 31 is set by every hypervisor; leaf 0x4000_0000 has its signature.
pub fn kind() -> HostKind {
    if __cpuid(1).ecx & 1 << 31 == 0 {
        return HostKind::BareMetal;
    }
    let leaf = __cpuid(0x4000_0000);
    let bytes = [leaf.ebx, leaf.ecx, leaf.edx]
        .map(u32::to_le_bytes)
        .concat();
    let signature: String = bytes
        .iter()
        .filter(|b| b.is_ascii_graphic())
        .map(|b| char::from(*b))
        .collect();
    HostKind::Virtual {
        hypervisor: if signature.is_empty() {
            "unknown hypervisor".to_owned()
        } else {
            signature
        },
    }
}
