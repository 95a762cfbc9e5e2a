//! A small Debian whose root is a share.

use anyhow::{Result, ensure};

use crate::{
    Test,
    guest::Guest,
    vm::{Vm, value},
};

pub const TESTS: &[Test] = &[
    Test {
        name: "debian::a_script_finds_debians_programs_over_a_root_on_a_share",
        run: script,
    },
    Test {
        name: "debian::the_kernel_itself_mounts_a_root_on_a_share_without_an_initrd",
        run: without_initrd,
    },
];

/// The lab takes a minute for it, and several beside other work.
pub const LONG: &[Test] = &[Test {
    name: "debian::systemd_boots_from_a_root_on_a_share_and_powers_off",
    run: systemd,
}];

const PROGRAMS: &str = "for p in python3 sqlite3 ip ethtool iperf3 dmidecode setfattr socat ping; do \
                            command -v $p >/dev/null || echo missing=$p; done\n";

fn script() -> Result<()> {
    let vm = Vm::debian_script(&format!(
        "{PROGRAMS}\
         . /etc/os-release; echo version=$VERSION_ID\n\
         echo root=$(findmnt --noheadings --output FSTYPE /)\n\
         echo x >/var/tmp/x && rm /etc/os-release && echo written=yes\n\
         echo python=$(python3 -c 'import fcntl, mmap, sqlite3; print(sqlite3.connect(\":memory:\").execute(\"select 6*7\").fetchone()[0])')\n\
         echo data=$(findmnt --noheadings --output FSTYPE /data)\n"
    ))?;
    let (code, output) = vm.run()?;
    ensure!(code == 0, "exit code {code}:\n{output}");
    ensure!(!output.contains("missing="), "{output}");
    ensure!(output.contains("minivmm-guest: test exit 0"), "{output}");
    for (word, expected) in [
        ("version=", "13"),
        ("root=", "overlay"),
        ("written=", "yes"),
        ("python=", "42"),
        ("data=", "virtiofs"),
    ] {
        ensure!(value(&output, word)? == expected, "{word}:\n{output}");
    }
    Ok(())
}

fn without_initrd() -> Result<()> {
    let vm =
        Vm::debian_script("echo root=$(findmnt --noheadings --output SOURCE,FSTYPE,OPTIONS /)\n")?
            .guest(Guest::of_kernel("6.12-cloud")?.without_initrd());
    let (code, output) = vm.run()?;
    ensure!(code == 0, "exit code {code}:\n{output}");
    let root = value(&output, "root=")?;
    ensure!(root.starts_with("root virtiofs ro"), "{output}");
    Ok(())
}

fn systemd() -> Result<()> {
    // Its kernel-command-line.target runs the script when all else has been started, and then powers off.
    let vm = Vm::debian()?.cmdline("overlay systemd.run=\"/bin/sh /data/test.sh\"");
    let script = "exec >/dev/console 2>&1\n\
         echo systemd=$(systemctl --version | head -n 1)\n\
         echo failed=$(systemctl list-units --failed --plain --no-legend)\n\
         echo data=$(findmnt --noheadings --output FSTYPE /data)\n";
    std::fs::write(vm.data().join("test.sh"), script)?;
    let (code, output) = vm.run()?;
    ensure!(code == 0, "exit code {code}:\n{output}");
    ensure!(
        value(&output, "systemd=")?.starts_with("systemd 257"),
        "{output}"
    );
    ensure!(value(&output, "failed=")?.is_empty(), "{output}");
    ensure!(value(&output, "data=")? == "virtiofs", "{output}");
    Ok(())
}
