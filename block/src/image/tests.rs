#![allow(clippy::unwrap_used, clippy::panic)]

use std::{
    fs,
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::{Mutex, MutexGuard, PoisonError},
};

use rustix::fs::CWD;
use tempfile::TempDir;

use super::*;

/// One test at a time: a child that another one forks has a copy of every descriptor, and of the locks, until it runs its
/// program.
pub(super) fn alone() -> MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::new(());
    ONE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn image(size: u64) -> (TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a.img");
    File::create(&path).unwrap().set_len(size).unwrap();
    (directory, path)
}

fn options(read_only: bool) -> ImageOptions {
    ImageOptions {
        read_only,
        ..Default::default()
    }
}

fn said(path: &Path, options: ImageOptions) -> String {
    let error = Image::open(path, options).unwrap_err();
    error.to_string().replace(&*path.to_string_lossy(), "IMAGE")
}

#[test]
fn what_is_no_disk_is_said_with_what_to_do() {
    let _alone = alone();
    let (directory, path) = image(0);
    let rw = options(false);
    assert_eq!(
        said(&path, rw),
        "`IMAGE` is empty: a disk has at least 512 bytes"
    );
    fs::write(&path, [0; 700]).unwrap();
    let text = said(&path, rw);
    assert!(
        text.starts_with("`IMAGE` has 700 bytes, which is no multiple of 512"),
        "{text}"
    );
    fs::write(&path, [0; 1024]).unwrap();
    let text = said(
        &path,
        ImageOptions {
            size: Some(1 << 20),
            ..rw
        },
    );
    assert!(
        text.starts_with("`IMAGE` has 1024 bytes, and size says 1048576: make it larger"),
        "{text}"
    );
    let pipe = directory.path().join("pipe");
    rustix::fs::mkfifoat(CWD, &pipe, 0o600.into()).unwrap();
    for (path, what) in [
        (directory.path(), "a directory"),
        (&pipe, "a pipe"),
        (Path::new("/dev/null"), "a character device"),
    ] {
        let text = said(path, rw);
        assert!(
            text.starts_with(&format!("`IMAGE` is {what} and no disk")),
            "{text}"
        );
    }
    let missing = directory.path().join("none");
    let text = said(&missing, rw);
    assert!(
        text.contains("does not exist") && text.contains("auto_create"),
        "{text}"
    );
}

#[test]
fn an_image_that_is_written_to_has_one_user_who_is_named() {
    let _alone = alone();
    let (_directory, path) = image(1 << 20);
    let first = Image::open(&path, options(false)).unwrap();
    assert_eq!(first.size(), 1 << 20);
    for read_only in [false, true] {
        let text = said(&path, options(read_only));
        let us = format!("`IMAGE` is in use by process {} (`", std::process::id());
        assert!(text.starts_with(&us), "{text}");
        assert!(text.contains("read_only = true"), "{text}");
    }
    // The check takes nothing, and asks for nothing.
    Image::check(&path, options(false)).unwrap();
    drop(first);
    Image::open(&path, options(false)).unwrap();
}

#[test]
fn an_image_that_is_only_read_has_any_number_of_users_but_no_writer() {
    let _alone = alone();
    let (_directory, path) = image(1 << 20);
    let readers = [(); 3].map(|()| Image::open(&path, options(true)).unwrap());
    assert!(said(&path, options(false)).contains("is in use by"));
    drop(readers);
    Image::open(&path, options(false)).unwrap();
}

#[test]
fn a_descriptor_that_was_handed_on_keeps_the_lock() {
    let _alone = alone();
    let (_directory, path) = image(1 << 20);
    let first = Image::open(&path, options(false)).unwrap();
    let handed = File::from(first.as_fd().try_clone_to_owned().unwrap());
    drop(first);
    assert!(said(&path, options(false)).contains("is in use by"));
    let image = Image::from_file(handed, &path, options(false)).unwrap();
    assert_eq!(image.size(), 1 << 20);
}

#[test]
fn a_lock_of_bytes_that_another_program_has_is_seen() {
    let _alone = alone();
    // As QEMU does it: single bytes, only ever shared, for the open file description. By 100 it says that it reads, by 101
    // that it writes.
    for (byte, refused) in [("100", &[false][..]), ("101", &[false, true])] {
        let (_directory, path) = image(1 << 20);
        let mut other = locked(&path, byte);
        for read_only in [false, true] {
            match refused.contains(&read_only) {
                true => {
                    let text = said(&path, options(read_only));
                    let named = format!("`IMAGE` is in use by process {}", other.id());
                    assert!(text.starts_with(&named), "{byte}: {text}");
                }
                false => drop(Image::open(&path, options(read_only)).unwrap()),
            }
        }
        drop(other.stdin.take());
        other.wait().unwrap();
        Image::open(&path, options(false)).unwrap();
    }
}

/// A program that has locked the byte, until its input ends.
fn locked(path: &Path, byte: &str) -> Child {
    let script = "import fcntl, struct, sys\n\
                  f = open(sys.argv[1], 'r+b')\n\
                  fcntl.fcntl(f, 37, struct.pack('hhqqi', fcntl.F_RDLCK, 0, int(sys.argv[2]), 1, 0))\n\
                  print('locked', flush=True)\n\
                  sys.stdin.read()\n";
    let mut other = Command::new("python3")
        .args(["-c", script])
        .arg(path)
        .arg(byte)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    let mut out = std::io::BufReader::new(other.stdout.take().unwrap());
    std::io::BufRead::read_line(&mut out, &mut line).unwrap();
    assert_eq!(line, "locked\n");
    other
}

#[test]
fn o_direct_finds_its_unit() {
    let _alone = alone();
    let (_directory, path) = image(1 << 20);
    let direct = ImageOptions {
        direct: true,
        ..options(false)
    };
    let image = Image::open(&path, direct).unwrap();
    let logical = image.sectors.logical;
    assert!((512..=4096).contains(&logical) && logical.is_power_of_two());
    let memfd = rustix::fs::memfd_create("a", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
    let file = File::from(memfd);
    file.set_len(1 << 20).unwrap();
    // Without the flag any unit is right.
    let image = Image::from_file(file, &path, options(false)).unwrap();
    assert_eq!(image.sectors.logical, 512);
}

#[test]
fn two_names_of_one_file_are_known_as_one() {
    let _alone = alone();
    let (directory, path) = image(512);
    let other = directory.path().join("b.img");
    fs::hard_link(&path, &other).unwrap();
    let one = Image::check(&path, options(true)).unwrap();
    assert!(is_same(&one, &Image::check(&other, options(true)).unwrap()));
    let third = directory.path().join("c.img");
    fs::copy(&path, &third).unwrap();
    assert!(!is_same(
        &one,
        &Image::check(&third, options(true)).unwrap()
    ));
}

#[test]
fn an_image_that_is_made_has_its_file_system_or_is_not_there() {
    let _alone = alone();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("new.img");
    let new = NewImage {
        size: 8 << 20,
        fs_type: Some("ext4".to_owned()),
        label: Some("state".to_owned()),
    };
    new.check(&path).unwrap();
    new.create(&path).unwrap();
    let image = Image::open(&path, options(false)).unwrap();
    assert_eq!(image.size(), 8 << 20);
    let bytes = fs::read(&path).unwrap();
    // ext4's magic number and label, 1024 bytes into it.
    assert_eq!(bytes[1080..1082], [0x53, 0xef]);
    assert_eq!(&bytes[1144..1149], b"state");
    let names: Vec<_> = fs::read_dir(directory.path()).unwrap().collect();
    assert_eq!(names.len(), 1, "{names:?}");
    // Nothing is written over.
    let error = new.create(&path).unwrap_err().to_string();
    assert!(error.contains("cannot be made"), "{error}");
    assert_eq!(fs::read(&path).unwrap(), bytes);

    let other = directory.path().join("other.img");
    let failing = NewImage {
        size: 4096,
        ..new.clone()
    };
    let error = failing.create(&other).unwrap_err();
    assert!(matches!(error, ImageError::Mkfs { .. }), "{error}");
    assert!(!other.exists());
    let unknown = NewImage {
        fs_type: Some("nofs".to_owned()),
        ..new.clone()
    };
    for error in [unknown.check(&other), unknown.create(&other)] {
        let error = error.unwrap_err().to_string();
        assert!(error.starts_with("mkfs.nofs is not installed"), "{error}");
    }
    let empty = NewImage {
        fs_type: None,
        ..new
    };
    empty.create(&other).unwrap();
    assert_eq!(fs::read(&other).unwrap(), vec![0; 8 << 20]);
    let names: Vec<_> = fs::read_dir(directory.path()).unwrap().collect();
    assert_eq!(names.len(), 2, "{names:?}");
}

#[test]
fn an_image_that_is_being_made_is_not_made_twice() {
    let _alone = alone();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("new.img");
    let left = directory.path().join(".new.img.new");
    let new = NewImage {
        size: 4096,
        fs_type: None,
        label: None,
    };
    let other = File::create(&left).unwrap();
    rustix::fs::flock(&other, rustix::fs::FlockOperation::LockExclusive).unwrap();
    let error = new.create(&path).unwrap_err();
    assert!(matches!(error, ImageError::BeingMade { .. }), "{error}");
    // What one has left who was killed is no hindrance.
    drop(other);
    new.create(&path).unwrap();
    assert!(!left.exists() && path.exists());
}
