//! A distribution's kernel boots, sees its machine, and moves files through its share.

use std::fs;

use anyhow::{Result, ensure};

use crate::{
    Test,
    vm::{self, Vm, checksum, value},
};

pub const TESTS: &[Test] = &[
    Test {
        name: "boot::the_guest_sees_its_devices_in_their_slots",
        run: devices,
    },
    Test {
        name: "boot::a_64_mb_file_goes_through_the_share_in_each_direction",
        run: files,
    },
];

fn devices() -> Result<()> {
    let vm = Vm::with_script(
        "for d in /sys/bus/pci/devices/*; do echo pci=${d##*/} $(cat $d/vendor $d/device); done\n\
         echo rng=$(cat /sys/class/misc/hw_random/rng_current)\n\
         echo random=$(head -c 32 /dev/hwrng | wc -c)\n\
         echo msix=$(grep -c virtio /proc/interrupts)\n\
         echo complaints=$(dmesg -r | grep -c '^<[0-3]>')\n\
         dmesg -r | grep '^<[0-3]>'\n",
    )?;
    let (code, output) = vm.run()?;
    ensure!(code == 0, "exit code {code}:\n{output}");
    for function in [
        "pci=0000:00:00.0 ",
        "pci=0000:00:01.0 0x1af4 0x1044",
        "pci=0000:00:0e.0 0x1af4 0x105a",
    ] {
        ensure!(output.contains(function), "no `{function}`:\n{output}");
    }
    ensure!(
        value(&output, "rng=")?.starts_with("virtio_rng"),
        "{output}"
    );
    ensure!(value(&output, "random=")? == "32", "{output}");
    // Configuration and queue of the entropy device; configuration and two queues of the share.
    ensure!(value(&output, "msix=")?.parse::<u32>()? >= 5, "{output}");
    ensure!(
        value(&output, "complaints=")? == "0",
        "the kernel complains:\n{output}"
    );
    Ok(())
}

fn files() -> Result<()> {
    const SIZE: usize = 64 << 20;
    let vm = Vm::with_script(
        "echo from-host=$(sha256sum </data/from-host)\n\
         dd if=/dev/urandom of=/data/from-guest bs=1048576 count=64 2>/dev/null\n\
         sync\n\
         echo from-guest=$(sha256sum </data/from-guest)\n",
    )?;
    let path = vm.data().join("from-host");
    let path = path.to_string_lossy();
    vm::run([
        "dd",
        "if=/dev/urandom",
        &format!("of={path}"),
        "bs=1M",
        "count=64",
        "status=none",
    ])?;
    let expected = checksum(&*path)?;
    let (code, output) = vm.run()?;
    ensure!(code == 0, "exit code {code}:\n{output}");
    let digest = |line: &str| {
        line.split_whitespace()
            .next()
            .unwrap_or_default()
            .to_owned()
    };
    ensure!(
        digest(value(&output, "from-host=")?) == expected,
        "{output}"
    );
    let written = vm.data().join("from-guest");
    ensure!(fs::metadata(&written)?.len() == SIZE as u64, "{output}");
    let written = checksum(&written)?;
    ensure!(
        digest(value(&output, "from-guest=")?) == written,
        "{output}"
    );
    Ok(())
}
