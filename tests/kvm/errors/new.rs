//! `minivmm new`: what cannot be written, and that what is written is right.

use std::{env, fs, fs::File, process::Command};

use anyhow::{Context, Result, ensure};

use super::{Output, attempt};
use crate::{
    Test,
    vm::{self, Vm},
};

pub const TESTS: &[Test] = &[
    Test {
        name: "errors::new_of_what_is_no_name_says_what_a_name_has",
        run: || {
            for name in ["a b", "../a", ".a", "a/b", "ä", ""] {
                let vm = Vm::new()?;
                new(&vm, &[name])?.says(78, &[&format!("name: `{name}` is not 1 to 64")])?;
            }
            Ok(())
        },
    },
    Test {
        name: "errors::new_of_an_impossible_machine_names_the_key",
        run: || {
            let vm = Vm::new()?;
            new(&vm, &["a", "--vcpu", "40"])?.says(78, &["vcpu: 40 is not from 1 to 32"])?;
            new(&vm, &["a", "--gateway", "192.168.83.1"])?
                .says(78, &["interfaces.gateway: `vm-a` has no address"])?;
            new(&vm, &["a", "--address", "192.168.83.2"])?
                .says(78, &["interfaces.address: ", "192.168.83.2/24"])?;
            ensure!(!vm.directory().join("a.toml").exists(), "it was written");
            Ok(())
        },
    },
    Test {
        name: "errors::new_leaves_a_file_that_is_there_as_it_is",
        run: || {
            let vm = Vm::new()?;
            let file = vm.directory().join("a.toml");
            fs::write(&file, "mine")?;
            new(&vm, &["a"])?.says(69, &["a.toml exists: say --force", "--output"])?;
            ensure!(fs::read_to_string(&file)? == "mine", "it was changed");
            let forced = new(&vm, &["a", "--force"])?;
            ensure!(forced.code == Some(0), "{}", forced.stderr);
            ensure!(fs::read_to_string(&file)?.contains("name = \"a\""));
            Ok(())
        },
    },
    Test {
        name: "errors::new_names_a_file_that_cannot_be_written",
        run: || {
            const NOBODY: &str = "65534";
            let vm = Vm::new()?;
            let nowhere = "cannot be written: No such file or directory";
            new(&vm, &["a", "-o", "no-such-dir/a.toml"])?
                .says(69, &["no-such-dir/a.toml", nowhere])?;
            for force in [&["-o", "data"][..], &["-o", "data", "--force"]] {
                let output = new(&vm, &[&["a"], force].concat())?;
                output.says(69, &["data "])?;
            }
            // The directory is root's, and whoever may do nothing there looks at it.
            let vm = Vm::new()?.owned_by(65534)?;
            let root = vm.directory().join("root");
            fs::create_dir(&root)?;
            for force in ["--log=info", "--force"] {
                let mut command = Command::new("setpriv");
                command
                    .args(["--reuid", NOBODY, "--regid", NOBODY, "--clear-groups"])
                    .arg(vm.directory().join("minivmm"))
                    .args(["new", "a", "-o", "root/a.toml", force])
                    .env("HOME", vm.directory());
                attempt(&vm, &mut command)?.says(69, &["root/a.toml", "Permission denied"])?;
            }
            ensure!(
                fs::read_dir(&root)?.next().is_none(),
                "something was written"
            );
            Ok(())
        },
    },
    Test {
        name: "errors::what_new_writes_passes_config_check_once_its_files_are_there",
        run: passes,
    },
];

fn new(vm: &Vm, words: &[&str]) -> Result<Output> {
    attempt(vm, Command::new(vm::program()).arg("new").args(words))
}

fn passes() -> Result<()> {
    let vm = Vm::new()?;
    let guest = env::var("MINIVMM_GUEST").context("MINIVMM_GUEST")?;
    let kernel = fs::canonicalize(guest)?.join("vmlinuz");
    let said = vm::run([
        "env",
        "-C",
        &vm.directory().to_string_lossy(),
        &vm::program().to_string_lossy(),
        "new",
        "a",
        "--kernel",
        &kernel.to_string_lossy(),
        "--image",
        "base.erofs",
        "--layer",
        "a.erofs",
        "--share",
        "what is to last",
    ])?;
    let (_, after) = said
        .split_once("not there yet:\n")
        .context("nothing is missing")?;
    let (missing, steps) = after.split_once("next:\n").context("no steps")?;
    for words in ["/base.erofs\n", "/a.erofs\n", "the bridge `vms`"] {
        ensure!(missing.contains(words), "no `{words}` in:\n{said}");
    }
    ensure!(!missing.contains("vmlinuz"), "{said}");
    let check = || {
        let mut command = Command::new(vm::program());
        attempt(&vm, command.args(["config", "check", "-c", "a.toml"]))
    };
    check()?.says(78, &["a.toml:", "shares.source: ", "what is to last"])?;
    // The first of the steps, as it is printed.
    let step = steps.lines().next().context("no steps")?;
    let made = Command::new("sh").args(["-c", step]).status()?;
    ensure!(made.success(), "{step}");
    check()?.says(78, &["a.toml:", "volumes.image: ", "base.erofs"])?;
    for image in ["base.erofs", "a.erofs"] {
        File::create(vm.directory().join(image))?.set_len(1 << 20)?;
    }
    let output = check()?;
    ensure!(output.code == Some(0), "{}", output.stderr);
    for step in [
        "minivmm run --config a.toml",
        "/etc/minivmm/a.toml",
        "systemctl enable --now minivmm@a",
    ] {
        ensure!(steps.contains(step), "no `{step}` in:\n{said}");
    }
    Ok(())
}
