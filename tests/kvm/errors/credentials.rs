//! Credentials that cannot be had: the key, the name, the file and what to do are said; what is in a file never is.

use std::{fs, process::Command};

use anyhow::{Result, ensure};

use super::file::both;
use crate::{
    Test,
    vm::{self, Vm},
};

pub const TESTS: &[Test] = &[
    Test {
        name: "errors::a_credential_that_cannot_be_had_is_named_with_its_line",
        run: cannot_be_had,
    },
    Test {
        name: "errors::config_check_says_which_credentials_only_a_unit_has",
        run: only_in_a_unit,
    },
];

fn section(name: &str, path: &str) -> String {
    format!("[[credentials]]\nname = \"{name}\"\n{path}")
}

fn cannot_be_had() -> Result<()> {
    let path = |path: &str| format!("path = \"{path}\"\n");
    for (sections, words) in [
        (
            section("key", &path("gone")),
            ":14: credentials.path: credential `key`: gone: No such file or directory (os error 2) (relative paths",
        ),
        (
            section("key", &path("data")),
            ":14: credentials.path: credential `key`: data: not a regular file",
        ),
        (
            section("a/b", ""),
            ":13: credentials.name: `a/b` is not 1 to 255 printable ASCII",
        ),
        (
            [
                section("key", &path("small")),
                section("key", &path("small")),
            ]
            .concat(),
            ":16: credentials.name: `key` is used twice",
        ),
        (
            [
                section("key", &path("small")),
                section("big", &path("large")),
            ]
            .concat(),
            ":12: credentials: the SMBIOS structures take 266",
        ),
    ] {
        let vm = Vm::new()?.toml(&sections);
        fs::write(vm.directory().join("small"), "secret")?;
        fs::write(vm.directory().join("large"), [b'x'; 200_000])?;
        fs::write(vm.directory().join("test.toml"), vm.config()?)?;
        both(&vm, "test.toml", words)?;
    }
    Ok(())
}

fn only_in_a_unit() -> Result<()> {
    let vm = Vm::new()?.toml(&section("key", ""));
    fs::write(vm.directory().join("test.toml"), vm.config()?)?;
    let attempt = |verb: &[&str], directory: Option<&str>| -> Result<(Option<i32>, String)> {
        let output = Command::new(vm::program())
            .args(verb)
            .args(["-c", "test.toml"])
            .current_dir(vm.directory())
            .envs(directory.map(|directory| ("CREDENTIALS_DIRECTORY", directory)))
            .output()?;
        let said = [output.stdout, output.stderr].concat();
        Ok((
            output.status.code(),
            String::from_utf8_lossy(&said).into_owned(),
        ))
    };
    let check = ["config", "check"];
    let (code, said) = attempt(&check, None)?;
    ensure!(code == Some(0), "{said}");
    ensure!(
        said.contains("credential `key`: it has no path, and $CREDENTIALS_DIRECTORY is not set"),
        "{said}"
    );
    let (code, said) = attempt(&["run"], None)?;
    ensure!(
        code == Some(78) && said.contains("test.toml:13: credentials.name: "),
        "{said}"
    );
    for verb in [&check[..], &["run"]] {
        let (code, said) = attempt(verb, Some("data"))?;
        ensure!(code == Some(78), "{said}");
        ensure!(said.contains("data/key: No such file"), "{said}");
        ensure!(
            said.contains("the unit needs LoadCredential=key:FILE"),
            "{said}"
        );
    }
    fs::write(vm.data().join("key"), "secret")?;
    let (code, said) = attempt(&check, Some("data"))?;
    ensure!(code == Some(0) && said.lines().count() == 1, "{said}");
    Ok(())
}
