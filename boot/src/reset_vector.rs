//! The reset vector: what a guest finds that restarts as on a PC, by jumping to the firmware in real mode.
//!
//! Linux does so with `reboot=bios`, and by itself on a machine with hardware-reduced ACPI and without EFI. There is no
//! firmware; the vector writes the ACPI reset register, so that such a guest is reset and does not run into nothing.

use vm_memory::GuestMemoryMmap;

use crate::{Error, layout::RESET_VECTOR, platform::AcpiHardware};

/// 16-bit code: `mov dx, PORT; mov al, VALUE; out dx, al`, then `hlt` for ever.
fn code(hardware: &AcpiHardware) -> [u8; 9] {
    let [low, high] = hardware.reset.to_le_bytes();
    [
        0xba,
        low,
        high,
        0xb0,
        hardware.reset_value,
        0xee,
        0xf4,
        0xeb,
        0xfd,
    ]
}

/// Writes the reset vector.
pub(crate) fn write(memory: &GuestMemoryMmap, hardware: &AcpiHardware) -> Result<(), Error> {
    crate::write(
        memory,
        "the reset vector",
        RESET_VECTOR.start,
        &code(hardware),
    )
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use vm_memory::{Bytes, GuestAddress};

    use super::*;
    use crate::test_utils::{memory, platform};

    #[test]
    fn the_code_at_f000_fff0_writes_the_reset_register() {
        let platform = platform(4);
        let memory = memory(&platform);
        write(&memory, &platform.acpi).unwrap();
        let mut code = [0; 9];
        memory
            .read_slice(&mut code, GuestAddress(0xf_fff0))
            .unwrap();
        assert_eq!(code[..6], [0xba, 0x02, 0x06, 0xb0, 0x01, 0xee]);
        // The jump leads back to the halt.
        assert_eq!(code[6..], [0xf4, 0xeb, 0xfd]);
        assert_eq!(9 + i32::from(code[8] as i8), 6);
    }
}
