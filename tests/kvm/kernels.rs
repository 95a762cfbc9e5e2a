//! Distributions' kernels boot in every format that they have, and choose their own addresses.

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};

use crate::{
    Test, depth,
    guest::Guest,
    vm::{Vm, value},
};

pub const TESTS: &[Test] = &[
    Test {
        name: "kernels::debian_6_12_cloud_boots_in_every_format",
        run: || boots_as("6.12-cloud", &FORMATS),
    },
    Test {
        name: "kernels::debian_6_1_cloud_boots",
        run: || boots_as("6.1-cloud", depth(&FORMATS[..1], &FORMATS)),
    },
    Test {
        name: "kernels::debian_6_1_boots",
        run: || boots_as("6.1", depth(&FORMATS[..1], &FORMATS)),
    },
    Test {
        name: "kernels::a_kernel_runs_at_another_address_at_each_boot",
        run: kaslr,
    },
    Test {
        name: "kernels::nokaslr_keeps_a_kernel_at_one_address",
        run: nokaslr,
    },
];

/// Where a kernel is linked to be (`_text` of x86_64 with `CONFIG_PHYSICAL_START` 16 MiB).
const LINKED: &str = "ffffffff81000000";

/// `type_of_loader` in the zero page: "undefined", which we say, and what a kernel puts there for itself when it was
/// entered by PVH (`arch/x86/platform/pvh/enlighten.c`).
const LOADER_UNDEFINED: &str = "255";
const LOADER_PVH: &str = "176";

/// What a kernel can be booted as.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Format {
    BzImage,
    Elf,
    ElfByPvh,
}

const FORMATS: [Format; 3] = [Format::BzImage, Format::Elf, Format::ElfByPvh];

fn boots_as(name: &str, formats: &[Format]) -> Result<()> {
    let version = name.trim_end_matches("-cloud");
    for format in formats {
        let guest = Guest::of_kernel(name)?;
        let (guest, loader) = match format {
            Format::BzImage => (guest, LOADER_UNDEFINED),
            Format::Elf => (guest.elf("linux64"), LOADER_UNDEFINED),
            Format::ElfByPvh => (guest.elf("pvh"), LOADER_PVH),
        };
        let output = boot(guest, "").with_context(|| format!("{format:?}"))?;
        let release = value(&output, "kernel=")?;
        ensure!(
            release.starts_with(&format!("{version}."))
                && release.contains("cloud") == name.contains("cloud"),
            "{format:?}:\n{output}"
        );
        ensure!(
            value(&output, "loader=")? == loader,
            "{format:?}:\n{output}"
        );
        let moves = *format == Format::BzImage;
        ensure!(
            moves || value(&output, "text=")? == LINKED,
            "{format:?}:\n{output}"
        );
    }
    Ok(())
}

fn kaslr() -> Result<()> {
    let addresses = addresses(5, "")?;
    ensure!(addresses.len() >= 4, "in 5 boots: {addresses:?}");
    Ok(())
}

fn nokaslr() -> Result<()> {
    let addresses = addresses(2, "nokaslr")?;
    ensure!(
        addresses == BTreeSet::from([LINKED.to_owned()]),
        "{addresses:?}"
    );
    Ok(())
}

/// The addresses that a kernel has in some boots.
fn addresses(boots: usize, words: &str) -> Result<BTreeSet<String>> {
    (0..boots)
        .map(|_| {
            let output = boot(Guest::of_kernel("6.12-cloud")?, words)?;
            Ok(value(&output, "text=")?.to_owned())
        })
        .collect()
}

/// Boots `guest`, and gives what it says of itself.
fn boot(guest: Guest, words: &str) -> Result<String> {
    let vm = Vm::with_script(
        "echo 0 >/proc/sys/kernel/kptr_restrict\n\
         echo text=$(grep -m 1 ' _text$' /proc/kallsyms | cut -d ' ' -f 1)\n\
         echo loader=$(cat /proc/sys/kernel/bootloader_type)\n\
         echo kernel=$(uname -r)\n",
    )?;
    let (code, output) = vm.guest(guest).cmdline(words).run()?;
    ensure!(code == 0, "exit code {code}:\n{output}");
    Ok(output)
}
