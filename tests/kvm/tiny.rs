//! A kernel of our own, for ends that Linux does not come to: it prints a line and does one thing.

use anyhow::Result;

/// What it does after its line.
#[derive(Clone, Copy)]
pub enum Last {
    /// An exception with an empty interrupt descriptor table.
    TripleFault,
    /// Writes ACPI's reset register.
    Reset,
    /// Sleeps until an interrupt that never comes.
    Idle,
    /// Runs on for ever.
    Busy,
    /// Runs on where there is no memory, which KVM cannot emulate.
    NoMemory,
}

/// The last line that it prints.
pub const LINE: &str = "tiny guest: the last line";

const SECTOR: usize = 512;
const SETUP_SECTORS: u8 = 1;
/// The 64-bit entry, from the beginning of the protected-mode code (Linux, Documentation/arch/x86/boot.rst).
const ENTRY: usize = 0x200;

/// A bzImage.
pub fn kernel(last: Last) -> Result<Vec<u8>> {
    let mut image = vec![0; SECTOR * (usize::from(SETUP_SECTORS) + 1)];
    let code = code(last)?;
    let mut put =
        |offset: usize, bytes: &[u8]| image[offset..offset + bytes.len()].copy_from_slice(bytes);
    put(0x1f1, &[SETUP_SECTORS]);
    put(0x1f4, &u32::try_from(code.len() / 16)?.to_le_bytes());
    put(0x1fe, &[0x55, 0xaa, 0xeb, 0x6a]);
    put(0x202, b"HdrS");
    put(0x206, &0x020f_u16.to_le_bytes());
    // Loaded high.
    put(0x211, &[1]);
    put(0x214, &0x10_0000_u32.to_le_bytes());
    put(0x22c, &0x7fff_ffff_u32.to_le_bytes());
    put(0x230, &0x20_0000_u32.to_le_bytes());
    // Relocatable, aligned to 2^21.
    put(0x234, &[1, 21]);
    // With a 64-bit entry.
    put(0x236, &1_u16.to_le_bytes());
    put(0x238, &2047_u32.to_le_bytes());
    put(0x258, &0x100_0000_u64.to_le_bytes());
    put(0x260, &0x20_0000_u32.to_le_bytes());
    image.extend(code);
    Ok(image)
}

/// The protected-mode part, in whole paragraphs.
fn code(last: Last) -> Result<Vec<u8>> {
    let mut code = vec![0; ENTRY];
    // mov dx, 0x3f8; lea rsi, [rip + text]
    code.extend([0x66, 0xba, 0xf8, 0x03, 0x48, 0x8d, 0x35]);
    let text_at = code.len();
    code.extend([0; 4]);
    // 1: lodsb; test al, al; jz 2f; out dx, al; jmp 1b; 2:
    code.extend([0xac, 0x84, 0xc0, 0x74, 0x03, 0xee, 0xeb, 0xf8]);
    let mut empty_table_at = None;
    match last {
        Last::TripleFault => {
            // lidt [rip + empty_table]; ud2
            code.extend([0x0f, 0x01, 0x1d]);
            empty_table_at = Some(code.len());
            code.extend([0; 4]);
            code.extend([0x0f, 0x0b]);
        }
        // mov dx, 0x602; mov al, 1; out dx, al; jmp $
        Last::Reset => code.extend([0x66, 0xba, 0x02, 0x06, 0xb0, 0x01, 0xee, 0xeb, 0xfe]),
        // cli; 1: hlt; jmp 1b
        Last::Idle => code.extend([0xfa, 0xf4, 0xeb, 0xfd]),
        // jmp $
        Last::Busy => code.extend([0xeb, 0xfe]),
        // mov eax, 0xd8000000; jmp rax: into the window of PCI, where nothing is.
        Last::NoMemory => code.extend([0xb8, 0, 0, 0, 0xd8, 0xff, 0xe0]),
    }
    point(&mut code, text_at)?;
    code.extend(LINE.as_bytes());
    code.extend(b"\r\n\0");
    if let Some(at) = empty_table_at {
        point(&mut code, at)?;
        // Limit and base.
        code.extend([0; 10]);
    }
    code.resize(code.len().next_multiple_of(16), 0);
    Ok(code)
}

/// Makes the displacement at `at` that of the code's end.
fn point(code: &mut [u8], at: usize) -> Result<()> {
    let displacement = i32::try_from(code.len() - (at + 4))?;
    code[at..at + 4].copy_from_slice(&displacement.to_le_bytes());
    Ok(())
}
