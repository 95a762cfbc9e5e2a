//! The images of a configuration's volumes: opened and locked, or made.

use std::{
    fs::Metadata,
    path::{Path, absolute},
};

use minivmm_block::{Image, ImageError, image::is_same};
use minivmm_vmm::{VmConfig, config::Volume};

use crate::{board, failure::Failure, runtime_dir};

/// Looks at the images, and at what those need that would be made.
pub fn check(config: &VmConfig) -> Result<(), Failure> {
    let mut found: Vec<(&Path, Metadata)> = Vec::new();
    for volume in &config.volumes {
        let path = &*volume.image;
        let new = volume.new_image().filter(|_| is_missing(path));
        match new {
            Some(new) => new.check(path).map_err(failure)?,
            None => {
                let image = Image::check(path, volume.options()).map_err(failure)?;
                differs(path, &image, &found)?;
                found.push((path, image));
            }
        }
    }
    Ok(())
}

/// Opens the image of each volume; makes those that are missing and are to be made. They were [checked](check) before: a
/// file that stands there twice would be in its own way.
pub fn open(config: &VmConfig) -> Result<Vec<Image>, Failure> {
    let images = config.volumes.iter().map(|volume| {
        let path = &*volume.image;
        if let Some(new) = volume.new_image()
            && is_missing(path)
        {
            new.create(path).map_err(failure)?;
        }
        Image::open(path, volume.options()).map_err(failure)
    });
    images.collect()
}

/// What is to be seen of the volumes of a VM.
pub fn status(config: &VmConfig, images: &[Image]) -> Vec<board::Volume> {
    let volumes = config.volumes.iter().zip(images).zip(config.disks());
    let status = volumes.map(|((volume, image), disk): ((&Volume, &Image), String)| {
        let path = absolute(&volume.image).unwrap_or_else(|_| volume.image.clone());
        board::Volume {
            disk,
            image: path.to_string_lossy().into_owned(),
            size: image.size(),
            read_only: volume.read_only,
            full: false,
        }
    });
    status.collect()
}

fn is_missing(path: &Path) -> bool {
    // A link to nothing is no place for an image, and is said to be missing when it is opened.
    std::fs::symlink_metadata(path).is_err_and(|e| e.kind() == std::io::ErrorKind::NotFound)
}

fn differs(path: &Path, image: &Metadata, others: &[(&Path, Metadata)]) -> Result<(), Failure> {
    match others.iter().find(|(_, other)| is_same(other, image)) {
        Some((other, _)) => Err(Failure::config(format!(
            "volumes.image: `{}` is the same file as {}, which is a volume already",
            path.display(),
            other.display()
        ))),
        None => Ok(()),
    }
}

fn failure(error: ImageError) -> Failure {
    let key = error.key();
    let vm = match &error {
        ImageError::InUse {
            holder: Some(holder),
            ..
        } => runtime_dir::vm_of(holder.pid),
        _ => None,
    };
    match vm {
        Some(name) => Failure::config(format!("volumes.{key}: VM `{name}` has it: {error}")),
        None => Failure::config(format!("volumes.{key}: {error}")),
    }
}
