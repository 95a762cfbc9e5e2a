//! Images that cannot be disks.

use std::fs::{self, File};

use anyhow::Result;
use rustix::fs::{CWD, mkfifoat};

use super::attempt;
use crate::{
    Test,
    vm::{self, Vm},
};

pub const TESTS: &[Test] = &[Test {
    name: "errors::an_image_that_can_be_no_disk_is_named_with_what_to_do",
    run: images,
}];

/// Sections, and what is said of them; the first one begins in line 12.
const CASES: [(&str, &[&str]); 15] = [
    (
        "image = \"none.img\"",
        &[
            ":13: volumes.image: ",
            "`none.img` does not exist",
            "auto_create = true and size",
        ],
    ),
    (
        "image = \"empty.img\"",
        &[":13: volumes.image: ", "`empty.img` is empty"],
    ),
    (
        "image = \"data\"",
        &[":13: volumes.image: ", "`data` is a directory and no disk"],
    ),
    (
        "image = \"pipe\"",
        &[":13: volumes.image: ", "`pipe` is a pipe and no disk"],
    ),
    (
        "image = \"odd.img\"",
        &[":13: volumes.image: ", "700 bytes", "no multiple of 512"],
    ),
    (
        "image = \"good.img\"\nsize = 2",
        &[
            ":14: volumes.size: ",
            "1048576 bytes",
            "truncate -s 2097152",
        ],
    ),
    (
        "image = \"/sys/kernel/notes\"",
        &[
            ":12: volumes.read_only: ",
            "`/sys/kernel/notes` cannot be written",
            "read_only = true",
        ],
    ),
    (
        "image = \"good.img\"\n[[volumes]]\nimage = \"good.img\"",
        &["volumes.image: `good.img` is used twice"],
    ),
    (
        "image = \"good.img\"\n[[volumes]]\nimage = \"same.img\"",
        &["volumes.image: `same.img` is the same file as good.img"],
    ),
    (
        "image = \"good.img\"\nsize = \"big\"",
        &[":14: volumes.size: "],
    ),
    (
        "image = \"new.img\"\nauto_create = true",
        &["volumes.size: `new.img`: it is missing"],
    ),
    (
        "image = \"new.img\"\nauto_create = true\nsize = 1\nfs_type = \"nofs\"",
        &["volumes.fs_type: ", "mkfs.nofs is not installed"],
    ),
    (
        "image = \"none/new.img\"\nauto_create = true\nsize = 1",
        &["volumes.image: ", "`none/new.img` cannot be made"],
    ),
    (
        "image = \"good.img\"\nmount_point = \"/\"",
        &["volumes.mount_point: ", "root=/dev/vda"],
    ),
    (
        "image = \"good.img\"\nformat = \"qcow2\"",
        &["unknown key `format`"],
    ),
];

fn images() -> Result<()> {
    let vm = Vm::new()?;
    let here = vm.directory();
    for (name, len) in [("empty.img", 0), ("odd.img", 700), ("good.img", 1 << 20)] {
        File::create(here.join(name))?.set_len(len)?;
    }
    fs::hard_link(here.join("good.img"), here.join("same.img"))?;
    mkfifoat(CWD, here.join("pipe"), 0o600.into())?;
    for (volumes, said) in CASES {
        let text = format!("{}[[volumes]]\n{volumes}\n", vm.config()?);
        fs::write(here.join("test.toml"), text)?;
        for verb in [&["run"][..], &["config", "check"]] {
            let mut command = std::process::Command::new(vm::program());
            let output = attempt(&vm, command.args(verb).args(["-c", "test.toml"]))?;
            output.says(78, said)?;
        }
    }
    Ok(())
}
