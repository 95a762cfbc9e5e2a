//! What a host must have for a configuration, beside an able KVM.

use kvm_ioctls::Kvm;

use crate::VmConfig;

/// Why this host cannot run a configuration that another one could; each is one line that names the key.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum Error {
    /// More memory than the host has.
    #[error("mem: {mem} MiB are more than the {host} MiB of this host: give the VM less")]
    Memory {
        /// What the configuration says, MiB.
        mem: u32,
        /// MemTotal of the host, MiB.
        host: u64,
    },
    /// More vCPUs than KVM gives a VM.
    #[error("vcpu: {vcpu} are more than the {most} that this host's KVM gives a VM")]
    Vcpus {
        /// What the configuration says.
        vcpu: u8,
        /// KVM_CAP_MAX_VCPUS.
        most: usize,
    },
}

/// Checks that the host has the memory. What other programs use of it, and swap, do not count: neither stays as it is.
pub fn check_memory(config: &VmConfig) -> Result<(), Error> {
    // The figure that /proc/meminfo calls MemTotal.
    let info = rustix::system::sysinfo();
    fits_memory(config.mem, (info.totalram * u64::from(info.mem_unit)) >> 20)
}

/// Checks that KVM can run so many vCPUs in one VM.
pub fn check_vcpus(config: &VmConfig, kvm: &Kvm) -> Result<(), Error> {
    fits_vcpus(config.vcpu, kvm.get_max_vcpus())
}

fn fits_memory(mem: u32, host: u64) -> Result<(), Error> {
    match u64::from(mem) <= host {
        true => Ok(()),
        false => Err(Error::Memory { mem, host }),
    }
}

fn fits_vcpus(vcpu: u8, most: usize) -> Result<(), Error> {
    match usize::from(vcpu) <= most {
        true => Ok(()),
        false => Err(Error::Vcpus { vcpu, most }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_vm_may_have_all_of_the_hosts_memory_and_not_a_mib_more() {
        assert_eq!(fits_memory(8192, 8192), Ok(()));
        let refused = fits_memory(8193, 8192).map_err(|error| error.to_string());
        let said = "mem: 8193 MiB are more than the 8192 MiB of this host: give the VM less";
        assert_eq!(refused, Err(said.to_owned()));
    }

    #[test]
    fn a_vm_may_have_as_many_vcpus_as_kvm_gives_and_not_one_more() {
        assert_eq!(fits_vcpus(16, 16), Ok(()));
        let refused = fits_vcpus(17, 16).map_err(|error| error.to_string());
        let said = "vcpu: 17 are more than the 16 that this host's KVM gives a VM";
        assert_eq!(refused, Err(said.to_owned()));
    }
}
