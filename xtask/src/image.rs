//! Images of service VMs: the root that all of them share, and what each service lays over it. They are read-only, and
//! the same inputs give the same bytes.

mod actual;
mod adguard;
mod base;
mod compare;
mod tree;

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha256};

use crate::cache::{self, Key};
use crate::command::{capture, program};
use crate::progress::Steps;
use crate::{guest, tools, workspace};

pub use tree::Tree;

/// An image's name in its directory.
const IMAGE: &str = "root.erofs";

/// The same files, unpacked, for those who share them instead.
const FILES: &str = "files";

/// Every file's time, 2025-01-01: nothing of it is to tell when an image was made.
pub const EPOCH: u64 = 1_735_689_600;

/// The images that there are, each after those that it is laid over.
const RECIPES: &[Recipe] = &[base::RECIPE, adguard::RECIPE, actual::RECIPE];

/// How an image is made.
#[derive(Debug)]
pub struct Recipe {
    /// Its name: the link `target/lab/guest/image-NAME` leads to its directory.
    pub name: &'static str,
    /// All that goes into it. An error is no reason to stop where the image has been made already: it may be that nothing
    /// can be fetched.
    pub key: fn() -> Result<Key>,
    /// Fills the tree of its files, which is empty.
    pub fill: fn(&mut Tree, Parts) -> Result<()>,
}

/// What an image is made of that takes long to make.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parts {
    /// As it is kept, if it is.
    Kept,
    /// Made anew: what is kept must not decide what comes of it.
    New,
}

/// What the verb does with each image.
#[derive(Clone, Copy, Debug)]
pub struct Wanted {
    /// Whether it is made once more and compared.
    pub check: bool,
    /// Whether it is unpacked as well.
    pub files: bool,
}

/// The names of all images.
pub fn names() -> Vec<&'static str> {
    RECIPES.iter().map(|recipe| recipe.name).collect()
}

/// Makes those that are named, or all, and prints where they are.
pub fn run(names: &[String], wanted: Wanted) -> Result<()> {
    let is_wanted =
        |recipe: &&Recipe| names.is_empty() || names.iter().any(|name| name == recipe.name);
    let recipes: Vec<_> = RECIPES.iter().filter(is_wanted).collect();
    let each = 1 + u64::from(wanted.check) + u64::from(wanted.files);
    let steps = Steps::new(1 + each * recipes.len() as u64);
    steps.step("Debian packages", tools::for_images)?;
    let mut lines = Vec::new();
    for recipe in recipes {
        let name = recipe.name;
        let image = steps.step(&format!("the image {name}"), || recipe.image())?;
        if wanted.check {
            steps.step("the same once more, from nothing", || recipe.check(&image))?;
        }
        lines.push(line(&image)?);
        if wanted.files {
            let files = steps.step("its files", || unpacked(&image))?;
            lines.push(files.display().to_string());
        }
    }
    steps.finish("images");
    for line in lines {
        println!("{line}");
    }
    Ok(())
}

/// All files of the directory `guest/NAME`, with their names and whether they may be executed.
pub fn files_of(name: &str) -> Result<Key> {
    let root = workspace::root().join("guest").join(name);
    let mut key = Key::default();
    for path in files_below(&root)? {
        let data = fs::symlink_metadata(&path)?;
        let content = match data.is_symlink() {
            true => fs::read_link(&path)?.into_os_string().into_encoded_bytes(),
            false => fs::read(&path)?,
        };
        let kind = format!("{} {}", data.is_symlink(), data.mode() & 0o100);
        let name = path.strip_prefix(&root)?.as_os_str().as_encoded_bytes();
        key = key.with(name).with(kind).with(content);
    }
    Ok(key)
}

/// Everything in a directory and those in it, but directories, in the order of names.
fn files_below(directory: &Path) -> Result<Vec<PathBuf>> {
    let entries =
        fs::read_dir(directory).with_context(|| format!("cannot read {}", directory.display()))?;
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry?;
        match entry.file_type()?.is_dir() {
            true => found.extend(files_below(&entry.path())?),
            false => found.push(entry.path()),
        }
    }
    found.sort_unstable();
    Ok(found)
}

impl Recipe {
    /// The image, made if anything that goes into it is another than before.
    fn image(&self) -> Result<PathBuf> {
        let name = format!("image-{}", self.name);
        let link = workspace::cache().join("guest").join(&name);
        let key = match (self.key)() {
            Ok(key) => key,
            Err(_) if link.join(IMAGE).exists() => return Ok(link.join(IMAGE)),
            Err(error) => return Err(error),
        };
        let key = key
            .with(capture(program("fsck.erofs").arg("-V"))?)
            .with(include_str!("image.rs"))
            .with(include_str!("image/tree.rs"));
        let directory = cache::directory("guest", &name, &key, |directory| {
            self.make(&directory.join(IMAGE), Parts::Kept)
        })?;
        guest::link(&directory, &link)?;
        Ok(link.join(IMAGE))
    }

    fn make(&self, image: &Path, parts: Parts) -> Result<()> {
        let work = tempfile::tempdir_in(workspace::cache())?;
        let mut tree = Tree::new(work.path().join("root"))?;
        (self.fill)(&mut tree, parts)
            .with_context(|| format!("cannot make the image {}", self.name))?;
        erofs(&tree, self.name, image)
    }

    /// Makes it once more and fails, with the names of files that differ, if it is another.
    fn check(&self, image: &Path) -> Result<()> {
        let work = tempfile::tempdir_in(workspace::cache())?;
        let again = work.path().join(IMAGE);
        self.make(&again, Parts::New)?;
        if checksum(image)? == checksum(&again)? {
            return Ok(());
        }
        let differences = compare::differences(image, &again)?;
        bail!(
            "the image {} made twice is not the same; what differs: {}",
            self.name,
            match differences.is_empty() {
                true => "no file, but their order or how they are packed".to_owned(),
                false => differences.join(", "),
            }
        )
    }
}

/// Packs a tree: all files root's, all times [`EPOCH`], and the file system's UUID made of `label`.
pub fn erofs(tree: &Tree, label: &str, image: &Path) -> Result<()> {
    tree.settle()?;
    let mut pack = program("mkfs.erofs");
    pack.args(["--quiet", "--all-root", "-x-1", "-zlz4hc,12", "-C16384"])
        .arg(format!("-T{EPOCH}"))
        .arg(format!("-U{}", uuid(label)))
        .args([image, tree.root()]);
    capture(&mut pack).map(drop)
}

/// The directory with the image's files, beside it.
fn unpacked(image: &Path) -> Result<PathBuf> {
    let files = image.with_file_name(FILES);
    if files.is_dir() {
        return Ok(files);
    }
    let unfinished = tempfile::tempdir_in(workspace::cache())?;
    let result = unfinished.path().join(FILES);
    unpack(image, &result)?;
    fs::rename(&result, &files).with_context(|| format!("cannot name {}", files.display()))?;
    Ok(files)
}

fn unpack(image: &Path, directory: &Path) -> Result<()> {
    let mut extract = std::ffi::OsString::from("--extract=");
    extract.push(directory);
    capture(
        program("fsck.erofs")
            .args(["--preserve-perms", "--no-preserve-owner"])
            .arg(extract)
            .arg(image),
    )
    .map(drop)
}

/// What the verb prints of an image.
fn line(image: &Path) -> Result<String> {
    let size = fs::metadata(image)?.len();
    Ok(format!(
        "{}  {:.1} MiB  sha256 {}",
        image.display(),
        size as f64 / f64::from(1 << 20),
        checksum(image)?
    ))
}

/// The SHA-256 of a file, as hexadecimal digits.
fn checksum(path: &Path) -> Result<String> {
    let mut file =
        fs::File::open(path).with_context(|| format!("cannot read {}", path.display()))?;
    let mut hash = Sha256::new();
    std::io::copy(&mut file, &mut hash)?;
    Ok(hex(&hash.finalize()))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A UUID of version 8 (RFC 9562): of a maker's own making.
fn uuid(label: &str) -> String {
    let mut bytes: [u8; 16] = Sha256::digest(label)[..16]
        .try_into()
        .expect("a slice of 16 bytes");
    bytes[6] = bytes[6] & 0x0F | 0x80;
    bytes[8] = bytes[8] & 0x3F | 0x80;
    let digits = hex(&bytes);
    [(0, 8), (8, 12), (12, 16), (16, 20), (20, 32)]
        .map(|(from, to)| &digits[from..to])
        .join("-")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn a_label_has_its_uuid_and_another_label_another() {
        let one = uuid("base");
        assert_eq!(one, uuid("base"));
        assert_ne!(one, uuid("adguard"));
        assert_eq!((one.len(), &one[14..15]), (36, "8"));
    }

    #[test]
    fn a_file_that_differs_is_named() {
        if capture(program("mkfs.erofs").arg("--help")).is_err() {
            eprintln!("there is no mkfs.erofs");
            return;
        }
        let work = tempfile::tempdir().unwrap();
        let [one, same, other] = ["one", "same", "other"].map(|name| {
            let mut tree = Tree::new(work.path().join(name)).unwrap();
            tree.file("etc/a", "a").unwrap();
            tree.file("etc/b", if name == "other" { "c" } else { "b" })
                .unwrap();
            tree.mode("etc/b", 0o600);
            let image = work.path().join(name.to_owned() + ".erofs");
            erofs(&tree, "test", &image).unwrap();
            image
        });
        assert_eq!(checksum(&one).unwrap(), checksum(&same).unwrap());
        assert_ne!(checksum(&one).unwrap(), checksum(&other).unwrap());
        assert_eq!(compare::differences(&one, &same).unwrap(), [""; 0]);
        assert_eq!(compare::differences(&one, &other).unwrap(), ["etc/b"]);
    }
}
