//! Credentials on their way from the supervisor to the VMM: a sealed memfd with the size (4 bytes, little-endian) and the
//! bytes of each, in the order of the configuration. Nothing else on the way has a copy of them.

use std::{
    fs::File,
    io::{self, Read, Seek, Write},
    os::fd::OwnedFd,
};

use minivmm_boot::{Credential, smbios};
use minivmm_vmm::config;
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};
use zeroize::Zeroizing;

/// A memfd with `values`, which nobody can change any more.
pub fn send<'a>(values: impl Iterator<Item = &'a [u8]>) -> io::Result<OwnedFd> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let mut file = File::from(memfd_create("credentials", flags)?);
    for value in values {
        let size = u32::try_from(value.len()).map_err(io::Error::other)?;
        file.write_all(&size.to_le_bytes())?;
        file.write_all(value)?;
    }
    fcntl_add_seals(
        &file,
        SealFlags::WRITE | SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL,
    )?;
    Ok(file.into())
}

/// What [`send`] put into `fd`, by the names that the configuration has.
pub fn receive(fd: OwnedFd, names: &[config::Credential]) -> io::Result<Vec<Credential>> {
    let mut file = File::from(fd);
    // Both processes have the one position.
    file.rewind()?;
    let credentials = names.iter().map(|credential| {
        let mut size = [0; 4];
        file.read_exact(&mut size)?;
        let size = u32::from_le_bytes(size) as usize;
        if size > smbios::MAX_STRUCTURES {
            return Err(io::Error::other("a credential is too large"));
        }
        let mut value = Zeroizing::new(vec![0; size]);
        file.read_exact(&mut value)?;
        Ok(Credential {
            name: credential.name.clone(),
            value,
        })
    });
    credentials.collect()
}
