//! Mistakes in the configuration file: the file and the line are named, by `run` and by `config check` alike.

use std::{fs, process::Command};

use anyhow::{Context, Result, ensure};

use super::{Output, attempt};
use crate::{
    Test,
    vm::{self, Vm},
};

pub const TESTS: &[Test] = &[
    Test {
        name: "errors::an_unknown_key_is_named_with_its_line_and_the_nearest_right_key",
        run: || {
            says(&[
                (
                    |c| c.replace("vcpu = 1", "vcpus = 1"),
                    ":2: unknown key `vcpus`; did you mean `vcpu`?",
                ),
                (
                    |c| c.replace("mount_point", "mountpoint"),
                    ":11: unknown key `mountpoint`; did you mean `mount_point`?",
                ),
            ])
        },
    },
    Test {
        name: "errors::a_wrong_type_is_named_with_its_line",
        run: || {
            says(&[
                (
                    |c| c.replace("mem = 256", "mem = \"much\""),
                    ":3: mem: string \"much\" is given, and a whole number belongs here",
                ),
                (
                    |c| c.replace("mem = 256", "mem = 2.5"),
                    ":3: mem: floating point `2.5` is given, and a whole number belongs here",
                ),
                (
                    |c| c.replace("name = \"test\"", "name = 7"),
                    ":1: name: integer `7` is given, and",
                ),
                (
                    |c| c.replace("[[shares]]", "[shares]"),
                    ":8: shares: one [section] is given, and a list",
                ),
            ])
        },
    },
    Test {
        name: "errors::a_number_beyond_its_limits_is_named_with_them",
        run: || {
            says(&[
                (
                    |c| c.replace("mem = 256", "mem = 0"),
                    ":3: mem: 0 is not from 64 to 1048576",
                ),
                (
                    |c| c.replace("mem = 256", "mem = 4294967296"),
                    ":3: mem: integer `4294967296` is out of range",
                ),
                (
                    |c| c.replace("vcpu = 1", "vcpu = 0"),
                    ":2: vcpu: 0 is not from 1 to 32",
                ),
                (
                    |c| c.replace("vcpu = 1", "vcpu = 33"),
                    ":2: vcpu: 33 is not from 1 to 32",
                ),
                (
                    |c| c.replace("vcpu = 1", "vcpu = -1"),
                    ":2: vcpu: integer `-1` is out of range",
                ),
            ])
        },
    },
    Test {
        name: "errors::a_balloon_that_is_larger_than_the_memory_is_named_with_its_line",
        run: || {
            says(&[
                (
                    |c| c + "[balloon]\nsize = 257\n",
                    ":13: balloon.size: 257 MiB are more than the 256 MiB of mem",
                ),
                (
                    |c| c + "[balloon]\nenabled = false\nsize = 1\n",
                    ":14: balloon.size: there is no balloon with `enabled = false`",
                ),
            ])
        },
    },
    Test {
        name: "errors::a_bad_interface_is_named_with_its_line",
        run: || {
            says(&[
                (
                    |c| interface(c, "vm0", "01:00:5e:00:00:01"),
                    ":15: interfaces.mac: 01:00:5e:00:00:01 is a multicast address",
                ),
                (
                    |c| interface(c, "vm0", "02:00:00:00:00"),
                    ":15: interfaces.mac: `02:00:00:00:00` is not a MAC address",
                ),
                (
                    |c| interface(c, "sixteen-bytes-ab", "02:00:00:00:00:01"),
                    ":14: interfaces.id: `sixteen-bytes-ab` is not 1 to 15 bytes",
                ),
                (
                    |c| {
                        let c = interface(c, "vm0", "02:00:00:00:00:01");
                        interface(c, "vm0", "02:00:00:00:00:02")
                    },
                    ":18: interfaces.id: `vm0` is used twice",
                ),
                (
                    |c| {
                        let c = interface(c, "vm0", "02:00:00:00:00:0a");
                        interface(c, "vm1", "02:00:00:00:00:0A")
                    },
                    ":19: interfaces.mac: `02:00:00:00:00:0a` is used twice",
                ),
            ])
        },
    },
    Test {
        name: "errors::too_many_queues_and_a_bad_mtu_are_named_with_their_line",
        run: || {
            fn with(config: String, key: &str) -> String {
                interface(config, "vm0", "02:00:00:00:00:01") + key
            }
            says(&[
                (
                    |c| with(c, "queues = 2\n"),
                    ":16: interfaces.queues: 2 are more than the 1 of vcpu (interface `vm0`)",
                ),
                (
                    |c| with(c, "queues = 9\n"),
                    ":16: interfaces.queues: 9 is not from 1 to 8",
                ),
                (
                    |c| with(c, "mtu = 67\n"),
                    ":16: interfaces.mtu: 67 is not from 68 to 65521",
                ),
                (
                    |c| with(c, "mtu = 65522\n"),
                    ":16: interfaces.mtu: 65522 is not from 68 to 65521",
                ),
                (|c| with(c, "fd = \"tap\"\n"), ":16: interfaces.fd:"),
                (
                    |c| with(c, "bridge = \"br0/\"\n"),
                    ":16: interfaces.bridge: `br0/` is not 1 to 15 bytes",
                ),
            ])
        },
    },
    Test {
        name: "errors::a_bad_share_is_named_with_its_line",
        run: || {
            says(&[
                (
                    |c| share(c, "test-data"),
                    ":13: shares.tag: `test-data` is used twice",
                ),
                (|c| share(c, &"x".repeat(37)), ":13: shares.tag: "),
                (|c| share(c, ""), ":13: shares.tag: "),
                (
                    |c| share(c, "t\"\nslot = 14\nproto = \"virtiofs"),
                    ":14: shares.slot: share `t`: slot 14 is taken by share `test-data`",
                ),
                (
                    |c| share(c, "t\"\nproto = \"9p"),
                    ":14: shares.proto: 9p is not supported",
                ),
            ])
        },
    },
    Test {
        name: "errors::a_pci_slot_of_two_devices_is_named_with_both",
        run: || {
            says(&[
                (
                    |c| c + "slot = 7\n[balloon]\nslot = 7\n",
                    ":12: shares.slot: share `test-data`: slot 7 is taken by the balloon",
                ),
                (
                    |c| c + "[console]\nslot = 9\n[vsock]\nslot = 9\n",
                    ":15: vsock.slot: the socket device: slot 9 is taken by the console",
                ),
                (
                    |c| c + "[vsock]\nslot = 1\n",
                    ":13: vsock.slot: the socket device: slot 1 is taken by the entropy device",
                ),
            ])
        },
    },
    Test {
        name: "errors::config_check_of_the_file_alone_needs_nothing_that_it_names",
        run: file_only,
    },
    Test {
        name: "errors::a_section_that_is_there_twice_is_named_with_its_line",
        run: || {
            says(&[
                (
                    |c| format!("{c}[kernel]\npath = \"other\"\n"),
                    ":12: `kernel` is given twice",
                ),
                (
                    |c| format!("{c}[lifecycle]\n[lifecycle]\nstop_timeout = \"1s\"\n"),
                    ":13: `lifecycle` is given twice",
                ),
                (
                    |c| c.replace("vcpu = 1", "vcpu = 1\nvcpu = 2"),
                    ":3: `vcpu` is given twice",
                ),
            ])
        },
    },
    Test {
        name: "errors::a_file_that_is_no_toml_is_named_with_the_line",
        run: || {
            says(&[
                (|c| c.replace("vcpu = 1", "vcpu 1"), ":2: "),
                (|c| c.replace("[kernel]", "[kernel"), ":4: "),
                (|c| c.replace("name = \"test\"", "name = \"test"), ":1: "),
            ])
        },
    },
    Test {
        name: "errors::a_missing_key_is_named_with_its_section",
        run: || {
            says(&[
                (
                    |c| c.replace("tag = \"test-data\"\n", ""),
                    ":8: the key `tag` is missing",
                ),
                (
                    |c| c.replace("name = \"test\"\n", ""),
                    ": the key `name` is missing",
                ),
            ])
        },
    },
    Test {
        name: "errors::a_file_that_is_not_utf_8_is_named_with_the_line",
        run: || {
            says_of(b"name = \"a\"\n# gr\xfc\xdfe\nvcpu = 1\n", ":2: not UTF-8")?;
            says_of(b"\xff\xfen\0a\0m\0e\0", ":1: not UTF-8")
        },
    },
    Test {
        name: "errors::an_empty_file_says_what_the_least_is",
        run: || {
            says_of(b"", ": nothing is in it: the least is `name`")?;
            says_of(b"# name = \"a\"\n\n", ": nothing is in it")
        },
    },
    Test {
        name: "errors::a_file_of_more_than_a_mebibyte_is_refused",
        run: || {
            let bytes = b"#\n".repeat(600_000);
            says_of(&bytes, ": more than 1048576 bytes are no configuration")
        },
    },
    Test {
        name: "errors::a_directory_a_pipe_and_a_device_are_no_configuration",
        run: no_files,
    },
];

type Case = (fn(String) -> String, &'static str);

fn interface(config: String, id: &str, mac: &str) -> String {
    format!("{config}[[interfaces]]\ntype = \"tap\"\nid = \"{id}\"\nmac = \"{mac}\"\n")
}

fn share(config: String, tag: &str) -> String {
    format!("{config}[[shares]]\ntag = \"{tag}\"\nsource = \"data\"\n")
}

/// Each change of a good configuration makes `run` and `config check` say the same line.
fn says(cases: &[Case]) -> Result<()> {
    let good = Vm::new()?.config()?;
    for (change, words) in cases {
        let config = change(good.clone());
        ensure!(config != good, "nothing was changed for `{words}`");
        says_of(config.as_bytes(), words)?;
    }
    Ok(())
}

fn says_of(file: &[u8], words: &str) -> Result<()> {
    let vm = Vm::new()?;
    fs::write(vm.directory().join("test.toml"), file)?;
    both(&vm, "test.toml", words)
}

/// `run` and `config check` of the file `name` both say one line that begins with the name and `words`.
pub fn both(vm: &Vm, name: &str, words: &str) -> Result<()> {
    let words = format!("minivmm: {name}{words}");
    let by = |verb: &[&str]| -> Result<Output> {
        // What waits for ever is a mistake as well.
        let mut command = Command::new("timeout");
        command.arg("20").arg(vm::program()).args(verb);
        attempt(vm, command.args(["--config", name]))
    };
    for verb in [&["run"][..], &["config", "check"]] {
        by(verb)?
            .says(78, &[&words])
            .with_context(|| format!("{} with `{words}`", verb.join(" ")))?;
    }
    Ok(())
}

/// As a build does in a sandbox: no environment, and none of the VM's files, of its devices and of its memory.
fn file_only() -> Result<()> {
    let vm = Vm::new()?;
    let config = r#"name = "made"
vcpu = 32
mem = 1048576
[kernel]
path = "/no/such/kernel"
initrd = "/no/such/initrd"
[[interfaces]]
type = "macvtap"
id = "no-such-tap"
mac = "02:00:00:00:00:01"
fd = [71, 72]
[[shares]]
tag = "gone"
source = "/no/such/directory"
[[volumes]]
image = "/no/such/image"
[[credentials]]
name = "key"
path = "/no/such/secret"
"#;
    let check = |config: &str, options: &[&str]| -> Result<std::process::Output> {
        fs::write(vm.directory().join("test.toml"), config)?;
        let mut command = Command::new(vm::program());
        Ok(command
            .args(["config", "check", "--config", "test.toml"])
            .args(options)
            .current_dir(vm.directory())
            .env_clear()
            .output()?)
    };
    for (options, words) in [
        (&["--file-only"][..], &["VM `made` is fine"][..]),
        (
            &["--file-only", "--verbose"],
            &[
                "/no/such/kernel",
                "/no/such/initrd",
                "00:06.0",
                "console=ttyS0",
            ],
        ),
        (
            &["--file-only", "--json"],
            &["\"path\": \"/no/such/kernel\"", "\"address\": \"00:16.0\""],
        ),
    ] {
        let output = check(config, options)?;
        let said = String::from_utf8_lossy(&output.stdout);
        ensure!(
            output.status.success() && output.stderr.is_empty(),
            "{output:?}"
        );
        for word in words {
            ensure!(said.contains(word), "{options:?}: no `{word}` in {said}");
        }
    }
    let output = check(config, &[])?;
    ensure!(output.status.code() == Some(78), "{output:?}");
    let output = check(&config.replace("vcpu = 32", "vcpu = 33"), &["--file-only"])?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.code() == Some(78)
            && said == "minivmm: test.toml:2: vcpu: 33 is not from 1 to 32\n",
        "{output:?}"
    );
    Ok(())
}

fn no_files() -> Result<()> {
    let vm = Vm::new()?;
    let fifo = vm.directory().join("fifo");
    vm::run(["mkfifo", &fifo.to_string_lossy()])?;
    both(&vm, "data", ": not a regular file")?;
    both(&vm, "fifo", ": not a regular file")?;
    both(&vm, "/dev/zero", ": not a regular file")?;
    both(&vm, "missing", ": No such file")
}
