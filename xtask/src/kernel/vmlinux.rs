//! The ELF kernel inside a bzImage, found by the setup header (Documentation/arch/x86/boot.rst).

use std::io::Write;
use std::process::Stdio;
use std::thread;

use anyhow::{Context, Result, anyhow, bail};

use crate::command::{name, not_started, program};

/// Offsets of the header's fields in the file.
const SETUP_SECTS: usize = 0x1f1;
const PAYLOAD_OFFSET: usize = 0x248;
const PAYLOAD_LENGTH: usize = 0x24c;

/// How a payload begins, and the program that unpacks it.
const FORMATS: [(&[u8], &str); 4] = [
    (&[0x1f, 0x8b], "gzip"),
    (&[0xfd, b'7', b'z', b'X', b'Z', 0], "xz"),
    (&[0x02, 0x21, 0x4c, 0x18], "lz4"),
    (&[0x28, 0xb5, 0x2f, 0xfd], "zstd"),
];

/// Unpacks the kernel of `image`, a bzImage. What follows the ELF file's last section (tables for its relocation) is
/// kept.
pub fn vmlinux(image: &[u8]) -> Result<Vec<u8>> {
    let payload = payload(image).context("the bzImage is cut off")?;
    let (_, with) = FORMATS
        .iter()
        .find(|(magic, _)| payload.starts_with(magic))
        .ok_or_else(|| anyhow!("the bzImage's kernel is compressed in an unknown way"))?;
    // The kernel's build appends the size, but to gzip's format, which ends with it.
    let (packed, size) = payload
        .split_last_chunk()
        .context("the bzImage has no kernel in it")?;
    let packed = if *with == "gzip" { payload } else { packed };
    let kernel = decompress(with, packed)?;
    if u32::try_from(kernel.len()) != Ok(u32::from_le_bytes(*size))
        || !kernel.starts_with(b"\x7fELF")
    {
        bail!("the bzImage's kernel came out of {with} damaged");
    }
    Ok(kernel)
}

/// The packed kernel, which lies in the part behind the sectors of set-up code.
fn payload(image: &[u8]) -> Option<&[u8]> {
    let field = |at: usize| {
        let bytes = image.get(at..)?.first_chunk()?;
        usize::try_from(u32::from_le_bytes(*bytes)).ok()
    };
    let sectors = match *image.get(SETUP_SECTS)? {
        0 => 4,
        sectors => usize::from(sectors),
    };
    let protected_mode = image.get((sectors + 1) * 512..)?;
    let payload = protected_mode.get(field(PAYLOAD_OFFSET)?..)?;
    payload.get(..field(PAYLOAD_LENGTH)?)
}

fn decompress(with: &str, packed: &[u8]) -> Result<Vec<u8>> {
    let mut command = program(with);
    command
        .args(["-d", "-c", "-q"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped());
    let mut child = command.spawn().with_context(|| not_started(&command))?;
    let stdin = child.stdin.take();
    let output = thread::scope(|scope| {
        // One that ends early says why by its exit code.
        scope.spawn(move || stdin.map(|mut stdin| stdin.write_all(packed)));
        child.wait_with_output()
    })?;
    if !output.status.success() {
        bail!("{} failed: {}", name(&command), output.status);
    }
    Ok(output.stdout)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    /// A bzImage of one sector of set-up code with `payload` 64 bytes into what follows.
    fn image(payload: &[u8]) -> Vec<u8> {
        let mut image = vec![0; 1024 + 64];
        image[SETUP_SECTS] = 1;
        image[PAYLOAD_OFFSET..][..4].copy_from_slice(&64_u32.to_le_bytes());
        let length = u32::try_from(payload.len()).unwrap();
        image[PAYLOAD_LENGTH..][..4].copy_from_slice(&length.to_le_bytes());
        image.extend_from_slice(payload);
        image.extend_from_slice(b"what follows");
        image
    }

    fn packed(with: &str, arguments: &[&str], size: u32) -> Vec<u8> {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(b"\x7fELF kernel").unwrap();
        let mut command = program(with);
        command.args(arguments).arg("-c").arg(file.path());
        let mut packed = crate::command::capture(&mut command).unwrap();
        if with != "gzip" {
            packed.extend_from_slice(&size.to_le_bytes());
        }
        packed
    }

    #[test]
    fn a_kernel_comes_out_of_every_format_that_distributions_use() {
        for (with, arguments) in [
            ("gzip", &[][..]),
            ("xz", &[]),
            ("lz4", &["-l"]),
            ("zstd", &[]),
        ] {
            let kernel = vmlinux(&image(&packed(with, arguments, 11)));
            assert_eq!(kernel.unwrap(), b"\x7fELF kernel", "{with}");
        }
    }

    #[test]
    fn another_size_than_the_builds_is_damage() {
        assert!(vmlinux(&image(&packed("xz", &[], 12))).is_err());
    }

    #[test]
    fn what_is_cut_off_or_unknown_is_refused() {
        assert!(vmlinux(&[0; 512]).is_err());
        assert!(vmlinux(&image(b"plain")).is_err());
        let whole = image(&packed("zstd", &[], 11));
        assert!(vmlinux(&whole[..whole.len() - 20]).is_err());
    }
}
