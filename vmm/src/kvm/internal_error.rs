//! Why KVM gave up on a guest (KVM_EXIT_INTERNAL_ERROR; Linux, Documentation/virt/kvm/api.rst, `struct kvm_run`).

use std::fmt::{self, Write};

use kvm_bindings::{
    KVM_INTERNAL_ERROR_DELIVERY_EV, KVM_INTERNAL_ERROR_EMULATION,
    KVM_INTERNAL_ERROR_EMULATION_FLAG_INSTRUCTION_BYTES, KVM_INTERNAL_ERROR_SIMUL_EX,
    KVM_INTERNAL_ERROR_UNEXPECTED_EXIT_REASON, kvm_run,
};
use kvm_ioctls::VcpuFd;

/// In words what the last KVM_RUN of `vcpu`, which ended with an internal error, says of it: kind, the instruction's bytes if
/// KVM has them, and where the guest was.
pub fn describe(vcpu: &mut VcpuFd) -> String {
    let error = InternalError::from_run(vcpu.get_kvm_run());
    let mut what = error.to_string();
    if let Ok(registers) = vcpu.get_regs() {
        // Writing to a string cannot fail.
        let _ = write!(what, " at RIP {:#x}", registers.rip);
    }
    what
}

/// What KVM says of an internal error.
#[derive(Debug, Default, PartialEq, Eq)]
struct InternalError {
    /// KVM_INTERNAL_ERROR_….
    suberror: u32,
    /// The first bytes at the instruction that could not be emulated; none if KVM does not know them.
    instruction: Vec<u8>,
    /// What is not known to be an instruction, as it is.
    data: Vec<u64>,
}

impl InternalError {
    #[allow(unsafe_code)]
    fn from_run(run: &kvm_run) -> Self {
        // SAFETY: all variants of the union are integers of any value; after KVM_EXIT_INTERNAL_ERROR this one is meant.
        let internal = unsafe { run.__bindgen_anon_1.internal };
        let count = internal.data.len().min(internal.ndata as usize);
        Self::new(internal.suberror, &internal.data[..count])
    }

    /// `data[0]` has flags if it is a failed emulation; then a byte with the number of the instruction's bytes, and these.
    fn new(suberror: u32, data: &[u64]) -> Self {
        if let (KVM_INTERNAL_ERROR_EMULATION, [flags, first, second, ..]) = (suberror, data)
            && flags & u64::from(KVM_INTERNAL_ERROR_EMULATION_FLAG_INSTRUCTION_BYTES) != 0
        {
            let [size, bytes @ ..] = first.to_le_bytes();
            let bytes = bytes.into_iter().chain(second.to_le_bytes());
            return Self {
                suberror,
                instruction: bytes.take(size.into()).collect(),
                data: Vec::new(),
            };
        }
        Self {
            suberror,
            instruction: Vec::new(),
            data: data.to_vec(),
        }
    }
}

impl fmt::Display for InternalError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.suberror {
            KVM_INTERNAL_ERROR_EMULATION => f.write_str("KVM could not emulate an instruction")?,
            KVM_INTERNAL_ERROR_SIMUL_EX => f.write_str("KVM met two exceptions at once")?,
            KVM_INTERNAL_ERROR_DELIVERY_EV => f.write_str("KVM could not deliver an event")?,
            KVM_INTERNAL_ERROR_UNEXPECTED_EXIT_REASON => {
                f.write_str("the CPU left the guest for a reason that KVM does not know")?;
            }
            other => write!(f, "KVM failed in a way of its own (suberror {other})")?,
        }
        for (index, byte) in self.instruction.iter().enumerate() {
            let before = if index == 0 { ":" } else { "" };
            write!(f, "{before} {byte:02x}")?;
        }
        if !self.data.is_empty() {
            let data: Vec<_> = self.data.iter().map(|data| format!("{data:#x}")).collect();
            write!(f, " ({})", data.join(", "))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bytes_of_an_instruction_that_was_not_emulated_are_said() {
        let first = u64::from_le_bytes([15, 0x0f, 0x0b, 1, 2, 3, 4, 5]);
        let second = u64::from_le_bytes([6, 7, 8, 9, 10, 11, 12, 13]);
        let error = InternalError::new(KVM_INTERNAL_ERROR_EMULATION, &[1, first, second]);
        assert_eq!(
            error.to_string(),
            "KVM could not emulate an instruction: 0f 0b 01 02 03 04 05 06 07 08 09 0a 0b 0c 0d"
        );
    }

    #[test]
    fn a_size_beyond_what_there_is_takes_all_and_no_more() {
        let error = InternalError::new(KVM_INTERNAL_ERROR_EMULATION, &[1, u64::MAX, 0]);
        assert_eq!(error.instruction.len(), 15);
    }

    #[test]
    fn what_is_no_instruction_is_said_as_it_is() {
        let error = InternalError::new(KVM_INTERNAL_ERROR_DELIVERY_EV, &[0x8000_0202, 3]);
        assert_eq!(
            error.to_string(),
            "KVM could not deliver an event (0x80000202, 0x3)"
        );
        let error = InternalError::new(99, &[]);
        assert_eq!(
            error.to_string(),
            "KVM failed in a way of its own (suberror 99)"
        );
    }
}
