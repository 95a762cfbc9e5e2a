//! Disks of a guest: what it reads and writes, who else may have them, a host without room, and what a `kill -9` leaves.

use std::{
    fs::{self, File},
    io::{Read, Write},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, ensure};

use crate::{
    Test,
    guest::Guest,
    pause::status,
    tiny::{self, Last},
    vm::{self, Running, Vm, checksum, value},
};

mod kills;
mod locks;

pub const TESTS: &[Test] = &[
    Test {
        name: "volumes::disks_are_read_written_discarded_shared_and_full",
        run: disks,
    },
    Test {
        name: "volumes::what_was_synced_is_there_after_kill_9",
        run: kills::kills,
    },
    Test {
        name: "volumes::a_restart_in_place_has_the_same_disks_and_their_locks",
        run: locks::restart,
    },
    Test {
        name: "volumes::a_block_device_is_a_disk_unless_the_host_uses_it",
        run: locks::device,
    },
];

/// systemd takes its time in the lab.
pub const LONG: &[Test] = &[Test {
    name: "volumes::systemd_mounts_a_volume_and_finds_it_by_its_serial",
    run: systemd,
}];

/// Bytes that each disk is written with.
const PATTERN: usize = 4 << 20;

/// `full` and the two numbers behind it are in the host's file system that has room for 7 MiB.
const VOLUMES: &str = r#"
[[volumes]]
image = "state.img"
size = 64
auto_create = true
label = "state"
serial = "state-1"
mount_point = "/vol"
queues = 2
[[volumes]]
image = "raw.img"
size = 8
auto_create = true
fs_type = "none"
engine = "threads"
[[volumes]]
image = "shared.img"
read_only = true
[[volumes]]
image = "direct.img"
size = 8
auto_create = true
fs_type = "none"
direct = true
[[volumes]]
image = "full/error.img"
size = 16
auto_create = true
fs_type = "none"
on_enospc = "error"
[[volumes]]
image = "full/pause.img"
size = 16
auto_create = true
fs_type = "none"
"#;

const SCRIPT: &str = r#"
sum() { sha256sum | cut -d ' ' -f 1; }
for d in vda vdb vdc vdd; do
    s=/sys/block/$d
    echo "$d=$(cat $s/serial) ro=$(cat $s/ro) queues=$(ls $s/mq | wc -l) $(cat $s/queue/write_cache)"
done
echo "limits=$(cat /sys/block/vdb/queue/discard_max_bytes) $(cat /sys/block/vdb/queue/write_zeroes_max_bytes)"
echo "mounted=$(grep ' /vol ' /proc/mounts)"
dd if=/data/pattern of=/vol/copy bs=64k status=none
sync /vol/copy
echo 3 >/proc/sys/vm/drop_caches
echo "vol=$(sum </vol/copy)"
for d in vdb vdd; do
    dd if=/data/pattern of=/dev/$d bs=64k conv=fsync status=none
    echo "$d-read=$(dd if=/dev/$d bs=64k count=64 iflag=direct status=none | sum)"
done
blkdiscard -o 1048576 -l 2097152 /dev/vdb && echo discarded=ok
echo "shared=$(sum </dev/vdc)"
dd if=/dev/zero of=/dev/vdc count=1 conv=fsync 2>/dev/null || echo refused=ok
fstrim /vol && echo trimmed=ok

dd if=/data/pattern of=/dev/vde bs=64k conv=fsync 2>/dev/null
echo "error=$?"
dd if=/data/pattern of=/dev/vdf bs=64k conv=fsync status=none &
echo minivmm-guest: writing
until [ -e /data/go ]; do usleep 50000; done
echo minivmm-guest: alive
wait
echo "pause=$(dd if=/dev/vdf bs=64k count=64 iflag=direct status=none | sum)"
"#;

/// A file system of the host with little room, which goes with this.
struct Little(PathBuf);

impl Little {
    fn new(at: PathBuf) -> Result<Self> {
        fs::create_dir(&at)?;
        vm::run([
            "mount",
            "-t",
            "tmpfs",
            "-o",
            "size=7m",
            "little",
            &at.to_string_lossy(),
        ])?;
        Ok(Self(at))
    }
}

impl Drop for Little {
    fn drop(&mut self) {
        let _ = vm::run(["umount", "-l", &self.0.to_string_lossy()]);
    }
}

fn random(path: &Path, len: usize) -> Result<()> {
    let mut bytes = vec![0; len];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    File::create(path)?.write_all(&bytes)?;
    Ok(())
}

fn disks() -> Result<()> {
    let vm = Vm::with_script(SCRIPT)?
        .guest(Guest::of_kernel("6.12-cloud")?)
        .vcpus(2)
        .toml(VOLUMES);
    let here = vm.directory().to_owned();
    for (name, len) in [("data/pattern", PATTERN), ("shared.img", 1 << 20)] {
        random(&here.join(name), len)?;
    }
    let little = Little::new(here.join("full"))?;
    let ballast = little.0.join("ballast");
    fs::write(&ballast, vec![1; 4 << 20])?;

    let mut running = vm.start()?;
    running.wait_for("minivmm-guest: writing")?;
    others(&vm)?;
    no_room(&vm, &mut running)?;
    fs::remove_file(&ballast)?;
    let (code, output) = running.wait()?;
    ensure!(code == 0, "exit code {code}:\n{output}");

    let is = |name: &str, expected: &str| -> Result<()> {
        let found = value(&output, name)?;
        ensure!(
            found == expected,
            "{name} is {found}, not {expected}:\n{output}"
        );
        Ok(())
    };
    is("vda=", "state-1 ro=0 queues=2 write back")?;
    is("vdb=", "ro=0 queues=1 write back")?;
    is("vdc=", "ro=1 queues=1 write back")?;
    is("vdd=", "ro=0 queues=1 write back")?;
    is("limits=", "1073741824 1073741824")?;
    ensure!(
        value(&output, "mounted=")?.starts_with("/dev/vda /vol ext4 rw"),
        "{output}"
    );
    let pattern = checksum(here.join("data/pattern"))?;
    for name in ["vol=", "vdb-read=", "vdd-read=", "pause="] {
        is(name, &pattern)?;
    }
    is("shared=", &checksum(here.join("shared.img"))?)?;
    for name in ["discarded=", "refused=", "trimmed="] {
        is(name, "ok")?;
    }
    is("error=", "1")?;
    ensure!(output.contains("the host has room again"), "{output}");
    let disabled = fs::read_to_string("/proc/sys/kernel/io_uring_disabled");
    let permitted = disabled.is_ok_and(|value| value.trim() == "0");
    ensure!(!permitted || !output.contains("no io_uring"), "{output}");

    on_the_host(&here)?;
    drop(little);
    vm.nothing_left()
}

/// What is in the images afterwards.
fn on_the_host(here: &Path) -> Result<()> {
    let pattern = fs::read(here.join("data/pattern"))?;
    let mib = 1 << 20;
    let raw = fs::read(here.join("raw.img"))?;
    ensure!(raw[..mib] == pattern[..mib] && raw[3 * mib..4 * mib] == pattern[3 * mib..]);
    ensure!(
        raw[mib..3 * mib].iter().all(|byte| *byte == 0),
        "what was discarded is there"
    );
    let blocks = fs::metadata(here.join("raw.img"))?.blocks() * 512;
    ensure!(
        blocks < 3 << 20,
        "{blocks} bytes are in use: nothing was given back"
    );
    let direct = fs::read(here.join("direct.img"))?;
    ensure!(direct[..PATTERN] == pattern[..]);
    let image = here.join("state.img");
    let image = image.to_string_lossy();
    vm::run(["e2fsck", "-fn", &image])?;
    let label = vm::run(["e2label", &image])?;
    ensure!(label.trim() == "state", "{label}");
    Ok(())
}

/// Who else may have the images while the VM runs.
fn others(vm: &Vm) -> Result<()> {
    let here = vm.directory();
    fs::write(here.join("tiny"), tiny::kernel(Last::Reset)?)?;
    let text = "name = \"other\"\nmem = 128\n[kernel]\npath = \"tiny\"\n\
                [[volumes]]\nimage = \"shared.img\"\nread_only = true\n";
    fs::write(here.join("reader.toml"), text)?;
    let reader = vm.ask(["run", "--config", "reader.toml"])?;
    ensure!(reader.status.code() == Some(10), "{reader:?}");
    for (volume, image) in [
        ("image = \"shared.img\"\n", "shared.img"),
        ("image = \"state.img\"\n", "state.img"),
        ("image = \"state.img\"\nread_only = true\n", "state.img"),
    ] {
        let why = format!("volumes.image: VM `test` has it: `{image}` is in use by process ");
        locks::refused(vm, volume, &why)?;
    }
    Ok(())
}

/// The guest goes on while what it writes waits for room, and both sides can see that it does.
fn no_room(vm: &Vm, running: &mut Running) -> Result<()> {
    running.wait_for("the host has no room")?;
    let full = || -> Result<Vec<String>> {
        let status = status(vm)?;
        let volumes = status["volumes"].as_array().context("volumes")?;
        let full = volumes.iter().filter(|volume| volume["full"] == true);
        Ok(full
            .filter_map(|v| v["disk"].as_str().map(str::to_owned))
            .collect())
    };
    ensure!(full()? == ["vdf"], "{:?}", full()?);
    let said = vm.ask(["status", "test"])?;
    let said = String::from_utf8_lossy(&said.stdout).into_owned();
    ensure!(
        said.contains("vdf: ") && said.contains("the host has no room"),
        "{said}"
    );
    let metrics = vm.ask(["metrics", "test"])?;
    let metrics = String::from_utf8_lossy(&metrics.stdout).into_owned();
    let number = |name: &str, labels: &str| -> Result<f64> {
        let sample = format!("minivmm_disk_{name}{{vm=\"test\",{labels}}} ");
        Ok(value(&metrics, &sample)?.parse()?)
    };
    ensure!(
        number("waiting_requests", "device=\"vdf\"")? > 0.0,
        "{metrics}"
    );
    ensure!(number("errors_total", "device=\"vde\"")? > 0.0, "{metrics}");
    ensure!(
        number("errors_total", "device=\"vdf\"")? == 0.0,
        "{metrics}"
    );
    let written = number("bytes_total", "device=\"vdb\",operation=\"write\"")?;
    ensure!(written == PATTERN as f64, "{metrics}");
    for operation in ["read", "write", "flush", "discard"] {
        let labels = format!("device=\"vda\",operation=\"{operation}\"");
        ensure!(
            number("requests_total", &labels)? > 0.0,
            "{operation}:\n{metrics}"
        );
    }
    fs::write(vm.data().join("go"), "")?;
    running.wait_for("minivmm-guest: alive")?;
    Ok(())
}

/// What systemd starts of a whole boot, which would take longer than a test may: the volume's mount, and what it waits for.
const UNIT: &str = "[Unit]\nDefaultDependencies=no\nRequires=vol.mount\nAfter=vol.mount\n\
    Wants=systemd-udevd.service systemd-udev-trigger.service\n\
    [Service]\nType=oneshot\nStandardOutput=tty\nStandardError=tty\n\
    ExecStart=/bin/sh -c 'mount -t virtiofs test-data /mnt && sh /mnt/test.sh; systemctl poweroff -ff'\n";

fn systemd() -> Result<()> {
    let vm = Vm::debian()?
        .cmdline("overlay systemd.unit=probe.service")
        .toml(
            "[[volumes]]\nimage = \"a.img\"\nsize = 16\nauto_create = true\nmount_point = \"/vol\"\n\
             [[volumes]]\nimage = \"b.img\"\nsize = 8\nauto_create = true\nfs_type = \"none\"\nserial = \"b-1\"\n\
             [[credentials]]\nname = \"systemd.extra-unit.probe.service\"\npath = \"data/probe.service\"\n",
        );
    // The console has begun a line.
    let script = "echo\n\
         echo vol=$(findmnt --noheadings --output SOURCE,FSTYPE /vol)\n\
         disk=/dev/disk/by-id/virtio-b-1\n\
         until [ -e $disk ]; do sleep 0.1; done\n\
         tr '\\0' x </dev/zero | dd of=$disk bs=1M count=8 iflag=fullblock conv=fsync status=none\n\
         blkdiscard --zeroout --offset 1048576 --length 4194304 $disk && echo zeroed=ok\n\
         blkdiscard --offset 6291456 --length 1048576 $disk && echo discarded=ok\n\
         sync\n";
    for (name, text) in [("test.sh", script), ("probe.service", UNIT)] {
        fs::write(vm.data().join(name), text)?;
    }
    let (code, output) = vm.run()?;
    ensure!(code == 0, "exit code {code}:\n{output}");
    for (word, expected) in [
        ("vol=", "/dev/vda ext4"),
        ("zeroed=", "ok"),
        ("discarded=", "ok"),
    ] {
        ensure!(value(&output, word)? == expected, "{word}:\n{output}");
    }
    let mib = |n: usize| n << 20;
    let bytes = fs::read(vm.directory().join("b.img"))?;
    for (range, expected) in [
        (0..mib(1), b'x'),
        (mib(1)..mib(5), 0),
        (mib(5)..mib(6), b'x'),
        (mib(6)..mib(7), 0),
        (mib(7)..mib(8), b'x'),
    ] {
        ensure!(
            bytes[range.clone()].iter().all(|b| *b == expected),
            "{range:?}"
        );
    }
    Ok(())
}
