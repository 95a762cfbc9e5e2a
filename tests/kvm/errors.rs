//! Bad input: one line that names the thing and says what to do, an exit code, and nothing left behind.

use std::{fs, os::unix::fs::PermissionsExt, process::Command};

use anyhow::{Result, ensure};

use crate::{
    Test,
    network::Network,
    vm::{self, Vm},
};

mod boot;
mod control;
mod credentials;
mod elf;
mod file;
mod new;
mod tap;
mod volumes;

pub fn tests() -> Vec<Test> {
    [
        TESTS,
        boot::TESTS,
        control::TESTS,
        credentials::TESTS,
        elf::TESTS,
        file::TESTS,
        new::TESTS,
        tap::TESTS,
        volumes::TESTS,
    ]
    .concat()
}

const TESTS: &[Test] = &[
    Test {
        name: "errors::a_missing_kernel_is_named",
        run: || {
            let output = broken(|c| c.replace("/vmlinuz", "/no-such-kernel"))?;
            output.says(
                78,
                &[
                    "test.toml:5: kernel.path:",
                    "/no-such-kernel",
                    "No such file",
                ],
            )
        },
    },
    Test {
        name: "errors::a_missing_initrd_is_named",
        run: || {
            let output = broken(|c| c.replace("/initrd", "/no-such-initrd"))?;
            output.says(
                78,
                &[
                    "test.toml:6: kernel.initrd:",
                    "/no-such-initrd",
                    "No such file",
                ],
            )
        },
    },
    Test {
        name: "errors::too_little_memory_says_how_much_is_needed",
        run: || {
            let output = broken(|c| c.replace("mem = 256", "mem = 64"))?;
            output.says(78, &["test.toml:5: kernel.path:", "mem"])
        },
    },
    Test {
        name: "errors::more_memory_than_the_host_has_is_refused_with_both_figures",
        run: too_much_memory,
    },
    Test {
        name: "errors::a_command_line_that_is_too_long_names_the_limit",
        run: || {
            let words = "x".repeat(140_000);
            let output = broken(|c| c.replace("quiet", &words))?;
            output.says(78, &["test.toml:7: kernel.cmdline:", "2047"])
        },
    },
    Test {
        name: "errors::config_check_says_what_run_would",
        run: config_check,
    },
    Test {
        name: "errors::a_virtiofsd_that_ends_at_once_is_said_with_its_share",
        run: useless_virtiofsd,
    },
    Test {
        name: "errors::a_foreign_kernel_image_is_named",
        run: foreign_kernels,
    },
    Test {
        name: "errors::a_missing_tap_is_named_with_the_command_that_makes_it",
        run: || {
            let output =
                broken(|c| format!("{c}{}", Network::toml().replace("vm0", "no-such-tap")))?;
            output.says(
                78,
                &[
                    "test.toml:14: interfaces.id: ",
                    "`no-such-tap` does not exist",
                    "ip tuntap add",
                ],
            )
        },
    },
    Test {
        name: "errors::a_busy_tap_is_named",
        run: busy_tap,
    },
    Test {
        name: "errors::a_missing_share_source_is_named",
        run: || {
            let output = broken(|c| c.replace("source = \"data\"", "source = \"no-such-dir\""))?;
            output.says(
                78,
                &["test.toml:10: shares.source:", "`test-data`", "no-such-dir"],
            )
        },
    },
    Test {
        name: "errors::a_missing_virtiofsd_says_how_to_get_one",
        run: || {
            let output = with("MINIVMM_VIRTIOFSD", "/no-such-virtiofsd")?;
            output.says(69, &["/no-such-virtiofsd", "cargo install virtiofsd"])
        },
    },
    Test {
        name: "errors::a_virtiofsd_of_the_working_directory_is_not_run_for_an_empty_path",
        run: virtiofsd_beside,
    },
    Test {
        name: "errors::a_missing_dev_kvm_says_what_to_do",
        run: || {
            no_kvm(
                "umount /dev/kvm; rm -f /dev/kvm;",
                "load the module kvm_amd or kvm_intel",
            )
        },
    },
    Test {
        name: "errors::a_dev_kvm_without_permission_says_what_to_do",
        run: forbidden_kvm,
    },
];

/// What `minivmm run` said before it ended.
struct Output {
    code: Option<i32>,
    stderr: String,
    left: Result<()>,
}

impl Output {
    /// The exit code, one line with all of `words`, and nothing left behind.
    fn says(self, code: i32, words: &[&str]) -> Result<()> {
        let stderr = self.stderr;
        ensure!(
            self.code == Some(code),
            "exit code {:?}: {stderr}",
            self.code
        );
        ensure!(
            stderr.trim_end().lines().count() == 1,
            "not one line: {stderr}"
        );
        ensure!(stderr.starts_with("minivmm: "), "{stderr}");
        for word in words {
            ensure!(stderr.contains(word), "no `{word}` in: {stderr}");
        }
        self.left
    }
}

/// Runs a configuration that was changed by `change`.
fn broken(change: impl FnOnce(String) -> String) -> Result<Output> {
    changed(change, &["run"])
}

/// The same, looked at by `config check`.
fn checked(change: impl FnOnce(String) -> String) -> Result<Output> {
    changed(change, &["config", "check"])
}

fn changed(change: impl FnOnce(String) -> String, verb: &[&str]) -> Result<Output> {
    let vm = Vm::new()?;
    fs::write(vm.directory().join("test.toml"), change(vm.config()?))?;
    let mut command = Command::new(vm::program());
    attempt(&vm, command.args(verb).args(["-c", "test.toml"]))
}

fn attempt(vm: &Vm, command: &mut Command) -> Result<Output> {
    const RUNTIME: &str = "XDG_RUNTIME_DIR";
    // An ordinary user's VMs are there, unless the test says something else.
    if command.get_envs().all(|(variable, _)| variable != RUNTIME) {
        command.env(RUNTIME, vm.data());
    }
    let output = command.current_dir(vm.directory()).output()?;
    Ok(Output {
        code: output.status.code(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        left: vm.nothing_left(),
    })
}

fn with(variable: &str, value: &str) -> Result<Output> {
    let vm = Vm::new()?;
    fs::write(vm.directory().join("test.toml"), vm.config()?)?;
    let mut command = Command::new(vm::program());
    attempt(
        &vm,
        command
            .args(["run", "-c", "test.toml"])
            .env(variable, value),
    )
}

fn config_check() -> Result<()> {
    let output = checked(|config| config)?;
    let silent = output.stderr.is_empty();
    ensure!(output.code == Some(0) && silent, "{}", output.stderr);
    checked(|c| c.replace("source = \"data\"", "source = \"nowhere\""))?
        .says(78, &["`test-data`", "nowhere"])?;
    checked(|c| c.replace("mem = 256", "mem = 64"))?.says(78, &["kernel.path:"])
}

fn too_much_memory() -> Result<()> {
    let info = rustix::system::sysinfo();
    let host = (info.totalram * u64::from(info.mem_unit)) >> 20;
    let memory = format!("mem = {}", host + 1);
    let said = format!(
        "test.toml:3: mem: {} MiB are more than the {host} MiB",
        host + 1
    );
    let change = |config: String| config.replace("mem = 256", &memory);
    broken(change)?.says(78, &[&said])?;
    checked(change)?.says(78, &[&said])
}

/// It has the right name and version, and that is all.
fn useless_virtiofsd() -> Result<()> {
    let vm = Vm::new()?;
    let stub = vm.directory().join("virtiofsd");
    let script = "#!/bin/sh\n[ \"$1\" = --version ] && echo virtiofsd 1.14.0\nexit 1\n";
    fs::write(&stub, script)?;
    fs::set_permissions(&stub, fs::Permissions::from_mode(0o755))?;
    fs::write(vm.directory().join("test.toml"), vm.config()?)?;
    let mut command = Command::new(vm::program());
    command
        .args(["--log", "off", "run", "-c", "test.toml"])
        .env("MINIVMM_VIRTIOFSD", stub);
    attempt(&vm, &mut command)?.says(69, &["share `test-data`", "virtiofsd"])
}

/// An empty `PATH` is a list with one entry, which names the working directory: that may be somebody else's.
fn virtiofsd_beside() -> Result<()> {
    for path in ["", ".", "data:"] {
        let vm = Vm::new()?;
        let here = vm.directory().display();
        let script = format!("#!/bin/sh\ntouch {here}/was-run\necho virtiofsd 1.14.0\n");
        for place in ["virtiofsd", "data/virtiofsd"] {
            let program = vm.directory().join(place);
            fs::write(&program, &script)?;
            fs::set_permissions(&program, fs::Permissions::from_mode(0o755))?;
        }
        // Where the distribution has a virtiofsd, the tap is what is missing.
        let config = vm.config()? + &Network::toml().replace("vm0", "no-such-tap");
        fs::write(vm.directory().join("test.toml"), config)?;
        let mut command = Command::new(vm::program());
        command
            .args(["run", "-c", "test.toml"])
            .env("PATH", path)
            .env_remove("MINIVMM_VIRTIOFSD");
        let output = attempt(&vm, &mut command)?;
        ensure!(
            matches!(output.code, Some(69 | 78)),
            "{:?}: {}",
            output.code,
            output.stderr
        );
        ensure!(
            output.stderr.contains("virtiofsd") || output.stderr.contains("no-such-tap"),
            "{}",
            output.stderr
        );
        ensure!(
            !vm.directory().join("was-run").exists(),
            "{path:?}: {}",
            output.stderr
        );
    }
    Ok(())
}

fn foreign_kernels() -> Result<()> {
    let program = fs::read(vm::program())?;
    let images: [(&str, &[u8]); 4] = [
        ("empty", b""),
        ("text", b"#!/bin/sh\necho I am no kernel\n"),
        ("elf", &program[..8192]),
        ("gzip", b"\x1f\x8b\x08\0\0\0\0\0\0\x03 and so on, and so on"),
    ];
    for (name, image) in images {
        let vm = Vm::new()?;
        fs::write(vm.directory().join("image"), image)?;
        let config = vm.config()?;
        let path = config
            .lines()
            .find(|line| line.starts_with("path = "))
            .unwrap_or_default();
        fs::write(
            vm.directory().join("test.toml"),
            config.replace(path, "path = \"image\""),
        )?;
        let output = attempt(
            &vm,
            Command::new(vm::program()).args(["run", "-c", "test.toml"]),
        )?;
        output
            .says(78, &["kernel.path: image: "])
            .map_err(|error| error.context(format!("image `{name}`")))?;
    }
    Ok(())
}

/// The tap is held by another program, as by a VM that runs already.
fn busy_tap() -> Result<()> {
    let network = Network::new("busy")?;
    let vm = Vm::new()?.toml(&Network::toml());
    fs::write(vm.directory().join("test.toml"), vm.config()?)?;
    // The first holds the tap; the second finds it busy, says so and ends both.
    let script = format!(
        "ip netns exec {host} python3 -c '
import fcntl, struct, subprocess, sys
tun = open(\"/dev/net/tun\", \"r+b\", buffering=0)
fcntl.ioctl(tun, 0x400454ca, struct.pack(\"16sH22x\", b\"vm0\", 0x5002))
sys.exit(subprocess.run([\"{program}\", \"run\", \"-c\", \"test.toml\"]).returncode)
'",
        host = network.host,
        program = vm::program().display()
    );
    let output = attempt(&vm, Command::new("sh").args(["-c", &script]))?;
    output.says(78, &["`vm0`", "in use"])
}

/// Runs with another `/dev/kvm` than the host's, in a mount namespace of its own.
fn no_kvm(prepare: &str, words: &str) -> Result<()> {
    let vm = Vm::new()?;
    fs::write(vm.directory().join("test.toml"), vm.config()?)?;
    let script = format!(
        "mount -t tmpfs none /dev && mknod -m 666 /dev/null c 1 3 && mknod -m 666 /dev/urandom c 1 9; \
         {{ {prepare} }} 2>/dev/null; exec {} run -c test.toml",
        vm::program().display()
    );
    let output = attempt(
        &vm,
        Command::new("unshare").args(["--mount", "sh", "-c", &script]),
    )?;
    output.says(69, &["/dev/kvm", words])
}

fn forbidden_kvm() -> Result<()> {
    const NOBODY: u32 = 65534;
    let vm = Vm::new()?.owned_by(NOBODY)?;
    fs::write(vm.directory().join("test.toml"), vm.config()?)?;
    let script = format!(
        "mount -t tmpfs -o mode=0755 none /dev && mknod -m 666 /dev/null c 1 3 && \
         mknod -m 666 /dev/urandom c 1 9 && mknod -m 600 /dev/kvm c 10 232 && \
         MINIVMM_VIRTIOFSD={dir}/virtiofsd \
         exec setpriv --reuid {NOBODY} --regid {NOBODY} --clear-groups {dir}/minivmm run -c test.toml",
        dir = vm.directory().display()
    );
    let output = attempt(
        &vm,
        Command::new("unshare").args(["--mount", "sh", "-c", &script]),
    )?;
    output.says(69, &["/dev/kvm may not be opened", "group"])
}
