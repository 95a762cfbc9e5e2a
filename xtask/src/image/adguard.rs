//! AdGuard Home: built from its module as the Go proxy has it, with its web front end, whose parts are npm's.

mod front_end;
mod go;
mod source;
mod toolchain;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::{Parts, Recipe, Tree, files_of};
use crate::cache::{self, Key};
use crate::workspace;

pub const RECIPE: Recipe = Recipe {
    name: "adguard",
    key,
    fill,
};

/// What is built, by the names that it has in the image as well.
const PROGRAMS: [&str; 2] = ["AdGuardHome", "setup"];

/// Where the image has what is its own.
const LIBRARY: &str = "usr/lib/adguard";

/// The programs are ingredients: with a front end they are others than without one.
fn key() -> Result<Key> {
    let programs = kept()?;
    let name = programs.file_name().unwrap_or_default();
    Ok(files_of(RECIPE.name)?
        .with(include_str!("adguard.rs"))
        .with(name.as_encoded_bytes()))
}

fn fill(tree: &mut Tree, parts: Parts) -> Result<()> {
    tree.copy(&directory().join("files"), "")?;
    let work = tempfile::tempdir_in(workspace::cache())?;
    let programs = match parts {
        Parts::Kept => kept()?,
        Parts::New => {
            let source = source::read(&directory())?;
            let front_end = made(work.path(), "front-end", |directory| {
                front_end::build(&source, directory)
            });
            let front_end = without(front_end);
            made(work.path(), "programs", |directory| {
                go::build(&source, front_end.as_deref(), directory)
            })?
        }
    };
    for name in PROGRAMS {
        let in_image = format!("{LIBRARY}/{name}");
        tree.file(&in_image, fs::read(programs.join(name))?)?;
        tree.mode(&in_image, 0o755);
    }
    Ok(())
}

/// The directory with the programs, built if anything that goes into them is another than before. A front end that could not
/// be built is tried again the next time.
fn kept() -> Result<PathBuf> {
    let source = source::read(&directory())?;
    let key = Key::default().with(source.text());
    let of_front_end = key.clone().with(include_str!("adguard/front_end.rs"));
    let front_end = cache::directory("guest", "adguard-front-end", &of_front_end, |directory| {
        front_end::build(&source, directory)
    });
    let front_end = without(front_end);
    let mut key = key
        .with(include_str!("adguard/go.rs"))
        .with(include_str!("adguard/source.rs"));
    for name in go::setup_files()? {
        key = key.with(fs::read(name)?);
    }
    let name = front_end.as_deref().and_then(Path::file_name);
    let key = key.with(name.unwrap_or_default().as_encoded_bytes());
    cache::directory("guest", "adguard-programs", &key, |directory| {
        go::build(&source, front_end.as_deref(), directory)
    })
}

/// AdGuard Home serves DNS and its HTTP API also without a front end. Why there is none is said.
fn without(front_end: Result<PathBuf>) -> Option<PathBuf> {
    front_end
        .inspect_err(|error| {
            eprintln!("AdGuard Home is built without its web front end: {error:#}")
        })
        .ok()
}

/// The directory `name` in `work`, filled by `make`.
fn made(work: &Path, name: &str, make: impl FnOnce(&Path) -> Result<()>) -> Result<PathBuf> {
    let directory = work.join(name);
    fs::create_dir(&directory).with_context(|| format!("cannot make {}", directory.display()))?;
    make(&directory)?;
    Ok(directory)
}

/// The recipe.
fn directory() -> PathBuf {
    workspace::root().join("guest").join(RECIPE.name)
}
