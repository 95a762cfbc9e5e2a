//! What the guest finds in its SMBIOS tables is what the configuration says.

use std::{fs, process::Command};

use anyhow::{Result, ensure};
use minivmm_boot::{Credential, Smbios, smbios};

use crate::{
    Test,
    vm::{self, Vm, value},
};

pub const TESTS: &[Test] = &[
    Test {
        name: "smbios::dmidecode_in_a_guest_reads_what_the_configuration_says",
        run: dmidecode,
    },
    Test {
        name: "smbios::a_vm_without_a_uuid_has_the_same_one_at_each_boot",
        run: default_uuid,
    },
    Test {
        name: "smbios::240_kib_of_strings_arrive_and_systemd_takes_credentials_from_all_of_them",
        run: largest,
    },
    Test {
        name: "smbios::one_byte_of_strings_more_than_240_kib_is_an_error",
        run: one_byte_more,
    },
];

/// Bytes that all structures may take.
const LIMIT: usize = 240 << 10;
const UUID: &str = "01234567-89ab-cdef-0123-456789abcdef";

fn dmidecode() -> Result<()> {
    let keywords = [
        ("system-uuid", UUID),
        ("system-manufacturer", "minivmm"),
        ("system-product-name", "KVM virtual machine"),
        ("system-serial-number", "test"),
        ("bios-vendor", "minivmm"),
        ("chassis-manufacturer", "minivmm"),
    ];
    let script: String = keywords
        .iter()
        .map(|(keyword, _)| format!("echo {keyword}=$(dmidecode -s {keyword} | tail -n 1)\n"))
        .collect();
    let vm = Vm::debian_script(&format!(
        "{script}\
         dmidecode -t 11 | sed -n 's/^\tString /string /p'\n\
         echo count=$(dmidecode --oem-string count | tail -n 1)\n\
         echo complaints=$(dmidecode 2>&1 | grep -ciE 'wrong|broken|invalid|truncated|out of spec')\n\
         echo product_uuid=$(cat /sys/class/dmi/id/product_uuid)\n\
         echo virt=$(systemd-detect-virt)\n\
         echo dmesg=$(dmesg | grep -c 'DMI: minivmm KVM virtual machine')\n"
    ))?;
    let (code, output) = vm
        .top(&format!("uuid = \"{UUID}\"\n"))
        .toml("[smbios]\noem_strings = [\"app:one\", \"app:gr\u{fc}\u{df}e = two\"]\n")
        .run()?;
    ensure!(code == 0, "exit code {code}:\n{output}");
    for (keyword, expected) in keywords {
        ensure!(
            value(&output, &format!("{keyword}="))? == expected,
            "{output}"
        );
    }
    for (word, expected) in [
        ("string 1: ", "app:one"),
        ("count=", "2"),
        ("complaints=", "0"),
        ("product_uuid=", UUID),
        ("virt=", "kvm"),
        ("dmesg=", "1"),
    ] {
        ensure!(value(&output, word)? == expected, "{word}:\n{output}");
    }
    ensure!(
        value(&output, "string 2: ")?.starts_with("app:gr"),
        "{output}"
    );
    Ok(())
}

fn default_uuid() -> Result<()> {
    let boot = || {
        let vm = Vm::with_script("echo uuid=$(cat /sys/class/dmi/id/product_uuid)\n")?;
        let (code, output) = vm.run()?;
        ensure!(code == 0, "exit code {code}:\n{output}");
        Ok(value(&output, "uuid=")?.to_owned())
    };
    let uuid = boot()?;
    // Version 5, variant 1.
    ensure!(uuid.len() == 36 && uuid.as_bytes()[14] == b'5', "{uuid}");
    let again = boot()?;
    ensure!(uuid == again, "{uuid}, then {again}");
    Ok(())
}

/// Strings with which all structures of the VM `test` take exactly `size` bytes beside `credentials`: `count` ordinary
/// ones between `first` and one that is longer than other structures are.
fn strings(size: usize, count: usize, credentials: &[Credential]) -> Result<Vec<String>> {
    let with = |length: usize| {
        let mut strings = vec!["io.systemd.credential:first=early".to_owned()];
        strings.extend((0..count).map(|n| format!("string-{n}-{}", "x".repeat(1000))));
        strings.push("y".repeat(length));
        strings
    };
    const LONG: usize = 5000;
    let tables = smbios::tables(&Smbios {
        uuid: Default::default(),
        serial: "test".to_owned(),
        oem_strings: with(LONG),
        credentials: credentials.to_vec(),
    })?;
    Ok(with(LONG + size - tables.structures.len()))
}

fn toml(strings: &[String]) -> String {
    let strings: Vec<_> = strings.iter().map(|string| format!("{string:?}")).collect();
    format!("[smbios]\noem_strings = [{}]\n", strings.join(", "))
}

/// Reads the tables as SMBIOS 3.7, 6.1 describes them, and says how many bytes they have and what the strings of type 11
/// are.
const READER: &str = r#"
import hashlib
table = open("/sys/firmware/dmi/tables/DMI", "rb").read()
print("bytes=%d" % len(table))
strings, at = [], 0
while at < len(table):
    kind, length = table[at], table[at + 1]
    end = table.index(b"\0\0", at + length)
    if kind == 11:
        strings += table[at + length:end].split(b"\0")
    at = end + 2
print("strings=%d" % len(strings))
print("digest=" + hashlib.sha256(b"\n".join(strings) + b"\n").hexdigest())
"#;

/// The only unit that systemd starts, made of a credential in the last string: what it prints shows that systemd read
/// that far, beyond what Linux counts (docs/architecture.md, "SMBIOS"). A whole boot would take longer than a test may.
const UNIT: &str = "[Unit]\nDefaultDependencies=no\n\
    [Service]\nType=oneshot\nStandardOutput=tty\nStandardError=tty\n\
    ExecStart=/bin/sh -c 'mount -t virtiofs test-data /mnt && sh /mnt/test.sh; systemctl poweroff -ff'\n";

fn largest() -> Result<()> {
    let vm = Vm::debian()?.cmdline("overlay systemd.unit=probe.service");
    let write = |name: &str, text: &str| fs::write(vm.data().join(name), text);
    write("probe.service", UNIT)?;
    write("reader.py", READER)?;
    write(
        "test.sh",
        // The console has begun a line.
        "echo\n\
         python3 /mnt/reader.py\n\
         echo credential=$(cat /run/credentials/@system/first)\n\
         echo directory=$(sha256sum </run/credentials/@system/binary)\n\
         echo systemd-creds=$(systemd-creds --system cat binary | sha256sum)\n",
    )?;
    let binary = vm.directory().join("binary");
    vm::run([
        "dd",
        "if=/dev/urandom",
        &format!("of={}", binary.display()),
        "bs=65536",
        "count=1",
        "status=none",
    ])?;
    let credentials = [
        ("binary", fs::read(&binary)?),
        ("systemd.extra-unit.probe.service", UNIT.into()),
    ];
    let credentials = credentials.map(|(name, value)| Credential {
        name: name.to_owned(),
        value: value.into(),
    });
    let strings = strings(LIMIT, 130, &credentials)?;
    let texts = credentials
        .iter()
        .map(|c| crate::credentials::encoded(&c.name, &c.value));
    let all: Vec<String> = strings.iter().cloned().chain(texts).collect();
    write("strings", &(all.join("\n") + "\n"))?;
    let digest = vm::checksum(vm.data().join("strings"))?;
    let binary = vm::checksum(binary)?;
    let sections = "[[credentials]]\nname = \"binary\"\npath = \"binary\"\n\
         [[credentials]]\nname = \"systemd.extra-unit.probe.service\"\npath = \"data/probe.service\"\n";

    let (code, output) = vm.toml(&toml(&strings)).toml(sections).run()?;
    ensure!(code == 0, "exit code {code}:\n{output}");
    for (word, expected) in [
        ("bytes=", LIMIT.to_string()),
        ("strings=", all.len().to_string()),
        ("digest=", digest),
        ("credential=", "early".to_owned()),
        ("directory=", format!("{binary} -")),
        ("systemd-creds=", format!("{binary} -")),
    ] {
        ensure!(value(&output, word)? == expected, "{word}:\n{output}");
    }
    Ok(())
}

fn one_byte_more() -> Result<()> {
    let vm = Vm::new()?.toml(&toml(&strings(LIMIT + 1, 230, &[])?));
    fs::write(vm.directory().join("test.toml"), vm.config()?)?;
    for verb in [&["run"][..], &["config", "check"]] {
        let output = Command::new(vm::program())
            .args(verb)
            .args(["--config", "test.toml"])
            .current_dir(vm.directory())
            .output()?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.code() == Some(78), "{verb:?}: {said}");
        ensure!(said.trim_end().lines().count() == 1, "{verb:?}: {said}");
        for words in ["smbios.oem_strings: ", "245761", "245760"] {
            ensure!(said.contains(words), "{verb:?}: no `{words}` in: {said}");
        }
    }
    vm.nothing_left()
}
