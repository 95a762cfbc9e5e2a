//! Nix, with a store of its own in a temporary directory.

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tempfile::TempDir;

/// Builders run as whoever runs this, and nothing is looked for elsewhere.
const CONFIG: &str = "build-users-group =\nsandbox = false\nsubstituters =\nflake-registry =\n\
                      experimental-features = nix-command flakes\n";

/// The checkout that is tested.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Why there is nothing to test with.
pub fn obstacle() -> Option<String> {
    match Command::new("nix-instantiate").arg("--version").output() {
        Ok(output) if output.status.success() => None,
        Ok(output) => Some(format!("nix-instantiate does not run: {output:?}")),
        Err(error) => Some(format!(
            "nix-instantiate: {error}; it is in Debian's package nix-bin"
        )),
    }
}

/// What plays NixOS and microvm.nix.
#[derive(Clone, Debug, Default)]
pub struct World {
    nixpkgs_lib: Option<PathBuf>,
    microvm_nix: Option<PathBuf>,
}

impl World {
    /// `nix/tests` does.
    pub fn stubs() -> Self {
        Self::default()
    }

    /// Checkouts do, if the environment names them.
    pub fn checkouts() -> Option<Self> {
        let path = |name| std::env::var_os(name).map(PathBuf::from);
        let lib = path("NIXPKGS_LIB")?;
        Some(Self {
            // nix-community/nixpkgs.lib has it in a directory.
            nixpkgs_lib: Some(match lib.join("lib/default.nix").exists() {
                true => lib.join("lib"),
                false => lib,
            }),
            microvm_nix: Some(path("MICROVM_NIX")?),
        })
    }

    /// The same with another microvm.nix.
    pub fn with_microvm_nix(&self, path: &Path) -> Self {
        Self {
            microvm_nix: Some(path.to_owned()),
            ..self.clone()
        }
    }

    /// The checkout of microvm.nix.
    pub fn microvm_nix(&self) -> Option<&Path> {
        self.microvm_nix.as_deref()
    }

    /// A Nix for it.
    pub fn nix(&self) -> Result<Nix> {
        Nix::new(self.clone())
    }
}

/// A VM of `nix/tests/vms`, for expressions.
pub fn vm(name: &str) -> String {
    format!("{}/nix/tests/vms/{name}.nix", root().display())
}

/// A store, and where its minivmm is.
pub struct Nix {
    directory: TempDir,
    world: World,
}

impl Nix {
    fn new(world: World) -> Result<Self> {
        let directory = tempfile::Builder::new()
            .prefix("minivmm-nix-")
            .tempdir()
            .context("cannot make a temporary directory")?;
        let bin = directory.path().join("minivmm/bin");
        fs::create_dir_all(&bin)?;
        let minivmm = std::env::var_os("MINIVMM_BIN")
            .map_or_else(|| env!("CARGO_BIN_EXE_minivmm").into(), PathBuf::from);
        symlink(minivmm, bin.join("minivmm"))?;
        Ok(Self { directory, world })
    }

    /// A directory that goes with the store.
    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    /// What evaluates, as `e` in expressions.
    fn prelude(&self) -> String {
        let path = |path: &Option<PathBuf>| match path {
            Some(path) => path.display().to_string(),
            None => "null".to_owned(),
        };
        format!(
            "let e = import {root}/nix/tests/eval.nix {{ minivmm = \"{minivmm}\"; \
             nixpkgsLib = {lib}; microvmNix = {microvm}; }}; in ",
            root = root().display(),
            minivmm = self.path().join("minivmm").display(),
            lib = path(&self.world.nixpkgs_lib),
            microvm = path(&self.world.microvm_nix),
        )
    }

    /// One of Nix' programs.
    pub fn command(&self, program: &str) -> Command {
        let path = self.path();
        let mut command = Command::new(program);
        command
            .env("NIX_STORE_DIR", path.join("store"))
            .env("NIX_STATE_DIR", path.join("var"))
            .env("NIX_LOG_DIR", path.join("log"))
            .env("NIX_CONF_DIR", path.join("etc"))
            .env("NIX_CONFIG", CONFIG)
            .env("HOME", path)
            .env_remove("NIX_REMOTE")
            .env_remove("NIX_PATH")
            .stdin(Stdio::null());
        command
    }

    fn instantiate(&self, expression: &str) -> Result<Output> {
        self.command("nix-instantiate")
            .args([
                "--eval",
                "--strict",
                "--json",
                "--read-write-mode",
                "--expr",
            ])
            .arg(format!("{}{expression}", self.prelude()))
            .output()
            .context("cannot run nix-instantiate")
    }

    /// The value of an expression in which `e` is `nix/tests/eval.nix`, and which is to say nothing beside.
    pub fn eval(&self, expression: &str) -> Result<Value> {
        let output = self.instantiate(expression)?;
        let said = text(&output.stderr);
        ensure!(output.status.success(), "{expression}: {said}");
        ensure!(
            said.is_empty(),
            "{expression} has a value, and warns: {said}"
        );
        Ok(serde_json::from_slice(&output.stdout)?)
    }

    /// What is said of an expression that has no value.
    pub fn refusal(&self, expression: &str) -> Result<String> {
        let output = self.instantiate(expression)?;
        ensure!(
            !output.status.success(),
            "{expression} has a value: {}",
            text(&output.stdout)
        );
        Ok(text(&output.stderr))
    }

    /// Builds what an expression is, and gives its path.
    pub fn build(&self, expression: &str) -> Result<PathBuf> {
        let output = self.try_build(expression)?;
        ensure!(
            output.status.success(),
            "{expression}: {}",
            text(&output.stderr)
        );
        Ok(text(&output.stdout).trim().into())
    }

    /// The same, which may fail.
    pub fn try_build(&self, expression: &str) -> Result<Output> {
        self.command("nix-build")
            .args(["--no-out-link", "--expr"])
            .arg(format!("{}{expression}", self.prelude()))
            .output()
            .context("cannot run nix-build")
    }

    /// A text without what is this store's alone.
    pub fn plain(&self, text: &str) -> String {
        let store = format!("{}/", self.path().join("store").display());
        let mut parts = text.split(&store);
        let mut plain = parts.next().unwrap_or_default().to_owned();
        for part in parts {
            // The hash is 32 characters long.
            plain.push_str("/nix/store/…");
            plain.push_str(part.get(32..).unwrap_or(part));
        }
        plain.replace(
            &self.path().join("minivmm").display().to_string(),
            "/minivmm",
        )
    }
}

impl Drop for Nix {
    fn drop(&mut self) {
        // What is in a store is read-only, also for its owner.
        let _ = Command::new("chmod")
            .args(["-R", "u+w"])
            .arg(self.path())
            .status();
    }
}

/// What a program printed.
pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
