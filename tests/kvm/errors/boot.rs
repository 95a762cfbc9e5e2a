//! Kernels and initrds that cannot be booted: said by `run` and by `config check` alike, before anything is started.

use std::{
    fs::{self, File},
    io::{Seek, SeekFrom, Write},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, ensure};

use super::file::both;
use crate::{
    Test,
    vm::{self, Vm},
};

pub const TESTS: &[Test] = &[
    Test {
        name: "errors::a_truncated_kernel_is_named",
        run: truncated_kernels,
    },
    Test {
        name: "errors::a_truncated_initrd_is_named",
        run: truncated_initrds,
    },
    Test {
        name: "errors::an_initrd_that_is_too_large_for_the_memory_says_how_much_is_needed",
        run: large_initrd,
    },
    Test {
        name: "errors::a_kernel_or_initrd_that_is_no_file_is_named",
        run: no_files,
    },
];

/// A VM with a kernel and an initrd in its own directory, to be spoilt.
struct Spoilt {
    vm: Vm,
    kernel: PathBuf,
    initrd: PathBuf,
}

impl Spoilt {
    fn new() -> Result<Self> {
        let vm = Vm::new()?;
        let config = vm.config()?;
        let mut spoilt = config.clone();
        for (key, name) in [("path", "image"), ("initrd", "ramdisk")] {
            let prefix = format!("{key} = ");
            let line = config.lines().find(|line| line.starts_with(&prefix));
            let line = line.with_context(|| format!("no `{key}`"))?;
            let original = line[prefix.len()..].trim_matches('"');
            fs::copy(original, vm.directory().join(name)).context(original.to_owned())?;
            spoilt = spoilt.replace(line, &format!("{key} = \"{name}\""));
        }
        fs::write(vm.directory().join("test.toml"), spoilt)?;
        let (kernel, initrd) = (vm.directory().join("image"), vm.directory().join("ramdisk"));
        Ok(Self { vm, kernel, initrd })
    }

    fn says(&self, words: &str) -> Result<()> {
        both(&self.vm, "test.toml", words)
    }
}

fn truncate(path: &Path, length: u64) -> Result<()> {
    Ok(File::options().write(true).open(path)?.set_len(length)?)
}

fn truncated_kernels() -> Result<()> {
    let spoilt = Spoilt::new()?;
    let length = fs::metadata(&spoilt.kernel)?.len();
    for (length, words) in [
        (length / 2, "image: the kernel image is cut off"),
        (16 << 10, "image: the kernel image is cut off"),
        (600, "image: the kernel image is cut off"),
        (0, "image: the kernel image is empty"),
    ] {
        truncate(&spoilt.kernel, length)?;
        spoilt.says(&format!(":5: kernel.path: {words}"))?;
    }
    Ok(())
}

fn truncated_initrds() -> Result<()> {
    let spoilt = Spoilt::new()?;
    let length = fs::metadata(&spoilt.initrd)?.len();
    for length in [length - 4096, length / 2, 200] {
        truncate(&spoilt.initrd, length)?;
        let words = format!(
            ":6: kernel.initrd: ramdisk: the initrd is cut off: its {length} bytes end in the middle of a cpio archive"
        );
        spoilt.says(&words)?;
    }
    truncate(&spoilt.initrd, 0)?;
    spoilt.says(":6: kernel.initrd: ramdisk: the initrd is empty")
}

fn large_initrd() -> Result<()> {
    let spoilt = Spoilt::new()?;
    // The guest has 256 MiB.
    let mut initrd = File::options().write(true).open(&spoilt.initrd)?;
    initrd.seek(SeekFrom::Start(300 << 20))?;
    initrd.write_all(b"end")?;
    let words =
        ":6: kernel.initrd: ramdisk: the initrd has 301 MiB and the largest free part of memory";
    spoilt.says(words)
}

fn no_files() -> Result<()> {
    for key in ["path", "initrd"] {
        let spoilt = Spoilt::new()?;
        let (line, file) = match key {
            "path" => (5, &spoilt.kernel),
            _ => (6, &spoilt.initrd),
        };
        let name = file.file_name().unwrap_or_default().to_string_lossy();
        fs::remove_file(file)?;
        fs::create_dir(file)?;
        let words = format!(":{line}: kernel.{key}: {name}: not a regular file");
        spoilt.says(&words)?;
        fs::remove_dir(file)?;
        vm::run(["mkfifo", &file.to_string_lossy()])?;
        spoilt.says(&words)?;
        ensure!(file.exists(), "the pipe is gone");
    }
    Ok(())
}
