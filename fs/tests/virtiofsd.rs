//! The real virtiofsd as a process: what it may do, how it ends, and what it leaves behind.
#![allow(missing_docs, clippy::unwrap_used, clippy::panic)]

mod common;

use std::{
    fs,
    os::{
        fd::OwnedFd,
        unix::fs::{MetadataExt, PermissionsExt, chown},
    },
    path::Path,
    sync::mpsc,
    thread,
    time::Duration,
};

use common::{Guest, SOON, Served, program, share_of, tag};
use minivmm_devices::test_utils::readable;
use minivmm_fs::{
    FsDevice, Virtiofsd,
    virtiofsd::{Error, Ids, Options},
};
use rustix::{
    process::{Gid, Pid, PidfdFlags, Signal, Uid, geteuid, getpgid, pidfd_open, pidfd_send_signal},
    thread::{set_thread_groups, set_thread_res_gid, set_thread_res_uid},
};
use vmm_sys_util::signal::block_signal;

/// Connects to it, so that it has started wholly: with its sandboxed child.
fn connected(served: &mut Served) -> Box<FsDevice> {
    let socket = served.socket.take().unwrap();
    Box::new(FsDevice::connect(socket, &tag(), Box::new(|| {})).unwrap())
}

fn pidfd(pid: u32) -> OwnedFd {
    let pid = Pid::from_raw(pid.try_into().unwrap()).unwrap();
    pidfd_open(pid, PidfdFlags::empty()).unwrap()
}

/// The sandboxed child, which does the work.
fn child_of(pid: u32) -> u32 {
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
    children.trim().parse().unwrap()
}

fn status_field(pid: u32, name: &str) -> String {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with(name)).unwrap();
    line.split_once(':').unwrap().1.trim().to_owned()
}

#[test]
fn nothing_is_left_in_the_runtime_directory() {
    let mut served = Served::new();
    let _device = connected(&mut served);
    assert_eq!(fs::read_dir(served.runtime.path()).unwrap().count(), 0);
}

#[test]
fn it_ends_by_itself_when_its_connection_is_closed() {
    let mut served = Served::new();
    drop(connected(&mut served));
    assert!(served.virtiofsd.stop(SOON).unwrap().success());
}

#[test]
fn it_is_stopped_when_its_connection_stays_open() {
    let mut served = Served::new();
    let _device = connected(&mut served);
    let child = pidfd(child_of(served.virtiofsd.pid()));
    let status = served.virtiofsd.stop(Duration::ZERO).unwrap();
    assert!(!status.success());
    assert!(readable(&child, SOON));
}

#[test]
fn one_that_does_not_listen_to_sigterm_is_killed() {
    let mut served = Served::new();
    let _device = connected(&mut served);
    let pid = served.virtiofsd.pid();
    let child = pidfd(child_of(pid));
    for process in [&pidfd(pid), &child] {
        pidfd_send_signal(process, Signal::STOP).unwrap();
    }
    served.virtiofsd.stop(Duration::ZERO).unwrap();
    assert!(readable(&child, SOON));
}

#[test]
fn it_hears_signals_that_its_starter_blocks_and_not_those_of_the_terminal() {
    let starter = thread::spawn(|| {
        // The mask is the thread's.
        block_signal(libc::SIGTERM).unwrap();
        let mut served = Served::new();
        let _device = connected(&mut served);
        let pid = served.virtiofsd.pid();
        for process in [pid, child_of(pid)] {
            let raw = Pid::from_raw(process.try_into().unwrap());
            assert_ne!(getpgid(raw).unwrap(), getpgid(None).unwrap());
        }
        let process = pidfd(pid);
        pidfd_send_signal(&process, Signal::TERM).unwrap();
        assert!(readable(&process, SOON));
    });
    starter.join().unwrap();
}

#[test]
fn it_dies_with_the_thread_that_started_it_though_its_connection_is_open() {
    let (send, receive) = mpsc::channel();
    let starter = thread::spawn(move || {
        let mut served = Served::new();
        let device = connected(&mut served);
        let pid = served.virtiofsd.pid();
        let processes = [pidfd(pid), pidfd(child_of(pid))];
        send.send((processes, device)).unwrap();
        // As after kill -9, nothing of ours tidies up.
        std::mem::forget(served.virtiofsd);
    });
    let (processes, device) = receive.recv().unwrap();
    starter.join().unwrap();
    for process in &processes {
        assert!(readable(process, SOON));
    }
    drop(device);
}

#[test]
fn it_is_root_of_its_own_user_namespace_with_the_ids_of_the_host() {
    assert!(geteuid().is_root(), "this test needs root");
    let mut served = Served::new();
    let device = connected(&mut served);
    let child = child_of(served.virtiofsd.pid());
    let namespace =
        |pid: &str, kind: &str| fs::read_link(format!("/proc/{pid}/ns/{kind}")).unwrap();
    for kind in ["user", "mnt", "pid", "net"] {
        assert_ne!(
            namespace(&child.to_string(), kind),
            namespace("self", kind),
            "{kind}"
        );
    }
    let words = |pid: &str| {
        let map = fs::read_to_string(format!("/proc/{pid}/uid_map")).unwrap();
        map.split_whitespace()
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    let ours = words("self");
    assert_eq!(words(&child.to_string())[2], ours[2]);
    assert_eq!(status_field(child, "NoNewPrivs"), "1");
    // CHOWN, DAC_OVERRIDE, FOWNER, FSETID, SETGID, SETUID, MKNOD and SETFCAP.
    assert_eq!(status_field(child, "CapEff"), "00000000880000db");

    let mut guest = Guest::activate(device);
    guest.init();
    fs::set_permissions(served.share.path(), fs::Permissions::from_mode(0o777)).unwrap();
    guest.mkdir("of-a-user", 1234).unwrap();
    let owner = fs::metadata(served.share.path().join("of-a-user")).unwrap();
    assert_eq!((owner.uid(), owner.gid()), (1234, 1234));
}

#[test]
fn a_shifted_virtiofsd_is_a_stranger_on_the_host_and_dies_with_its_starter() {
    const BASE: u32 = 1_000_000_000;
    assert!(geteuid().is_root(), "this test needs root");
    let (send, receive) = mpsc::channel();
    let starter = thread::spawn(move || {
        let share = tempfile::tempdir().unwrap();
        chown(share.path(), Some(BASE), Some(BASE)).unwrap();
        let options = Options {
            ids: Some(Ids::Shifted { base: BASE }),
            ..Options::default()
        };
        let mut served = Served::serve(share, tempfile::tempdir().unwrap(), options);
        let device = connected(&mut served);
        let pid = served.virtiofsd.pid();
        let child = child_of(pid);
        for process in [pid, child] {
            let ids = [BASE; 4].map(|id| id.to_string()).join("\t");
            assert_eq!(status_field(process, "Uid"), ids);
            assert_eq!(status_field(process, "Gid"), ids);
            assert_eq!(status_field(process, "Groups"), "");
        }
        let mut guest = Guest::activate(device);
        guest.init();
        for (name, uid) in [("of-root", 0), ("of-a-user", 1234)] {
            fs::set_permissions(served.share.path(), fs::Permissions::from_mode(0o777)).unwrap();
            guest.mkdir(name, uid).unwrap();
            let owner = fs::metadata(served.share.path().join(name)).unwrap();
            assert_eq!(
                (owner.uid(), owner.gid()),
                (BASE + uid, BASE + uid),
                "{name}"
            );
        }
        assert!(guest.mkdir("beyond", 70_000).is_err());
        send.send([pidfd(pid), pidfd(child)]).unwrap();
        // As after kill -9, nothing of ours tidies up; the guest's end of the connection stays open.
        std::mem::forget((served.virtiofsd, guest));
    });
    let processes = receive.recv().unwrap();
    starter.join().unwrap();
    for process in &processes {
        assert!(readable(process, SOON));
    }
}

#[test]
fn a_users_virtiofsd_squashes_every_id_to_that_user() {
    const USER: u32 = 65534;
    assert!(geteuid().is_root(), "this test needs root to become a user");
    let directory = |mode| {
        let directory = tempfile::tempdir().unwrap();
        chown(directory.path(), Some(USER), Some(USER)).unwrap();
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(mode)).unwrap();
        directory
    };
    let (share, runtime) = (directory(0o700), directory(0o700));
    let as_user = thread::spawn(move || {
        // These calls change the calling thread alone.
        let (uid, gid) = (Uid::from_raw(USER), Gid::from_raw(USER));
        set_thread_groups(&[]).unwrap();
        set_thread_res_gid(gid, gid, gid).unwrap();
        set_thread_res_uid(uid, uid, uid).unwrap();
        let mut served = Served::with(share, runtime);
        let device = connected(&mut served);
        let child = child_of(served.virtiofsd.pid());
        assert_eq!(status_field(child, "CapEff"), "00000000880000db");
        let mut guest = Guest::activate(device);
        guest.init();
        for (name, uid) in [("of-root", 0), ("of-a-user", 1234)] {
            guest.mkdir(name, uid).unwrap();
            let owner = fs::metadata(served.share.path().join(name)).unwrap();
            assert_eq!((owner.uid(), owner.gid()), (USER, USER), "{name}");
        }
    });
    as_user.join().unwrap();
}

#[test]
fn a_bad_source_is_one_line_that_names_it() {
    let runtime = tempfile::tempdir().unwrap();
    let file = runtime.path().join("file");
    fs::write(&file, "").unwrap();
    for (source, words) in [
        (
            Path::new("/nonexistent"),
            "cannot read the source directory",
        ),
        (&file, "is not a directory"),
    ] {
        let error = Virtiofsd::spawn(&share_of(source), &program(), runtime.path()).unwrap_err();
        let text = error.to_string();
        assert!(
            text.contains("share `data`") && text.contains(words),
            "{text}"
        );
        assert!(text.contains(source.to_str().unwrap()) && !text.contains('\n'));
        assert!(!error.is_host_unable());
    }
}

#[test]
fn a_missing_runtime_directory_is_the_hosts_fault() {
    let share = tempfile::tempdir().unwrap();
    let error = Virtiofsd::spawn(
        &share_of(share.path()),
        &program(),
        Path::new("/nonexistent"),
    )
    .unwrap_err();
    assert!(matches!(error, Error::Socket { .. }) && error.is_host_unable());
}
