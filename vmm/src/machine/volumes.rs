//! The disks of a machine.

use minivmm_block::{BlockDevice, BlockOptions, Image};

use super::{OnVolumeFull, VirtioDevices};
use crate::{config::VmConfig, error::Error, slots::Slots};

impl VirtioDevices<'_> {
    /// Puts a disk on the bus for each image.
    pub(super) fn add_volumes(
        &mut self,
        config: &VmConfig,
        slots: &Slots,
        images: Vec<Image>,
        on_full: &OnVolumeFull,
    ) -> Result<(), Error> {
        let volumes = config.volumes.iter().zip(images).zip(&slots.volumes);
        for (((volume, image), slot), disk) in volumes.zip(config.disks()) {
            let (name, told) = (disk.clone(), on_full.clone());
            let options = BlockOptions {
                name: disk.clone(),
                serial: volume.serial.clone().unwrap_or_default(),
                queues: volume.queues.into(),
                engine: volume.engine.into(),
                on_enospc: volume.on_enospc.into(),
                on_full: Some(Box::new(move |full| told(&name, full))),
            };
            let device = BlockDevice::new(image, options).map_err(|source| Error::Engine {
                image: volume.image.display().to_string(),
                source,
            })?;
            self.sources.disk(&disk, device.counters());
            self.add(&disk, *slot, Box::new(device))?;
        }
        Ok(())
    }
}
