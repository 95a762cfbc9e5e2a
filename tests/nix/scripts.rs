//! The scripts and files that microvm.nix' host looks for.

use std::{collections::BTreeMap, fs, path::Path, process::Command};

use anyhow::{Context, Result, ensure};

use crate::{
    Test,
    nix::{Nix, World, text, vm},
};

pub const TESTS: &[Test] = &[
    Test {
        name: "scripts::the_readmes_vm_is_run_and_stopped_by_one_command_each",
        run: seed,
    },
    Test {
        name: "scripts::images_descriptors_and_arguments_come_before_the_command",
        run: full,
    },
    Test {
        name: "scripts::shellcheck_has_nothing_to_say",
        run: checked,
    },
    Test {
        name: "scripts::share_has_what_the_host_and_its_command_read",
        run: share,
    },
];

/// The lines of a script, without empty ones and those of others.
fn script(nix: &Nix, runner: &Path, name: &str) -> Result<Vec<String>> {
    let path = runner.join("bin").join(name);
    let script = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    let script = nix.plain(&script);
    let lines = script.lines().skip(1).map(str::trim_end);
    Ok(lines
        .filter(|line| !line.is_empty())
        .map(str::to_owned)
        .collect())
}

fn seed(world: &World) -> Result<()> {
    let nix = world.nix()?;
    let runner = nix.build(&format!("e.runner {}", vm("seed")))?;
    let run = script(&nix, &runner, "microvm-run")?;
    ensure!(
        run == [
            "set -euo pipefail",
            "exec -a microvm@adguard-vm /minivmm/bin/minivmm run --config /nix/store/…-minivmm-adguard-vm.toml",
        ],
        "{run:#?}"
    );
    let shutdown = script(&nix, &runner, "microvm-shutdown")?;
    ensure!(
        shutdown == ["exec /minivmm/bin/minivmm stop --socket adguard-vm.sock"],
        "{shutdown:#?}"
    );
    let passthru = nix.eval(&format!(
        "let r = e.runner {}; in {{ inherit (r.passthru) canShutdown supportsNotifySocket tapMultiQueue \
         hypervisor registerWithMachined machineId; inherit (r.meta) mainProgram; }}",
        vm("seed")
    ))?;
    let expected = serde_json::json!({
        "canShutdown": true,
        "supportsNotifySocket": true,
        "tapMultiQueue": true,
        "hypervisor": "minivmm",
        "registerWithMachined": false,
        "machineId": "8c9da55b-c0bb-399c-0ab9-5280b6100d7a",
        "mainProgram": "microvm-run",
    });
    ensure!(passthru == expected, "{passthru:#}");

    let bare = nix.build(&format!("e.runner {}", vm("bare")))?;
    let run = script(&nix, &bare, "microvm-run")?;
    ensure!(
        run.last()
            .is_some_and(|line| line
                == "exec /minivmm/bin/minivmm run --config /nix/store/…-minivmm-bare.toml"),
        "{run:#?}"
    );
    ensure!(!bare.join("bin/microvm-shutdown").exists());
    Ok(())
}

fn full(world: &World) -> Result<()> {
    let nix = world.nix()?;
    let runner = nix.build(&format!("e.runner {}", vm("full")))?;
    let run = script(&nix, &runner, "microvm-run")?;
    let expected = [
        "set -euo pipefail",
        "echo before",
        "if [ ! -e var.img ]; then",
        "  /usr/bin/truncate -s 64M var.img.new",
        "  /nix/store/…-e2fsprogs/bin/mkfs.ext4 -L var var.img.new",
        "  /usr/bin/mv var.img.new var.img",
        "fi",
        "  /nix/store/…-dosfstools/bin/mkfs.vfat -n BOOT -F 16 'boot disk.img.new'",
        "read -r index </sys/class/net/vm-full-mac/ifindex",
        r#"exec 3<>"/dev/tap$index""#,
        r#"exec 6<>"/dev/tap$index""#,
        "read -r index </sys/class/net/vm-full-vepa/ifindex",
        r#"exec 7<>"/dev/tap$index""#,
        r#"exec 10<>"/dev/tap$index""#,
        "line=$(echo --log debug)",
        r#"read -r -a runtime_args <<<"$line""#,
        "exec -a microvm@full /minivmm/bin/minivmm run --config /nix/store/…-minivmm-full.toml --log warn \
         \"${runtime_args[@]}\"",
    ];
    let mut rest = run.iter();
    for line in expected {
        ensure!(
            rest.any(|is| is == line),
            "no `{line}` where it belongs: {run:#?}"
        );
    }
    ensure!(rest.next().is_none(), "something is behind exec: {run:#?}");
    // An image that others made is left alone.
    ensure!(
        !run.iter().any(|line| line.contains("full-data")),
        "{run:#?}"
    );
    Ok(())
}

fn checked(world: &World) -> Result<()> {
    let nix = world.nix()?;
    for name in ["seed", "bare", "full"] {
        let runner = nix.build(&format!("e.runner {}", vm(name)))?;
        let ours = [
            "microvm-run",
            "microvm-shutdown",
            "microvm-balloon",
            "microvm-register",
            "microvm-unregister",
        ];
        let paths = ours.map(|name| runner.join("bin").join(name));
        let output = Command::new("shellcheck")
            .args(["--shell", "bash"])
            .args(paths.iter().filter(|path| path.exists()))
            .output()
            .context("cannot run shellcheck")?;
        ensure!(output.status.success(), "{name}: {}", text(&output.stdout));
    }
    Ok(())
}

fn share(world: &World) -> Result<()> {
    let nix = world.nix()?;
    let runner = nix.build(&format!("e.runner {}", vm("full")))?;
    let share = runner.join("share/microvm");
    let mut files = BTreeMap::new();
    let list = Command::new("find")
        .arg(&share)
        .args(["-type", "f", "-printf", "%P\\n"])
        .output()?;
    for name in text(&list.stdout).lines() {
        files.insert(name.to_owned(), fs::read_to_string(share.join(name))?);
    }
    let expected = [
        ("hypervisor", "minivmm"),
        (
            "macvtap-interfaces",
            "vm-full-mac 02:00:00:00:00:0b eth0 bridge\nvm-full-vepa 02:00:00:00:00:0c eth1 vepa\n",
        ),
        ("tap-flags", "vnet_hdr\nmulti_queue\n"),
        ("tap-interfaces", "vm-full\n"),
        ("virtiofs/data/socket", "/run/full/data.sock\n"),
        ("virtiofs/data/source", "/srv/data\n"),
        ("virtiofs/ro-store/socket", "full-virtiofs-ro-store.sock\n"),
        ("virtiofs/ro-store/source", "/nix/store\n"),
        ("vsock-cid", "5\n"),
    ];
    let expected = expected.map(|(name, text)| (name.to_owned(), text.to_owned()));
    ensure!(files == BTreeMap::from(expected), "{files:#?}");
    ensure!(share.join("system/init").exists(), "no system");
    let programs = text(&Command::new("ls").arg(runner.join("bin")).output()?.stdout);
    let expected = "macvtap-down macvtap-up microvm-balloon microvm-register microvm-run microvm-shutdown \
                    microvm-unregister tap-down tap-up virtiofsd-run";
    ensure!(
        programs.split_whitespace().eq(expected.split(' ')),
        "{programs}"
    );
    Ok(())
}
