//! `minivmm start`, `restart` and what they say of what is wrong.

use std::{
    fs,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use serde_json::json;

use crate::{
    Test,
    fleet::{self, Fleet},
    vm::{self, PATIENCE},
};

pub const TESTS: &[Test] = &[
    Test {
        name: "start::a_vm_is_started_seen_restarted_with_a_new_configuration_and_stopped",
        run: cycle,
    },
    Test {
        name: "start::an_ordinary_users_vm_is_theirs_and_roots_to_see",
        run: of_user,
    },
    Test {
        name: "start::a_disk_that_is_full_where_logs_go_keeps_no_vm_from_running",
        run: full_disk,
    },
];

const USER: u32 = 4321;
const OTHER: u32 = 4322;

fn cycle() -> Result<()> {
    let fleet = Fleet::new()?;
    let file = fleet.config("a", "[control]\nsocket = \"a.sock\"\n")?;
    let [said, _] = fleet.says(0, &["start", "--config", &file])?;
    let before = fleet.status("a")?;
    ensure!(
        said.starts_with(&format!("a: runs, process {}; log: ", before["pid"])),
        "{said}"
    );
    // It has a session of its own.
    let pid = fleet.pid("a")?;
    ensure!(rustix::process::getsid(Some(pid))? == pid);
    ensure!(
        before["state"] == "running" && before["config_changed"] == json!(false),
        "{before}"
    );
    ensure!(
        before["working_directory"] == json!(fleet.path("")),
        "{before}"
    );
    // What the guest prints is on its way for a moment; its lines and the log's may be in each other.
    let deadline = Instant::now() + PATIENCE;
    loop {
        let log = fs::read_to_string(fleet.path("logs/a.log"))?;
        let ours = " INFO the VM runs\n";
        if log.contains(ours) && log.replacen(ours, "", 1).contains("tiny guest: ") {
            break;
        }
        ensure!(Instant::now() < deadline, "{log}");
        thread::sleep(Duration::from_millis(20));
    }
    // The socket is where the configuration says, seen from the working directory, and is found by name as well.
    let [said, _] = fleet.says(0, &["status", "--socket", "a.sock"])?;
    ensure!(said.contains("● a: running since "), "{said}");
    let [_, said] = fleet.says(69, &["start", "--config", &file])?;
    ensure!(
        said.contains(&format!(
            "`a` runs already: process {} of user 0 (`minivmm ",
            before["pid"]
        )),
        "{said}"
    );

    // A configuration that is wrong leaves the VM alone.
    fleet.config("a", "[control]\nsockets = \"a.sock\"\n")?;
    let [_, said] = fleet.says(78, &["restart", "a", "--force"])?;
    ensure!(said.contains("a.toml:7: "), "{said}");
    fleet.config("a", "")?;
    let text = fs::read_to_string(fleet.path(&file))?;
    fs::write(
        fleet.path(&file),
        text.replace("name = \"a\"", "name = \"b\""),
    )?;
    let [_, said] = fleet.says(78, &["restart", "a", "--force"])?;
    ensure!(
        said.contains("a.toml:1: name: it is `b`, and not `a`"),
        "{said}"
    );
    ensure!(fleet.status("a")?["pid"] == before["pid"]);

    // One that is right is taken by a restart.
    fs::write(fleet.path(&file), text.replace("mem = 64", "mem = 80"))?;
    let [said, _] = fleet.says(0, &["status", "a"])?;
    ensure!(
        said.contains("it has changed since the VM was started; to have it: `minivmm restart a`"),
        "{said}"
    );
    fleet.says(0, &["restart", "a", "--force"])?;
    let after = fleet.status("a")?;
    ensure!(
        after["mem"] == 80 && after["pid"] != before["pid"],
        "{after}"
    );
    ensure!(after["config_changed"] == json!(false), "{after}");
    fleet::wait_gone(pid)?;
    ensure!(!fleet.path("a.sock").exists(), "the old socket is left");

    fleet.says(0, &["stop", "a", "--force"])?;
    fleet.says(3, &["status", "a"])?;
    let [_, said] = fleet.says(3, &["restart", "a"])?;
    ensure!(said.contains("no VM called `a` runs here"), "{said}");
    // What `run` says and ends with, `start` does as well.
    let broken = fleet.config(
        "a",
        "[[interfaces]]\ntype = \"tap\"\nid = \"no-such-tap\"\nmac = \"02:00:00:00:00:01\"\n",
    )?;
    let [_, by_run] = fleet.says(78, &["run", "--config", &broken])?;
    let [_, by_start] = fleet.says(78, &["start", "--config", &broken])?;
    let last = |text: &str| text.lines().last().unwrap_or_default().to_owned();
    ensure!(
        last(&by_start).contains("`no-such-tap` does not exist"),
        "{by_start}"
    );
    let same = last(&by_start).replace(&*fleet.path(&broken).to_string_lossy(), &broken);
    ensure!(last(&by_run) == same, "{by_run}{by_start}");
    Ok(())
}

fn of_user() -> Result<()> {
    let fleet = Fleet::of_user(USER)?;
    // By its name alone.
    let file = fleet.config("mine", "")?;
    fs::create_dir_all(fleet.path("config/minivmm"))?;
    fs::rename(fleet.path(&file), fleet.path("config/minivmm").join(&file))?;
    let [_, said] = fleet.says(78, &["start", "mien"])?;
    ensure!(said.contains("did you mean `mine`?"), "{said}");
    let [said, _] = fleet.says(0, &["start", "mine"])?;
    ensure!(said.contains("mine: runs, process "), "{said}");
    let status = fleet.status("mine")?;
    ensure!(
        status["working_directory"] == json!(fleet.path("state/minivmm/mine")),
        "{status}"
    );
    let listed = fleet.json(&["list", "--json"])?;
    ensure!(listed[0]["memory_used_bytes"].is_u64(), "{listed}");
    // The supervisor looks up how the kernel counts, which not every process without dumps may.
    let [said, _] = fleet.says(0, &["metrics", "mine"])?;
    ensure!(said.contains("minivmm_thread_cpu_seconds_total"), "{said}");
    let [_, said] = fleet.says(3, &["status", "mime"])?;
    ensure!(said.contains("did you mean `mine`?"), "{said}");
    fleet.says(0, &["restart", "mine", "--force"])?;

    let socket = fleet.runtime_dir("mine").join("control");
    let socket = socket.to_string_lossy();
    let asked = Command::new(vm::program())
        .args(["status", "--socket", &socket])
        .output()?;
    ensure!(asked.status.success(), "root: {asked:?}");
    let asked = fleet::by(OTHER, &fleet.path("minivmm"))
        .args(["status", "--socket", &socket])
        .output()?;
    ensure!(asked.status.code() == Some(4), "another user: {asked:?}");
    let said = String::from_utf8_lossy(&asked.stderr);
    ensure!(
        said.contains("no permission for ") && said.contains("ask as that user, or as root"),
        "{said}"
    );

    let pid = fleet.pid("mine")?;
    fleet.says(0, &["stop", "mine", "--force"])?;
    fleet::wait_gone(pid)?;
    ensure!(!fleet.runtime_dir("mine").exists());
    Ok(())
}

fn full_disk() -> Result<()> {
    let fleet = Fleet::new()?;
    let logs = fleet.path("logs");
    fs::create_dir(&logs)?;
    let place = logs.to_string_lossy().into_owned();
    vm::run([
        "mount",
        "-t",
        "tmpfs",
        "-o",
        "size=16k,nr_inodes=3",
        "none",
        &place,
    ])?;
    let tried = on_full_disk(&fleet);
    vm::run(["umount", "-l", &place])?;
    tried
}

fn on_full_disk(fleet: &Fleet) -> Result<()> {
    for name in ["a", "b"] {
        fleet.config(name, "")?;
    }
    // The file is there, and nothing more gets into it.
    fs::write(fleet.path("logs/a.log"), "")?;
    let full = fs::write(fleet.path("logs/fill"), vec![0; 1 << 20]);
    ensure!(
        full.is_err(),
        "the file system has more room than it was given"
    );
    fleet.start("a")?;
    ensure!(fleet.status("a")?["state"] == "running");
    ensure!(fs::metadata(fleet.path("logs/a.log"))?.len() == 0);
    // There is not even a file.
    let [_, said] = fleet.says(0, &["start", "--config", "b.toml"])?;
    ensure!(
        said.contains("No space left on device") && said.contains("runs without one"),
        "{said}"
    );
    ensure!(fleet.json(&["list", "--json"])?[1]["state"] == "running");
    for name in ["a", "b"] {
        fleet.says(0, &["stop", name, "--force"])?;
    }
    Ok(())
}
