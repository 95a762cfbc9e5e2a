//! Asking a VM that is not there, is not ours or is no VM; and places that are no runtime directory.

use std::{
    fs,
    io::{Read, Write},
    os::unix::{
        fs::{PermissionsExt, chown, symlink},
        net::{UnixListener, UnixStream},
    },
    path::Path,
    process::Command,
    thread,
};

use anyhow::{Context, Result, ensure};
use rustix::fs::{FlockOperation, flock};

use super::{Output, attempt};
use crate::{
    Test,
    vm::{self, Vm},
};

pub const TESTS: &[Test] = &[
    Test {
        name: "errors::a_vm_that_does_not_run_is_said_with_names_that_are_near",
        run: unknown,
    },
    Test {
        name: "errors::a_socket_that_is_not_a_vms_is_said_to_be_none",
        run: no_vm,
    },
    Test {
        name: "errors::a_runtime_directory_that_is_not_ours_is_refused_with_the_reason",
        run: not_ours,
    },
    Test {
        name: "errors::a_vm_whose_lock_is_taken_is_said_with_who_has_it",
        run: taken,
    },
    Test {
        name: "errors::a_user_without_a_runtime_directory_is_told_what_to_set",
        run: no_place,
    },
    Test {
        name: "errors::a_vm_that_has_no_configuration_cannot_be_started",
        run: no_config,
    },
];

const USER: u32 = 4321;

/// `minivmm` with `words` and other runtime directories than the host's.
fn ask(vm: &Vm, words: &[&str]) -> Result<Output> {
    let mut command = Command::new("timeout");
    command
        .arg("60")
        .arg(vm::program())
        .args(words)
        .env("MINIVMM_RUNTIME_ROOT", vm.runtime_root());
    attempt(vm, &mut command)
}

fn unknown() -> Result<()> {
    let vm = Vm::new()?;
    ask(&vm, &["status", "adguard"])?
        .says(3, &["no VM called `adguard` runs here, and no other does"])?;
    ask(&vm, &["status", "../adguard"])?
        .says(3, &["`../adguard` is no VM's name", "`--socket PATH`"])?;
    // Two that listen, and one that was killed.
    let mut listeners = Vec::new();
    for name in ["adguard", "photos", "dead"] {
        let directory = vm.runtime_root().join(name);
        fs::create_dir_all(&directory)?;
        listeners.push(UnixListener::bind(directory.join("control"))?);
    }
    listeners.pop();
    ask(&vm, &["status", "adgaurd"])?.says(
        3,
        &["no VM called `adgaurd` runs here; did you mean `adguard`?"],
    )?;
    ask(&vm, &["pause", "something"])?.says(
        3,
        &["no VM called `something` runs here; these do: adguard, photos\n"],
    )?;
    ask(&vm, &["status", "dead"])?.says(3, &["no VM called `dead` runs here"])
}

/// What others do with a client.
fn no_vm() -> Result<()> {
    let vm = Vm::new()?;
    fs::write(vm.directory().join("file"), "")?;
    for name in ["missing", "file", "data"] {
        let said = format!("no VM listens on {name}");
        ask(&vm, &["status", "--socket", name])?.says(3, &[&said])?;
    }
    let long = "x".repeat(200);
    ask(&vm, &["status", "--socket", &long])?.says(5, &[&long])?;
    let garbage = "`data/sock` has answered what is no answer: ";
    let answers: [(&'static [u8], i32, &str); 5] = [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n\0", 5, garbage),
        (b"{\"parameters\":[]}\0", 5, garbage),
        (
            b"{\"error\":\"org.varlink.service.InterfaceNotFound\"}\0",
            6,
            "org.varlink.service.InterfaceNotFound",
        ),
        (
            b"{\"error\":\"org.minivmm.Machine.PermissionDenied\"}\0",
            4,
            "no permission for `data/sock`",
        ),
        (b"", 3, "`data/sock` ended before it answered"),
    ];
    for (answer, code, words) in answers {
        let socket = vm.directory().join("data/sock");
        let listener = UnixListener::bind(&socket)?;
        let other = thread::spawn(move || -> std::io::Result<()> {
            let (mut stream, _) = listener.accept()?;
            let _ = stream.read(&mut [0; 4096])?;
            stream.write_all(answer)
        });
        let said = ask(&vm, &["status", "--socket", "data/sock"]);
        fs::remove_file(&socket)?;
        said?
            .says(code, &[words])
            .with_context(|| format!("with `{}`", String::from_utf8_lossy(answer)))?;
        ensure!(
            other.join().is_ok_and(|answered| answered.is_ok()),
            "nobody asked"
        );
    }
    // It accepts, and says nothing; and one whose queue is full, so that it does not even accept.
    let silent = UnixListener::bind(vm.directory().join("data/silent"))?;
    let said = ask(&vm, &["status", "--socket", "data/silent"]);
    // Few may wait, or there were more of them than this process may have files.
    rustix::net::listen(&silent, 1)?;
    let full = fill(&vm.directory().join("data/silent"));
    let again = ask(&vm, &["status", "--socket", "data/silent"]);
    fs::remove_file(vm.directory().join("data/silent"))?;
    drop((silent, full));
    said?.says(5, &["`data/silent` does not answer within 5s"])?;
    again?.says(5, &["`data/silent` does not answer within 5s"])
}

/// As many connections as wait to be accepted.
fn fill(socket: &Path) -> Vec<UnixStream> {
    use rustix::net::{
        AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with,
    };
    let mut all = Vec::new();
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    while let (Ok(stream), Ok(address)) = (
        socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None),
        SocketAddrUnix::new(socket),
    ) {
        if connect(&stream, &address).is_err() {
            break;
        }
        all.push(stream.into());
    }
    all
}

fn not_ours() -> Result<()> {
    let run = |prepare: fn(&Path) -> Result<()>, words: &[&str]| {
        let vm = Vm::new()?;
        fs::write(vm.directory().join("test.toml"), vm.config()?)?;
        prepare(&vm.runtime_root())?;
        ask(&vm, &["run", "--config", "test.toml"])?.says(69, words)
    };
    run(
        |root| Ok(fs::write(root, "")?),
        &["runtime directory ", "/run: it is no directory: remove it"],
    )?;
    run(
        |root| Ok(symlink("/tmp", root)?),
        &["/run: it is no directory"],
    )?;
    run(
        |root| {
            fs::create_dir(root)?;
            Ok(fs::set_permissions(
                root,
                fs::Permissions::from_mode(0o777),
            )?)
        },
        &["/run: others can write to it (mode 777)"],
    )?;
    run(
        |root| {
            fs::create_dir_all(root.join("test"))?;
            Ok(chown(root.join("test"), Some(USER), Some(USER))?)
        },
        &["/run/test: it belongs to user 4321, and this is user 0"],
    )?;
    run(
        |root| {
            fs::create_dir(root)?;
            Ok(symlink("/tmp", root.join("test"))?)
        },
        &["/run/test: it is no directory"],
    )?;
    run(
        |root| {
            fs::create_dir_all(root.join("test/control"))?;
            Ok(fs::set_permissions(
                root.join("test"),
                fs::Permissions::from_mode(0o700),
            )?)
        },
        &[
            "control socket ",
            "there is a file that is no socket: remove it",
        ],
    )?;
    // One that another program listens on stays.
    let vm = Vm::new()?;
    fs::write(vm.directory().join("test.toml"), vm.config()?)?;
    fs::create_dir_all(vm.runtime_root().join("test"))?;
    let socket = vm.runtime_root().join("test/control");
    let _listener = UnixListener::bind(&socket)?;
    ask(&vm, &["run", "--config", "test.toml"])?
        .says(69, &["control socket ", "another process listens there"])?;
    ensure!(socket.exists(), "it was removed");
    // A name that does not fit into a socket's address.
    let vm = Vm::new()?;
    fs::write(vm.directory().join("test.toml"), vm.config()?)?;
    let root = vm.directory().join("x".repeat(100));
    let mut command = Command::new(vm::program());
    command
        .args(["run", "--config", "test.toml"])
        .env("MINIVMM_RUNTIME_ROOT", root);
    attempt(&vm, &mut command)?.says(69, &["control socket ", "bytes, and 107 are possible"])
}

fn taken() -> Result<()> {
    let vm = Vm::new()?;
    fs::write(vm.directory().join("test.toml"), vm.config()?)?;
    fs::create_dir_all(vm.runtime_root().join("test"))?;
    let us = std::process::id();
    let path = vm.runtime_root().join("test/lock");
    fs::write(&path, format!("{us}\n"))?;
    let lock = fs::File::open(&path)?;
    flock(&lock, FlockOperation::LockExclusive)?;
    let words = format!("`test` runs already: process {us} of user 0 (`");
    for verb in ["run", "start"] {
        ask(&vm, &[verb, "--config", "test.toml"])?
            .says(69, &[&words, "`minivmm stop test` ends it"])?;
    }
    // It has no socket, but somebody runs it.
    let list = Command::new(vm::program())
        .arg("list")
        .env("MINIVMM_RUNTIME_ROOT", vm.runtime_root())
        .output()?;
    let list = String::from_utf8_lossy(&list.stdout).into_owned();
    let line = format!("test  no answer  {us}");
    ensure!(
        list.lines()
            .nth(1)
            .is_some_and(|found| found.starts_with(&line)),
        "{list}"
    );
    drop(lock);
    let list = Command::new(vm::program())
        .arg("list")
        .env("MINIVMM_RUNTIME_ROOT", vm.runtime_root())
        .output()?;
    ensure!(String::from_utf8_lossy(&list.stdout).lines().count() == 1);
    Ok(())
}

fn no_place() -> Result<()> {
    let vm = Vm::new()?.owned_by(USER)?;
    fs::write(vm.directory().join("test.toml"), vm.config()?)?;
    let run = |runtime: Option<&Path>| {
        let mut command = Command::new("setpriv");
        let user = USER.to_string();
        command
            .args(["--reuid", &user, "--regid", &user, "--clear-groups"])
            .arg(vm.directory().join("minivmm"))
            .args(["run", "--config", "test.toml"])
            .env_remove("XDG_RUNTIME_DIR")
            .env_remove("MINIVMM_RUNTIME_ROOT")
            .envs(runtime.map(|path| ("XDG_RUNTIME_DIR", path)));
        attempt(&vm, &mut command)
    };
    run(None)?.says(69, &["set XDG_RUNTIME_DIR to a directory of yours"])?;
    run(Some("relative".as_ref()))?.says(69, &["set XDG_RUNTIME_DIR"])?;
    // Somebody else's.
    run(Some("/root".as_ref()))?.says(69, &["runtime directory /root/minivmm: Permission denied"])
}

fn no_config() -> Result<()> {
    let vm = Vm::new()?;
    let start = |words: &[&str]| {
        let mut command = Command::new(vm::program());
        command.arg("start").args(words);
        attempt(&vm, &mut command)
    };
    start(&["no-such-vm"])?.says(
        78,
        &["there is no VM called `no-such-vm`: /etc/minivmm/no-such-vm.toml does not exist; say which file"],
    )?;
    start(&["a/b"])?.says(78, &["`a/b` is no VM's name", "`--config FILE`"])?;
    start(&["--config", "missing.toml"])?.says(78, &["missing.toml: No such file"])
}
