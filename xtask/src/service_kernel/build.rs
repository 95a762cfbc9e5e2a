//! The kernel's source, and what is made in it.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;

use anyhow::{Context, Result, bail};

use crate::command::{Tied, capture, program};
use crate::debian::{self, Package};
use crate::progress::Count;
use crate::workspace;

use super::configuration::Configuration;

/// About as many lines are printed by make.
pub const OBJECTS: u64 = 1500;

/// What the kernel says of its making: nothing of when, where and by whom, so that the same source makes the same kernel.
const TIME: &str = "Wed Jan  1 00:00:00 UTC 2025";
const WHO: &str = "minivmm";

/// An unpacked source.
#[derive(Debug)]
pub struct Tree {
    /// All that is to be removed in the end.
    base: PathBuf,
    /// The source's directory.
    source: PathBuf,
}

impl Tree {
    /// The source of `package`. It is kept until a kernel was built, so that an interrupted build goes on where it was.
    pub fn of(package: &Package) -> Result<Self> {
        let base = workspace::cache().join("service-kernel-build");
        let tree = Self {
            source: base.join("linux"),
            base,
        };
        let of = tree.base.join("version");
        if fs::read_to_string(&of).is_ok_and(|version| version == package.version) {
            return Ok(tree);
        }
        tree.remove()?;
        let packed = tree.base.join("package");
        fs::create_dir_all(&packed)?;
        debian::unpack("service-kernel", std::slice::from_ref(package), &packed)?;
        fs::create_dir(&tree.source)?;
        let archive = packed.join(format!("usr/src/{}.tar.xz", package.name));
        capture(
            program("tar")
                .args(["--extract", "--strip-components=1", "--directory"])
                .arg(&tree.source)
                .arg("--file")
                .arg(archive),
        )?;
        fs::remove_dir_all(packed)?;
        fs::write(of, &package.version)?;
        Ok(tree)
    }

    /// The source's directory.
    pub fn path(&self) -> &Path {
        &self.source
    }

    /// Makes the whole configuration, with nothing that was not asked for, and returns it.
    pub fn configure(&self, wanted: &Configuration) -> Result<String> {
        let all = self.base.join("wanted.config");
        fs::write(&all, wanted.text())?;
        capture(
            self.make()
                .arg("allnoconfig")
                .env("KCONFIG_ALLCONFIG", &all),
        )?;
        let made = fs::read_to_string(self.source.join(".config"))?;
        wanted.check(&made)?;
        Ok(made)
    }

    /// Builds it.
    pub fn build(&self, count: &Count) -> Result<()> {
        let processes = thread::available_parallelism()?;
        let mut make = self.make();
        make.arg(format!("-j{processes}"))
            // The latent entropy of GCC's plugin is the same then in each build.
            .arg("KCFLAGS=-frandom-seed=minivmm")
            .arg("bzImage")
            .stdout(Stdio::piped())
            .stderr(fs::File::create(self.errors())?);
        let mut make = Tied::start(&mut make)?;
        let lines = make.0.stdout.take().context("make has no output")?;
        for line in BufReader::new(lines).lines() {
            if line?.starts_with("  ") {
                count.one();
            }
        }
        let status = make.0.wait()?;
        if !status.success() {
            let said = fs::read_to_string(self.errors())?;
            bail!("make failed: {status}\n{}", said.trim_end());
        }
        Ok(())
    }

    /// Removes it.
    pub fn remove(&self) -> Result<()> {
        if self.base.exists() {
            fs::remove_dir_all(&self.base)
                .with_context(|| format!("cannot remove {}", self.base.display()))?;
        }
        Ok(())
    }

    fn errors(&self) -> PathBuf {
        self.base.join("errors")
    }

    fn make(&self) -> Command {
        let mut make = program("make");
        make.current_dir(&self.source)
            // What a make that runs this is to do is not meant for this one.
            .env_remove("MAKEFLAGS")
            .env_remove("MAKELEVEL")
            .env_remove("KCONFIG_CONFIG")
            .env("LC_ALL", "C")
            .env("KBUILD_BUILD_TIMESTAMP", TIME)
            .env("KBUILD_BUILD_VERSION", "1")
            .env("KBUILD_BUILD_USER", WHO)
            .env("KBUILD_BUILD_HOST", WHO)
            .arg("ARCH=x86_64");
        make
    }
}
