//! Makes an image that is missing.

use std::{
    env,
    ffi::OsString,
    fs::{self, File},
    io,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use rustix::{
    fs::{
        CWD, FlockOperation, IFlags, RenameFlags, flock, ioctl_getflags, ioctl_setflags,
        renameat_with,
    },
    io::Errno,
};

use super::{ImageError, io_error};

/// Where programs that make file systems are, besides `PATH`: an ordinary user has only the others in it.
const SYSTEM: [&str; 3] = ["/usr/local/sbin", "/usr/sbin", "/sbin"];
/// Bytes of what such a program says that are said on.
const SAID: usize = 300;

/// An image that is to be made: sparse, with an empty file system.
#[derive(Clone, Debug)]
pub struct NewImage {
    /// Its bytes.
    pub size: u64,
    /// The file system, made by `mkfs.` with this; nothing is put into it without one.
    pub fs_type: Option<String>,
    /// The file system's label.
    pub label: Option<String>,
}

impl NewImage {
    /// Makes it at `path`, where nothing is yet, readable and writable for this user alone.
    ///
    /// It has another name (`.NAME.new`) until it is whole, so an image that is there has its file system, whatever
    /// happens meanwhile.
    pub fn create(&self, path: &Path) -> Result<(), ImageError> {
        let mkfs = self.mkfs(path)?;
        let unfinished = unfinished(path)?;
        let failed = |what| move |source| io_error(path, what, source);
        let file = begin(path, &unfinished)?;
        let made = (|| {
            let name = self.fs_type.as_deref().unwrap_or("no");
            tracing::info!(
                "{}: making it, {} MiB with {name} file system",
                path.display(),
                self.size >> 20
            );
            // On btrfs an image is best written in place; others know no such flag.
            if let Ok(flags) = ioctl_getflags(&file) {
                let _ = ioctl_setflags(&file, flags | IFlags::NOCOW);
            }
            file.set_len(self.size).map_err(failed("made"))?;
            if let Some(mkfs) = &mkfs {
                self.run(mkfs, path, &unfinished)?;
            }
            file.sync_all().map_err(failed("made"))?;
            rename(&unfinished, path).map_err(failed("made"))?;
            // Or a power cut could take the name away, and the next start what the guest has synced since.
            let directory = File::open(directory(path));
            let synced = directory.and_then(|directory| directory.sync_all());
            synced.map_err(failed("made"))
        })();
        if made.is_err() {
            // What is left of it is in nobody's way.
            let _ = fs::remove_file(&unfinished);
        }
        made
    }

    /// Makes sure that [`create`](Self::create) would find what it needs.
    pub fn check(&self, path: &Path) -> Result<(), ImageError> {
        let directory = directory(path);
        let metadata = fs::metadata(directory);
        let metadata = metadata.map_err(|source| io_error(path, "made", source))?;
        if !metadata.is_dir() {
            let source = io::ErrorKind::NotADirectory.into();
            return Err(io_error(path, "made", source));
        }
        self.mkfs(path).map(drop)
    }

    /// The program that makes its file system.
    fn mkfs(&self, path: &Path) -> Result<Option<PathBuf>, ImageError> {
        let Some(fs_type) = &self.fs_type else {
            return Ok(None);
        };
        let program = format!("mkfs.{fs_type}");
        let search = env::var_os("PATH").unwrap_or_default();
        let directories = env::split_paths(&search).chain(SYSTEM.map(PathBuf::from));
        // An empty entry would be the working directory.
        let mut places = directories
            .filter(|d| d.is_absolute())
            .map(|d| d.join(&program));
        let found = places.find(|place| place.is_file());
        found.map(Some).ok_or_else(|| ImageError::NoMkfs {
            program,
            path: path.to_owned(),
        })
    }

    fn run(&self, mkfs: &Path, path: &Path, image: &Path) -> Result<(), ImageError> {
        let wrong = |said: String| ImageError::Mkfs {
            program: mkfs.display().to_string(),
            path: path.to_owned(),
            said,
        };
        let mut command = Command::new(mkfs);
        if let Some(label) = &self.label {
            command.arg(self.label_option()).arg(label);
        }
        let output = command
            .arg(image)
            .stdin(Stdio::null())
            .output()
            .map_err(|error| wrong(error.to_string()))?;
        if output.status.success() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&output.stderr);
        let said = said.lines().rfind(|line| !line.trim().is_empty());
        Err(wrong(match said {
            Some(line) => line.trim().chars().take(SAID).collect(),
            None => output.status.to_string(),
        }))
    }

    /// How the program is told the label: most take the same letter.
    fn label_option(&self) -> &'static str {
        match self.fs_type.as_deref() {
            Some("vfat" | "fat" | "msdos") => "-n",
            Some("f2fs") => "-l",
            _ => "-L",
        }
    }
}

fn directory(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// Gives the file its name, which no file may have.
fn rename(unfinished: &Path, path: &Path) -> io::Result<()> {
    match renameat_with(CWD, unfinished, CWD, path, RenameFlags::NOREPLACE) {
        // NFS and others know no such flag. A link is refused where something is as well.
        Err(Errno::INVAL | Errno::NOSYS) => {
            fs::hard_link(unfinished, path).and_then(|()| fs::remove_file(unfinished))
        }
        renamed => renamed.map_err(io::Error::from),
    }
}

/// Where the image is while it is made: beside its place, so that it can be moved there at once.
fn unfinished(path: &Path) -> Result<PathBuf, ImageError> {
    let name = path.file_name();
    let name = name.ok_or_else(|| io_error(path, "made", io::ErrorKind::IsADirectory.into()))?;
    let mut hidden = OsString::from(".");
    hidden.push(name);
    hidden.push(".new");
    Ok(directory(path).join(hidden))
}

/// A new file at `unfinished`, locked as long as it is open, in place of one that somebody has left.
fn begin(path: &Path, unfinished: &Path) -> Result<File, ImageError> {
    let failed = |source| io_error(path, "made", source);
    if let Ok(left) = File::open(unfinished) {
        if flock(&left, FlockOperation::NonBlockingLockExclusive).is_err() {
            let path = path.to_owned();
            return Err(ImageError::BeingMade { path });
        }
        fs::remove_file(unfinished).map_err(failed)?;
    }
    let file = File::options()
        .read(true)
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(unfinished)
        .map_err(failed)?;
    flock(&file, FlockOperation::NonBlockingLockExclusive).map_err(|error| failed(error.into()))?;
    Ok(file)
}
