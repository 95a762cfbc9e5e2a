//! What the targets of kernel images share: a small machine that boots whatever there is.

use std::{fs::File, io::Write};

use minivmm_boot::{BootCpu, Entry, Error, Payload, load, platform::Platform, test_utils};
use rustix::fs::{MemfdFlags, memfd_create};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

/// Memory of the machine. The kernels of the seeds fit into it, a little more does not.
const MIB: u64 = 32;

/// Boots `kernel` by `entry`. What is accepted must be where the boot CPU looks for it.
pub fn boot(kernel: &[u8], initrd: &[u8], entry: Entry) {
    let platform = test_utils::platform(MIB);
    let memory = test_utils::memory(&platform);
    let booted = load_into(&memory, &platform, kernel, initrd, entry);
    let Ok(cpu) = booted else { return };
    let byte = |address: u64| {
        memory
            .read_obj::<u8>(GuestAddress(address))
            .expect("it is in memory")
    };
    assert!((1 << 20..MIB << 20).contains(&cpu.rip), "{:#x}", cpu.rip);
    match entry {
        Entry::Linux64 => {
            assert_eq!([byte(cpu.rsi + 0x1fe), byte(cpu.rsi + 0x1ff)], [0x55, 0xaa]);
            assert_eq!(cpu.rbx, 0);
        }
        Entry::Pvh => assert_eq!([byte(cpu.rbx), byte(cpu.rbx + 3)], [0x78, 0x33]),
    }
    for (address, signature) in [(0xe_0000, b"RSD P"), (0xf_0000, b"_SM3_")] {
        let mut found = [0; 5];
        memory
            .read_slice(&mut found, GuestAddress(address))
            .expect("it is in memory");
        assert_eq!(&found, signature);
    }
}

fn load_into(
    memory: &GuestMemoryMmap,
    platform: &Platform,
    kernel: &[u8],
    initrd: &[u8],
    entry: Entry,
) -> Result<BootCpu, Error> {
    let mut kernel = file(kernel);
    let mut initrd = Some(initrd).filter(|bytes| !bytes.is_empty()).map(file);
    let payload = Payload {
        kernel: &mut kernel,
        entry,
        initrd: initrd.as_mut(),
        cmdline: "console=ttyS0",
    };
    load(memory, platform, payload)
}

fn file(content: &[u8]) -> File {
    let memfd = memfd_create("fuzz", MemfdFlags::CLOEXEC).expect("there is memory");
    let mut file = File::from(memfd);
    file.write_all(content).expect("there is memory");
    file
}
