//! Every limit of a configuration, as a number.

/// The limits that [`VmConfig::validate`](super::VmConfig::validate) holds a configuration to.
pub struct Limits;

impl Limits {
    /// Bytes of a VM's name.
    pub const NAME: usize = 64;
    /// vCPUs of a VM. Their APIC ids stay below 255, so that no interrupt remapping is needed.
    pub const VCPU: u8 = 32;
    /// Least memory, MiB: a distribution kernel does not unpack itself in less.
    pub const MEM_MIN: u32 = 64;
    /// Most memory, MiB: 1 TiB.
    pub const MEM_MAX: u32 = 1024 * 1024;
    /// Interfaces, one for each of their PCI slots.
    pub const INTERFACES: usize = 8;
    /// Shares, one for each of their PCI slots.
    pub const SHARES: usize = 8;
    /// Name servers of an interface that `ip=` can carry.
    pub const DNS: usize = 2;
    /// Bytes of an interface's name (IFNAMSIZ without its end).
    pub const INTERFACE_NAME: usize = 15;
    /// Bytes of a configuration file.
    pub const FILE: u64 = 1024 * 1024;
}
