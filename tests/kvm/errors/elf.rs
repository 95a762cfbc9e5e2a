//! ELF files that are no kernels, or damaged ones: said by `run` and by `config check` alike.

use std::{fs, path::PathBuf, process::Command};

use anyhow::{Context, Result, ensure};

use super::attempt;
use crate::{
    Test,
    vm::{self, Vm},
};

pub const TESTS: &[Test] = &[
    Test {
        name: "errors::an_elf_file_that_is_no_kernel_is_named",
        run: || {
            let vm = Vm::new()?;
            let program = fs::read("/proc/self/exe")?;
            says(
                &vm,
                &program,
                "",
                &["kernel.path: ", "a program for Linux itself"],
            )?;
            for (change, words) in [
                (|e: &mut Vec<u8>| e[4] = 1, "32-bit"),
                (|e| e[18] = 183, "arm64"),
                (|e| e[16] = 1, "object file"),
                (|e| e[56] = 0, "without a loadable segment"),
                (|e| e[56] = 200, "e_phnum"),
                (|e| e[24] = 16, "none of its segments"),
                (|e| e[64 + 24 + 3] = 0, "can be put from 0x100000"),
                (|e| (e[24 + 3], e[64 + 24 + 3]) = (0x40, 0x40), "raise mem"),
                (|e| e[64 + 32 + 7] = 1, "p_filesz"),
                (|e| e[64 + 32] = 17, "p_filesz"),
                (|e| e.truncate(130), "cut off"),
            ] as [(fn(&mut Vec<u8>), &str); 11]
            {
                let mut elf = elf();
                change(&mut elf);
                says(&vm, &elf, "", &["kernel.path: ", words])?;
            }
            Ok(())
        },
    },
    Test {
        name: "errors::a_pvh_entry_that_is_not_there_says_what_to_do",
        run: || {
            let vm = Vm::new()?;
            let pvh = "entry = \"pvh\"\n";
            let words = ["kernel.path: ", "no PVH entry", "kernel.entry"];
            says(&vm, &elf(), pvh, &words)?;
            let bzimage = fs::read(bzimage()?)?;
            says(
                &vm,
                &bzimage,
                pvh,
                &["kernel.path: ", "bzImage", "kernel.entry"],
            )
        },
    },
];

/// A vmlinux of sixteen bytes at 16 MiB, without notes.
fn elf() -> Vec<u8> {
    let mut elf = vec![0; 64 + 56 + 16];
    let mut put = |at: usize, bytes: &[u8]| elf[at..at + bytes.len()].copy_from_slice(bytes);
    let address = 0x100_0000u64.to_le_bytes();
    put(0, b"\x7fELF\x02\x01\x01");
    put(16, &[2, 0, 62, 0, 1]);
    put(24, &address);
    put(32, &[64]);
    put(54, &[56, 0, 1]);
    put(64, &[1]);
    put(64 + 8, &[64 + 56]);
    put(64 + 24, &address);
    put(64 + 32, &[16]);
    put(64 + 40, &[16]);
    elf
}

/// The kernel of the guest that the tests boot.
fn bzimage() -> Result<PathBuf> {
    let directory = std::env::var_os("MINIVMM_GUEST").context("MINIVMM_GUEST is not set")?;
    Ok(PathBuf::from(directory).join("vmlinuz"))
}

/// Gives `vm` the kernel `image`, adds `toml` to its section, and looks for `words` in what both verbs say.
fn says(vm: &Vm, image: &[u8], toml: &str, words: &[&str]) -> Result<()> {
    fs::write(vm.directory().join("image"), image)?;
    let config = vm.config()?;
    let path = format!("{:?}", bzimage()?.canonicalize()?);
    ensure!(config.contains(&path), "no {path} in:\n{config}");
    let config = config
        .replace(&path, "\"image\"")
        .replace("[kernel]\n", &format!("[kernel]\n{toml}"));
    fs::write(vm.directory().join("test.toml"), config)?;
    for verb in [&["run"][..], &["config", "check"]] {
        let mut command = Command::new(vm::program());
        command
            .args(["--log", "off"])
            .args(verb)
            .args(["-c", "test.toml"]);
        let output = attempt(vm, &mut command)?;
        output
            .says(78, words)
            .with_context(|| format!("{verb:?}"))?;
    }
    Ok(())
}
