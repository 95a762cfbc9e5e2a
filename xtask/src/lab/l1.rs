//! What the lab machine boots: Debian's newest kernel, and an initramfs that leads to this machine's files.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::{self, Seek, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::cache::{self, Key};
use crate::cpio::Archive;
use crate::kernel::{self, Kernel};
use crate::{debian, workspace};

const MODULES: &str = include_str!("../../lab/modules");
const INIT: &str = include_str!("../../lab/init");
const SESSION: &str = include_str!("../../lab/session");

/// Every lab run boots these.
#[derive(Debug)]
pub struct Image {
    /// The bzImage.
    pub kernel: PathBuf,
    initramfs: PathBuf,
}

/// The lab's kernel and initramfs, made if they are not there in the newest version that apt knows.
pub fn image() -> Result<Image> {
    let [meta, busybox] = debian::newest([&["linux-image-amd64"], &["busybox-static"]])?;
    let kernel = kernel::behind(&meta)?;
    let key = Key::default()
        .with(&kernel.name)
        .with(&kernel.version)
        .with(&busybox.version)
        .with(MODULES)
        .with(INIT)
        .with(SESSION);
    let directory = cache::directory("", "l1", &key, |directory| {
        eprintln!("lab: making its kernel and initramfs from {}", kernel.name);
        let root = tempfile::tempdir_in(workspace::cache())?;
        debian::unpack("l1", &[kernel, busybox], root.path())?;
        let kernel = Kernel::unpacked(root.path())?;
        fs::copy(kernel.image(), directory.join("vmlinuz"))?;

        let mut archive = Archive::default();
        for empty in ["dev", "proc", "sys", "machine", "written", "root"] {
            archive.directory(empty, 0o755);
        }
        // The kernel opens it for init before devtmpfs is there.
        archive.character_device("dev/console", 0o600, 5, 1);
        archive.file("init", 0o755, INIT);
        archive.file("lab/session", 0o755, SESSION);
        crate::busybox::add(root.path(), &mut archive)?;
        kernel.add_modules(&kernel::listed(MODULES), &mut archive)?;
        archive.write(File::create(directory.join("initramfs"))?)?;
        Ok(())
    })?;
    Ok(Image {
        kernel: directory.join("vmlinuz"),
        initramfs: directory.join("initramfs"),
    })
}

/// What one run adds to the initramfs.
#[derive(Debug)]
pub struct Session<'a> {
    /// Marks this run's reports.
    pub token: &'a str,
    /// Rows and columns of the terminal that the output goes to.
    pub terminal: Option<(u16, u16)>,
    /// This program, which also holds the lab's VM.
    pub program: &'a Path,
    /// Whether there is a directory to mount on /out.
    pub out: bool,
    /// Whether there is a disk to mount on /guest/debian.
    pub debian: bool,
    /// The command, its directory and its environment.
    pub command: &'a [OsString],
    /// The command's working directory.
    pub directory: &'a Path,
    /// The command's environment.
    pub environment: &'a [(String, OsString)],
}

impl Image {
    /// The initramfs for one run, in a file without a name.
    pub fn initramfs(&self, session: &Session<'_>) -> Result<File> {
        let mut file = tempfile::tempfile_in(workspace::cache())
            .context("cannot make a file for the lab's initramfs")?;
        io::copy(&mut File::open(&self.initramfs)?, &mut file)?;
        let mut archive = Archive::default();
        archive.file("lab/settings", 0o644, session.settings());
        archive.file("lab/command", 0o644, session.script());
        let mut bytes = Vec::new();
        archive.write(&mut bytes)?;
        file.write_all(&bytes)?;
        file.rewind()?;
        Ok(file)
    }
}

impl Session<'_> {
    fn settings(&self) -> Vec<u8> {
        let size = match self.terminal {
            Some((rows, columns)) => format!("rows {rows} columns {columns}"),
            None => String::new(),
        };
        let flag = |set| if set { "1" } else { "" };
        let mut settings = format!(
            "token={}\nsize='{size}'\nout={}\ndebian={}\nprogram=",
            self.token,
            flag(self.out),
            flag(self.debian),
        )
        .into_bytes();
        quote(self.program.as_os_str(), &mut settings);
        settings.push(b'\n');
        settings
    }

    /// A shell script that becomes the command.
    fn script(&self) -> Vec<u8> {
        let mut script = Vec::new();
        for (name, value) in self.environment {
            script.extend_from_slice(format!("export {name}=").as_bytes());
            quote(value, &mut script);
            script.push(b'\n');
        }
        script.extend_from_slice(b"cd ");
        quote(self.directory.as_os_str(), &mut script);
        script.extend_from_slice(b" || exit\nexec");
        for argument in self.command {
            script.push(b' ');
            quote(argument, &mut script);
        }
        script.push(b'\n');
        script
    }
}

/// Appends `word` so that a shell reads it as it is.
fn quote(word: &OsStr, script: &mut Vec<u8>) {
    script.push(b'\'');
    for byte in word.as_bytes() {
        match byte {
            b'\'' => script.extend_from_slice(br"'\''"),
            byte => script.push(*byte),
        }
    }
    script.push(b'\'');
}

/// This process's environment as far as a command in the lab is to see it.
pub fn inherited(
    variables: impl IntoIterator<Item = (OsString, OsString)>,
) -> Vec<(String, OsString)> {
    let passed = |name: &str| {
        matches!(name, "PATH" | "HOME" | "TERM" | "USER" | "NO_COLOR")
            || name.starts_with("MINIVMM_")
    };
    let mut inherited: Vec<_> = variables
        .into_iter()
        .filter_map(|(name, value)| {
            let name = String::from_utf8(name.into_vec()).ok()?;
            passed(&name).then_some((name, value))
        })
        .collect();
    inherited.sort();
    inherited
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::command::{capture_text, program};

    #[test]
    fn a_command_comes_out_of_the_shell_as_it_went_in() {
        let command = [
            "printf",
            "<%s>",
            "",
            "a b",
            "it's",
            "$HOME `id` \\ \"x\"",
            "\n",
            "é",
        ];
        let environment = [("GREETING".to_owned(), "two words 'quoted'".into())];
        let session = Session {
            token: "t",
            terminal: None,
            program: Path::new("/bin/true"),
            out: false,
            debian: false,
            command: &command.map(OsString::from),
            directory: Path::new("/"),
            environment: &environment,
        };
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(&session.script()).unwrap();
        let printed = capture_text(program("sh").arg(file.path())).unwrap();
        assert_eq!(printed, "<><a b><it's><$HOME `id` \\ \"x\"><\n><é>");
    }

    #[test]
    fn a_command_gets_the_environment_and_the_directory() {
        let environment = [("GREETING".to_owned(), "two words 'quoted'".into())];
        let session = Session {
            token: "t",
            terminal: None,
            program: Path::new("/bin/true"),
            out: false,
            debian: false,
            command: &["sh", "-c", "echo \"$GREETING\"; pwd"].map(OsString::from),
            directory: Path::new("/usr"),
            environment: &environment,
        };
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(&session.script()).unwrap();
        let printed = capture_text(program("sh").arg(file.path())).unwrap();
        assert_eq!(printed, "two words 'quoted'\n/usr\n");
    }

    #[test]
    fn only_a_few_variables_are_passed_on() {
        let variables = [("PATH", "/bin"), ("SECRET", "x"), ("MINIVMM_GUEST", "g")]
            .map(|(name, value)| (name.into(), value.into()));
        let names: Vec<_> = inherited(variables)
            .into_iter()
            .map(|(name, _)| name)
            .collect();
        assert_eq!(names, ["MINIVMM_GUEST", "PATH"]);
    }
}
