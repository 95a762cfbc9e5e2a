//! The machine that a guest finds: its CPUs, its memory, and where its devices are.

use anyhow::{Context, Result, ensure};

use crate::{
    Test, depth,
    network::Taps,
    vm::{Vm, value},
};

pub const TESTS: &[Test] = &[
    Test {
        name: "machine::all_vcpus_are_online_one_to_a_core_and_all_of_mem_is_system_ram",
        run: sizes,
    },
    Test {
        name: "machine::a_device_more_moves_none_of_the_others",
        run: slots,
    },
];

const NOSMT: &str = "nosmt";

/// A machine's size: vCPUs, further words of the command line, MiB.
type Size = (u8, &'static str, u32);

/// Each number of vCPUs with and without `nosmt`; each memory at, below and above the gap under 4 GiB.
const ALL: &[Size] = &[
    (1, "", 128),
    (1, NOSMT, 512),
    (2, "", 2048),
    (2, NOSMT, 3071),
    (4, "", 3072),
    (4, NOSMT, 3073),
    (2, NOSMT, 4096),
    (1, "", 5000),
];

const SOME: &[Size] = &[(1, NOSMT, 128), (4, "", 3073), (2, NOSMT, 5000)];

fn sizes() -> Result<()> {
    for size in depth(SOME, ALL) {
        has_size(size).with_context(|| format!("{size:?}"))?;
    }
    Ok(())
}

fn has_size(&(vcpus, words, mem): &Size) -> Result<()> {
    let vm = Vm::with_script(
        "echo online=$(cat /sys/devices/system/cpu/online)\n\
         cd /sys/devices/system/cpu\n\
         echo siblings=$(cat cpu[0-9]*/topology/thread_siblings_list)\n\
         grep ' : System RAM$' /proc/iomem | sed 's/^/ram=/'\n",
    )?;
    let (code, output) = vm.vcpus(vcpus).memory(mem).cmdline(words).run()?;
    ensure!(code == 0, "exit code {code}:\n{output}");
    let (online, siblings) = match vcpus {
        1 => ("0", "0"),
        2 => ("0-1", "0 1"),
        _ => ("0-3", "0 1 2 3"),
    };
    ensure!(value(&output, "online=")? == online, "{output}");
    ensure!(
        value(&output, "siblings=")? == siblings,
        "one thread to a core:\n{output}"
    );
    let total = u64::from(mem) << 20;
    let found = system_ram(&output)?;
    ensure!(
        found == total,
        "{found:#x} bytes of {total:#x} are RAM:\n{output}"
    );
    Ok(())
}

/// Bytes of System RAM, with the holes below 1 MiB.
fn system_ram(output: &str) -> Result<u64> {
    const MIB: u64 = 1 << 20;
    let mut sum = MIB;
    for line in output.lines() {
        let Some(range) = line.trim().strip_prefix("ram=") else {
            continue;
        };
        let (first, rest) = range.split_once('-').context("a range has two ends")?;
        let last = rest.split(' ').next().unwrap_or_default();
        let (first, last) = (
            u64::from_str_radix(first, 16)?,
            u64::from_str_radix(last, 16)?,
        );
        sum += (last + 1).saturating_sub(first.max(MIB));
    }
    Ok(sum)
}

fn slots() -> Result<()> {
    let taps = Taps::new("slots", ["vm0", "vm1", "vm2"])?;
    let nic = |n: u8| {
        format!("[[interfaces]]\ntype = \"tap\"\nid = \"vm{n}\"\nmac = \"02:00:00:00:00:0{n}\"\n")
    };
    let share = |tag: &str| format!("[[shares]]\ntag = \"{tag}\"\nsource = \"data\"\n");
    let found = |toml: &str| -> Result<String> {
        let vm = Vm::with_script(
            "cd /sys/class/net; for n in eth*; do\n\
                 echo at=$(basename $(readlink -f $n/device/..)) $(cat $n/address)\n\
             done\n\
             cd /sys/fs/virtiofs; for s in *; do\n\
                 echo at=$(basename $(readlink -f $s/device/..)) $(cat $s/tag)\n\
             done\n",
        )?;
        let in_namespace = ["ip", "netns", "exec", &taps.namespace];
        let (code, output) = vm.toml(toml).by(in_namespace).run()?;
        ensure!(code == 0, "exit code {code}:\n{output}");
        let mut found: Vec<&str> = output
            .lines()
            .filter_map(|l| l.strip_prefix("at="))
            .collect();
        found.sort_unstable();
        Ok(found.join("\n"))
    };

    let two_of_each = [nic(0), nic(1), share("second")].concat();
    let places = [
        "0000:00:06.0 02:00:00:00:00:00",
        "0000:00:07.0 02:00:00:00:00:01",
        "0000:00:08.0 02:00:00:00:00:02",
        "0000:00:0e.0 test-data",
        "0000:00:0f.0 second",
        "0000:00:1b.0 elsewhere",
    ];
    let without_more = [&places[..2], &places[3..5]].concat().join("\n");
    let at = found(&two_of_each)?;
    ensure!(at == without_more, "two of each are at\n{at}");
    let more = format!("{}{}slot = 27\n", nic(2), share("elsewhere"));
    let at = found(&format!("{two_of_each}{more}"))?;
    ensure!(at == places.join("\n"), "with more they are at\n{at}");
    Ok(())
}
