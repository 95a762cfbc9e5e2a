//! Who may have an image, and when.

use std::{
    fs::{self, File},
    os::unix::fs::symlink,
};

use anyhow::{Result, ensure};
use rustix::process::Signal;

use crate::{
    pause::status,
    tiny::{self, Last},
    vm::{self, Vm},
};

/// A VM whose kernel uses no disk, with a volume.
fn tiny_with(volume: &str) -> Result<Vm> {
    let vm = Vm::with_tiny(Last::Idle)?;
    Ok(vm.toml(&format!("[[volumes]]\n{volume}")))
}

pub fn restart() -> Result<()> {
    let vm = tiny_with("image = \"a.img\"\nsize = 1\nauto_create = true\nfs_type = \"none\"\n")?;
    let mut running = vm.start()?;
    running.wait_for("a.img: making it, 1 MiB")?;
    running.wait_for("the VM runs")?;
    let rebooted = vm.ask(["reboot", "test", "--force"])?;
    ensure!(rebooted.status.success(), "{rebooted:?}");
    running.wait_for_nth("the VM runs", 2)?;
    let status = status(&vm)?;
    ensure!(status["volumes"][0]["disk"] == "vda" && status["volumes"][0]["size"] == 1 << 20);
    refused(
        &vm,
        "image = \"a.img\"\n",
        "VM `test` has it: `a.img` is in use",
    )?;
    // Who is killed has no lock any more.
    running.signal(Signal::KILL)?;
    running.wait()?;
    let mut again = vm.start()?;
    again.wait_for("the VM runs")?;
    again.signal(Signal::KILL)?;
    again.wait().map(drop)
}

/// Starts another VM with a volume that it cannot have.
pub fn refused(vm: &Vm, volume: &str, why: &str) -> Result<()> {
    let here = vm.directory();
    fs::write(here.join("tiny-2"), tiny::kernel(Last::Reset)?)?;
    let text =
        format!("name = \"other\"\nmem = 128\n[kernel]\npath = \"tiny-2\"\n[[volumes]]\n{volume}");
    fs::write(here.join("other.toml"), text)?;
    let output = vm.ask(["run", "--config", "other.toml"])?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.code() == Some(78), "{output:?}");
    ensure!(said.contains(why), "no `{why}` in: {said}");
    Ok(())
}

/// A loop device, which goes with this.
struct Loop(String);

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = vm::run(["umount", &self.0]);
        let _ = vm::run(["losetup", "-d", &self.0]);
    }
}

pub fn device() -> Result<()> {
    let vm = tiny_with("image = \"disk\"\n")?;
    let (image, mounted) = (
        vm.directory().join("device.img"),
        vm.directory().join("mounted"),
    );
    File::create(&image)?.set_len(8 << 20)?;
    let name = vm::run(["losetup", "--find", "--show", &image.to_string_lossy()])?;
    let device = Loop(name.trim().to_owned());
    symlink(&device.0, vm.directory().join("disk"))?;

    let mut running = vm.start()?;
    running.wait_for("the VM runs")?;
    let status = status(&vm)?;
    ensure!(status["volumes"][0]["size"] == 8 << 20, "{status}");
    let of_device = format!("image = {:?}\n", device.0);
    refused(&vm, &of_device, "is in use by process")?;
    // Who only looks takes nothing.
    let check = vm.ask(["config", "check", "--config", "test.toml"])?;
    ensure!(check.status.success(), "{check:?}");
    running.signal(Signal::KILL)?;
    running.wait()?;

    vm::run(["mkfs.ext4", "-q", &device.0])?;
    fs::create_dir(&mounted)?;
    vm::run(["mount", &device.0, &mounted.to_string_lossy()])?;
    refused(&vm, &of_device, "is in use by another process")
}
