//! Secrets arrive in the guest byte for byte, and are nowhere else.

use std::{
    fs::{self, File},
    os::unix::fs::FileExt,
};

use anyhow::{Context, Result, ensure};
use minivmm_boot::{Credential, Smbios, smbios};
use rustix::process::{Pid, Signal, kill_process};

use crate::{
    Test,
    vm::{self, Running, Vm},
};

pub const TESTS: &[Test] = &[Test {
    name: "credentials::the_largest_arrives_also_after_a_restart_and_is_nowhere_else",
    run: largest,
}];

/// Keeps the tables for the host to look at; says whether those of a restarted guest are the same.
const SCRIPT: &str = "if [ -e /data/tables ]; then\n\
        cmp /data/tables /sys/firmware/dmi/tables/DMI && echo minivmm-guest: the same tables\n\
        exit\n\
    fi\n\
    cp /sys/firmware/dmi/tables/DMI /data/tables\n\
    sync\n\
    echo minivmm-guest: copied\n\
    while :; do sleep 1; done\n";

fn largest() -> Result<()> {
    const SMALL: &[u8] = b"minivmm-test: this is a small secret\n";
    let vm = Vm::with_script(SCRIPT)?;
    let large = vm.directory().join("large");
    let size = largest_beside(&[("small", SMALL.len()), ("large", 0)])?;
    ensure!(size > 180_000, "only {size} bytes");
    vm::run([
        "dd",
        "if=/dev/urandom",
        &format!("of={}", large.display()),
        &format!("bs={size}"),
        "count=1",
        "iflag=fullblock",
        "status=none",
    ])?;
    let large = fs::read(large)?;
    fs::write(vm.directory().join("small"), SMALL)?;
    let vm = vm.toml(
        "[control]\nsocket = \"control\"\n\
         [[credentials]]\nname = \"small\"\npath = \"small\"\n\
         [[credentials]]\nname = \"large\"\npath = \"large\"\n",
    );

    let mut running = vm.start()?;
    running.wait_for("minivmm-guest: copied")?;
    let tables = fs::read(vm.data().join("tables"))?;
    for (name, value) in [("small", SMALL), ("large", &large)] {
        let text = encoded(name, value);
        let found = count(&tables, text.as_bytes());
        ensure!(
            found == 1,
            "`{name}` is {found} times in the guest's tables"
        );
    }
    let socket = vm.directory().join("control");
    nowhere(&running, &socket.to_string_lossy(), &[SMALL, &large])?;

    let virtiofsd = process(&running, "--shared-dir")?;
    kill_process(
        Pid::from_raw(virtiofsd.try_into()?).context("no pid")?,
        Signal::KILL,
    )?;
    running.wait_for("minivmm-guest: the same tables")?;
    let (code, output) = running.wait()?;
    ensure!(code == 0, "exit code {code}:\n{output}");
    for needle in needles(&[SMALL, &large]) {
        ensure!(
            count(output.as_bytes(), &needle) == 0,
            "a secret is in the log"
        );
    }
    vm.nothing_left()
}

/// How large the last of these credentials can be in the VM `test`.
fn largest_beside(sizes: &[(&str, usize)]) -> Result<usize> {
    let credentials = sizes.iter().map(|(name, size)| Credential {
        name: (*name).to_owned(),
        value: vec![0; *size].into(),
    });
    let tables = smbios::tables(&Smbios {
        uuid: Default::default(),
        serial: "test".to_owned(),
        oem_strings: Vec::new(),
        credentials: credentials.collect(),
    })?;
    // A large one has a structure of its own: header, count and the end of the strings.
    const STRUCTURE: usize = 4 + 1 + 1;
    Ok((smbios::MAX_STRUCTURES - tables.structures.len() - STRUCTURE) / 4 * 3)
}

/// The string that carries a credential.
pub fn encoded(name: &str, value: &[u8]) -> String {
    use base64ct::{Base64, Encoding};
    format!(
        "io.systemd.credential.binary:{name}={}",
        Base64::encode_string(value)
    )
}

/// The supervisor has what it needs for a restart once, the VMM nothing, and no process shows any of it.
fn nowhere(running: &Running, socket: &str, secrets: &[&[u8]]) -> Result<()> {
    let supervisor = running.pid();
    let vmm = process(running, "minivmm-vmm")?;
    for (pid, copies) in [(supervisor, 1), (vmm, 0)] {
        let memory = memory_of(pid)?;
        for secret in secrets {
            for needle in needles(&[secret]) {
                let expected = copies * count(secret, &needle);
                let found = count(&memory, &needle);
                ensure!(
                    found == expected,
                    "process {pid}: {found} copies in memory instead of {expected} of {needle:?}"
                );
            }
        }
    }
    for verb in ["status", "metrics"] {
        let said = vm::run([&*vm::program().to_string_lossy(), verb, "--socket", socket])?;
        for needle in needles(secrets) {
            ensure!(
                count(said.as_bytes(), &needle) == 0,
                "a secret is in what `{verb}` says"
            );
        }
    }
    for pid in [vec![supervisor], vm::descendants(supervisor)?].concat() {
        let limits = fs::read_to_string(format!("/proc/{pid}/limits"))?;
        let core = limits
            .lines()
            .find(|line| line.starts_with("Max core file size"));
        let core: Vec<_> = core.unwrap_or_default().split_whitespace().collect();
        ensure!(
            core.get(4..6) == Some(&["0", "0"][..]),
            "process {pid}: {core:?}"
        );
        for file in ["cmdline", "environ"] {
            let bytes = fs::read(format!("/proc/{pid}/{file}"))?;
            for needle in needles(secrets) {
                ensure!(
                    count(&bytes, &needle) == 0,
                    "a secret is in /proc/{pid}/{file}"
                );
            }
        }
    }
    Ok(())
}

/// Parts of secrets from which all of it could be known to have been there: plain and as base64, from the beginning, the
/// middle and the end.
fn needles(secrets: &[&[u8]]) -> Vec<Vec<u8>> {
    const LENGTH: usize = 24;
    let mut needles = Vec::new();
    for secret in secrets {
        let base64 = encoded("", secret);
        let (_, base64) = base64.split_once('=').unwrap_or_default();
        for text in [*secret, base64.trim_end_matches('=').as_bytes()] {
            let last = text.len() - LENGTH;
            for start in [0, last / 2, last] {
                needles.push(text[start..start + LENGTH].to_vec());
            }
        }
    }
    needles
}

fn count(bytes: &[u8], needle: &[u8]) -> usize {
    let mut found = 0;
    let mut rest = bytes;
    while let Some(at) = rest.iter().position(|byte| *byte == needle[0]) {
        found += usize::from(rest[at..].starts_with(needle));
        rest = &rest[at + 1..];
    }
    found
}

/// All that a process has in memory, but for the guest's.
fn memory_of(pid: u32) -> Result<Vec<u8>> {
    let memory = File::open(format!("/proc/{pid}/mem"))?;
    let mut all = Vec::new();
    for line in fs::read_to_string(format!("/proc/{pid}/maps"))?.lines() {
        let mut words = line.split_whitespace();
        let (range, flags) = (
            words.next().unwrap_or_default(),
            words.next().unwrap_or_default(),
        );
        let special = ["guest-memory", "[vvar", "[vsyscall", "kvm-vcpu"];
        if !flags.starts_with('r') || special.iter().any(|name| line.contains(name)) {
            continue;
        }
        let (start, end) = range.split_once('-').context("no range")?;
        let start = u64::from_str_radix(start, 16)?;
        let size = u64::from_str_radix(end, 16)? - start;
        let from = all.len();
        all.resize(from + usize::try_from(size)?, 0);
        memory
            .read_exact_at(&mut all[from..], start)
            .with_context(|| format!("process {pid}: {line}"))?;
        // Nothing that begins in one mapping ends in the next.
        all.push(0);
    }
    Ok(all)
}

/// The process below minivmm with `word` in its command line.
fn process(running: &Running, word: &str) -> Result<u32> {
    let all = vm::descendants(running.pid())?;
    let found = all.into_iter().find(|pid| {
        fs::read_to_string(format!("/proc/{pid}/cmdline")).is_ok_and(|line| line.contains(word))
    });
    found.with_context(|| format!("no process with `{word}`"))
}
