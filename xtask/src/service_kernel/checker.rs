//! kernel-hardening-checker, which knows what KSPP and others recommend: Debian's package of one version, unpacked and not
//! installed.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail};
use sha2::{Digest, Sha256};

use crate::cache::{self, Key};
use crate::command::{capture_text, program, run};
use crate::debian;

/// Its version.
pub const VERSION: &str = "0.6.17.1";

/// Packages of this version, the same program each, and their SHA-256: Debian 12 has none, and mirrors keep a package
/// only as long as a release has it.
const PACKAGES: [(&str, &str); 2] = [
    (
        "0.6.17.1-3",
        "d35697b44665a35be844cbe003ad37bab0a35503d165a0c61725cc8e225421e7",
    ),
    (
        "0.6.17.1-3~bpo13+1",
        "174f9cae50184215eb3c0fe5d8e845eb67beeecbc9902c46d8e00d5d1e0e8935",
    ),
];

/// The program.
#[derive(Debug)]
pub struct Checker(PathBuf);

impl Checker {
    /// Fetches it if it is not there.
    pub fn install() -> Result<Self> {
        let key = Key::default().with(include_str!("checker.rs"));
        let root = cache::directory("tools", "kernel-hardening-checker", &key, |directory| {
            let package = directory.join("package.deb");
            fs::write(&package, fetch()?)?;
            run(program("dpkg-deb")
                .arg("--extract")
                .args([&package, directory]))?;
            fs::remove_file(&package).map_err(Into::into)
        })?;
        Ok(Self(root))
    }

    /// What it says of a kernel with the configuration in `config` and the built-in command line `cmdline`.
    pub fn check(&self, config: &Path, cmdline: &str) -> Result<String> {
        let line = tempfile::NamedTempFile::new()?;
        fs::write(line.path(), cmdline)?;
        capture_text(
            program("/usr/bin/python3")
                .env("PYTHONPATH", self.0.join("usr/lib/python3/dist-packages"))
                .env("PYTHONDONTWRITEBYTECODE", "1")
                .arg(self.0.join("usr/bin/kernel-hardening-checker"))
                .arg("--config")
                .arg(config)
                .arg("--cmdline")
                .arg(line.path()),
        )
    }
}

fn fetch() -> Result<Vec<u8>> {
    let mirror = debian::mirror()?;
    let mut reasons = Vec::new();
    for (version, checksum) in PACKAGES {
        let file = format!("kernel-hardening-checker_{version}_all.deb");
        let address = format!("{mirror}pool/main/k/kernel-hardening-checker/{file}");
        match debian::fetch(&address) {
            Ok(package) if hex(&Sha256::digest(&package)) == checksum => return Ok(package),
            Ok(_) => bail!("{file} is not what it was: its SHA-256 is another"),
            Err(error) => reasons.push(format!("{error:#}")),
        }
    }
    Err(anyhow!(
        "the mirror has no kernel-hardening-checker {VERSION} any more? {}",
        reasons.join("; ")
    ))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// What it found.
#[derive(Debug, PartialEq, Eq)]
pub struct Verdict {
    /// How many recommendations are followed.
    pub followed: usize,
    /// Those that are not, by the options' names, each once.
    pub failed: Vec<String>,
    /// How many these are, counting an option as often as it is asked for.
    pub failures: usize,
}

impl Verdict {
    /// Reads what [`Checker::check`] printed from a file.
    pub fn read(path: &Path) -> Result<Self> {
        let said =
            fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        Self::parse(&said).with_context(|| format!("{} is not understood", path.display()))
    }

    fn parse(said: &str) -> Result<Self> {
        let rows: Vec<Vec<&str>> = said
            .lines()
            .map(|line| line.split('|').map(str::trim).collect())
            .filter(|row: &Vec<&str>| row.len() == 6)
            .collect();
        let failed: Vec<&str> = rows
            .iter()
            .filter(|row| row[5].starts_with("FAIL"))
            .map(|row| row[0])
            .collect();
        let followed = rows.iter().filter(|row| row[5].starts_with("OK")).count();
        let sum = format!("'OK' - {followed} / 'FAIL' - {}", failed.len());
        if !said.contains(&sum) {
            bail!("its last line does not have {sum}");
        }
        let failures = failed.len();
        let mut once: Vec<String> = failed.into_iter().map(str::to_owned).collect();
        once.sort_unstable();
        once.dedup();
        Ok(Self {
            followed,
            failed: once,
            failures,
        })
    }

    /// The score in one line, as docs/kernel.md has it.
    pub fn score(&self) -> String {
        format!("{} OK, {} FAIL", self.followed, self.failures)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    const SAID: &str = "\
[+] Config file to check: config
option_name | type  | reason | decision | desired_val | check_result
CONFIG_LSM  |kconfig| policy |  kspp    |   *yama*    | OK: in \"yama\"
CONFIG_LSM  |kconfig| policy |  kspp    |  *selinux*  | FAIL: not in \"yama\"
CONFIG_LSM  |kconfig| policy |  kspp    |  *smack*    | FAIL: not in \"yama\"
pti         |cmdline| self   |  kspp    |     on      | FAIL: is not found
CONFIG_BUG  |kconfig| self   |defconfig |      y      | OK
[+] Config check is finished: 'OK' - 2 / 'FAIL' - 3
";

    #[test]
    fn an_option_that_fails_twice_is_named_once_and_counted_twice() {
        let verdict = Verdict::parse(SAID).unwrap();
        assert_eq!(verdict.failed, ["CONFIG_LSM", "pti"]);
        assert_eq!(verdict.score(), "2 OK, 3 FAIL");
    }

    #[test]
    fn a_table_that_is_read_in_part_is_an_error() {
        let said = SAID.replace("'FAIL' - 3", "'FAIL' - 4");
        assert!(Verdict::parse(&said).is_err());
        assert!(Verdict::parse("").is_err());
    }
}
