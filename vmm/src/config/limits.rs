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
    /// Volumes, one for each of their PCI slots.
    pub const VOLUMES: usize = 10;
    /// Most MiB of a volume that is made: 16 TiB.
    pub const VOLUME_SIZE: u32 = 16 * 1024 * 1024;
    /// Bytes of the name of a file system.
    pub const FS_TYPE: usize = 32;
    /// Bytes of a file system's label, as many as ext4 takes.
    pub const LABEL: usize = 16;
    /// Bytes of a disk's serial number.
    pub const SERIAL: usize = minivmm_block::SERIAL_MAX;
    /// Bytes of the path of a socket (unix(7), `sun_path` without its end).
    pub const SOCKET_PATH: usize = 107;
    /// Least host id of a shifted guest's root: the ids below are the host's own.
    pub const IDS_BASE_MIN: u32 = 65_536;
    /// Most: the guest's 65536 ids end before 4294967295, which is none.
    pub const IDS_BASE_MAX: u32 = u32::MAX - 65_536;
    /// Bytes of a credential's name.
    pub const CREDENTIAL_NAME: usize = 255;
    /// Threads of a share's virtiofsd.
    pub const THREADS: u8 = 64;
    /// Name servers of an interface that `ip=` can carry.
    pub const DNS: usize = 2;
    /// Bytes of an interface's name (IFNAMSIZ without its end).
    pub const INTERFACE_NAME: usize = minivmm_net::name::NAME_MAX;
    /// Pairs of queues of an interface.
    pub const QUEUES: usize = minivmm_net::PAIRS_MAX;
    /// Least MTU of an interface; IPv6 needs 1280.
    pub const MTU_MIN: u16 = minivmm_net::MTU_MIN;
    /// Most: what a tap takes.
    pub const MTU_MAX: u16 = minivmm_net::MTU_MAX;
    /// The lowest descriptor that can be a tap: those below are the standard ones.
    pub const FD_MIN: i32 = 3;
    /// Least address of a guest: those below are the hypervisor's, the host's own and the host's (vsock(7)).
    pub const CID_MIN: u32 = 3;
    /// Most: the last one is any address.
    pub const CID_MAX: u32 = u32::MAX - 1;
    /// Least port of a stream between guest and host.
    pub const VSOCK_PORT_MIN: u32 = 1;
    /// Most: the last one is any port.
    pub const VSOCK_PORT_MAX: u32 = u32::MAX - 1;
    /// Ports of both sides that may be connected to.
    pub const VSOCK_ALLOW: usize = 64;
    /// Least seconds of the guest's watchdog.
    pub const WATCHDOG_MIN: u64 = 1;
    /// Most: a day.
    pub const WATCHDOG_MAX: u64 = 24 * 60 * 60;
    /// Least seconds between two writes of the metrics' file.
    pub const METRICS_INTERVAL_MIN: u64 = 1;
    /// Most: a day.
    pub const METRICS_INTERVAL_MAX: u64 = 24 * 60 * 60;
    /// Bytes of a configuration file.
    pub const FILE: u64 = 1024 * 1024;
}
