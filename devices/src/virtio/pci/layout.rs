//! The BAR of a virtio-pci function and the capabilities that describe it (virtio 1.3, 4.1.4).
//!
//! | offset | bytes  | what                                            |
//! |--------|--------|-------------------------------------------------|
//! | 0x0000 | 0x38   | common configuration                            |
//! | 0x1000 | 1      | ISR status                                      |
//! | 0x2000 | 0x1000 | device-specific configuration                   |
//! | 0x3000 | 4 each | notifications, by queue index                   |
//! | 0x4000 | 0x2000 | MSI-X table: configuration, then each queue     |
//! | 0x6000 | 0x1000 | MSI-X pending bits                              |

use crate::{
    pci::{ConfigSpace, Identity, config_space::Error, msix},
    virtio::DeviceType,
};

/// The one BAR, for which the capabilities have a byte.
pub(super) const BAR: usize = 0;
/// Bytes of the BAR.
pub(super) const BAR_SIZE: u32 = 0x8000;
/// Bytes between the notification addresses of two queues.
pub(super) const NOTIFY_OFF_MULTIPLIER: u32 = 4;
/// Where the notification addresses begin.
pub(super) const NOTIFY: u32 = 0x3000;
/// Most queues of a device: what its parts of the BAR have room for, rounded down.
pub const MAX_QUEUES: usize = 256;

const COMMON: u32 = 0x0000;
/// Bytes of the common configuration without the registers of features that are not offered.
pub(super) const COMMON_SIZE: u32 = 0x38;
const ISR: u32 = 0x1000;
const DEVICE: u32 = 0x2000;
const MSIX_TABLE: u32 = 0x4000;
const MSIX_PBA: u32 = 0x6000;
const END: u32 = 0x7000;

const VENDOR: u16 = 0x1af4;
/// PCI device ID of the virtio device type 0 (4.1.2).
const FIRST_DEVICE: u16 = 0x1040;
/// Capability ID: vendor-specific.
const CAP_VNDR: u8 = 0x09;

/// `cfg_type` of a virtio capability (4.1.4).
#[derive(Clone, Copy)]
enum CfgType {
    Common = 1,
    Notify = 2,
    Isr = 3,
    Device = 4,
    Pci = 5,
}

/// A part of the BAR.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Region {
    Common,
    Isr,
    Device,
    Notify,
    MsixTable,
    MsixPba,
}

/// The part that `offset` is in and the offset into that.
pub(super) fn region(offset: u32) -> Option<(Region, u32)> {
    let (region, start) = match offset {
        ..ISR => (Region::Common, COMMON),
        ISR..DEVICE => (Region::Isr, ISR),
        DEVICE..NOTIFY => (Region::Device, DEVICE),
        NOTIFY..MSIX_TABLE => (Region::Notify, NOTIFY),
        MSIX_TABLE..MSIX_PBA => (Region::MsixTable, MSIX_TABLE),
        MSIX_PBA..END => (Region::MsixPba, MSIX_PBA),
        END.. => return None,
    };
    Some((region, offset - start))
}

/// Where the capabilities that do something are in configuration space.
#[derive(Clone, Copy, Debug)]
pub(super) struct CapabilityOffsets {
    pci_cfg: usize,
    msix: usize,
}

/// Offsets into struct virtio_pci_cap and the structures that begin with it.
const CAP_BAR: usize = 4;
const CAP_OFFSET: usize = 8;
const CAP_LENGTH: usize = 12;
const CAP_DATA: usize = 16;

impl CapabilityOffsets {
    /// Offset of `pci_cfg_data` (4.1.4.9).
    pub(super) fn cfg_data(&self) -> usize {
        self.pci_cfg + CAP_DATA
    }

    pub(super) fn touches_cfg_data(&self, offset: u16, len: usize) -> bool {
        overlaps(offset, len, self.cfg_data(), 4)
    }

    pub(super) fn cfg_data_bytes(&self, config: &ConfigSpace) -> [u8; 4] {
        read(config, self.cfg_data())
    }

    /// The BAR access that a driver prepared in VIRTIO_PCI_CAP_PCI_CFG, offset and length, if it is one
    /// that may be made (4.1.4.9.1).
    pub(super) fn cfg_access(&self, config: &ConfigSpace) -> Option<(u32, usize)> {
        let [bar] = read(config, self.pci_cfg + CAP_BAR);
        let offset = u32::from_le_bytes(read(config, self.pci_cfg + CAP_OFFSET));
        let length = u32::from_le_bytes(read(config, self.pci_cfg + CAP_LENGTH));
        let valid = usize::from(bar) == BAR
            && matches!(length, 1 | 2 | 4)
            && offset.is_multiple_of(length)
            && offset < BAR_SIZE;
        valid.then_some((offset, length as usize))
    }

    pub(super) fn touches_msix_control(&self, offset: u16, len: usize) -> bool {
        overlaps(offset, len, self.msix + msix::MESSAGE_CONTROL, 2)
    }

    pub(super) fn msix_control(&self, config: &ConfigSpace) -> u16 {
        u16::from_le_bytes(read(config, self.msix + msix::MESSAGE_CONTROL))
    }
}

fn overlaps(offset: u16, len: usize, other: usize, other_len: usize) -> bool {
    let offset = usize::from(offset);
    offset < other + other_len && other < offset + len
}

fn read<const N: usize>(config: &ConfigSpace, offset: usize) -> [u8; N] {
    let mut bytes = [0; N];
    // Capabilities are within the 256 bytes.
    config.read(offset as u16, &mut bytes);
    bytes
}

/// The configuration space of a device with that many MSI-X vectors.
pub(super) fn config_space(
    device_type: DeviceType,
    vectors: u16,
) -> Result<(ConfigSpace, CapabilityOffsets), Error> {
    let device = FIRST_DEVICE + device_type as u16;
    let mut config = ConfigSpace::new(&Identity {
        vendor: VENDOR,
        device,
        // A non-transitional device (4.1.2.1).
        revision: 1,
        class: class(device_type),
        subsystem_vendor: VENDOR,
        subsystem: device,
    });
    config.add_bar(BAR, BAR_SIZE)?;
    let notify_len = u32::from(vectors - 1) * NOTIFY_OFF_MULTIPLIER;
    for (cfg_type, offset, length, extra) in [
        (CfgType::Common, COMMON, COMMON_SIZE, &[][..]),
        (
            CfgType::Notify,
            NOTIFY,
            notify_len,
            &NOTIFY_OFF_MULTIPLIER.to_le_bytes(),
        ),
        (CfgType::Isr, ISR, 1, &[]),
        (CfgType::Device, DEVICE, NOTIFY - DEVICE, &[]),
    ] {
        let body = capability(cfg_type, offset, length, extra);
        config.add_capability(CAP_VNDR, &body, &[])?;
    }
    let mut writable = [0; CAP_DATA + 4 - 2];
    for at in [CAP_BAR..CAP_BAR + 1, CAP_OFFSET..CAP_DATA + 4] {
        writable[at.start - 2..at.end - 2].fill(0xff);
    }
    let body = capability(CfgType::Pci, 0, 0, &[0; 4]);
    let pci_cfg = config.add_capability(CAP_VNDR, &body, &writable)?;
    let (body, writable) = msix::capability(vectors, BAR as u8, MSIX_TABLE, MSIX_PBA);
    let msix = config.add_capability(msix::CAPABILITY_ID, &body, &writable)?;
    Ok((config, CapabilityOffsets { pci_cfg, msix }))
}

/// struct virtio_pci_cap after its `cap_next` (4.1.4).
fn capability(cfg_type: CfgType, offset: u32, length: u32, extra: &[u8]) -> Vec<u8> {
    let cap_len = (CAP_DATA + extra.len()) as u8;
    let mut body = vec![cap_len, cfg_type as u8, BAR as u8, 0, 0, 0];
    body.extend(offset.to_le_bytes());
    body.extend(length.to_le_bytes());
    body.extend(extra);
    body
}

/// The class code by which people and tools recognise the device; drivers do not look at it.
fn class(device_type: DeviceType) -> u32 {
    match device_type {
        // Network controller, Ethernet.
        DeviceType::Net => 0x02_00_00,
        // Mass storage controller, other.
        DeviceType::Block | DeviceType::FileSystem => 0x01_80_00,
        // Does not fit any defined class.
        DeviceType::Console => 0x07_80_00,
        DeviceType::Balloon | DeviceType::Entropy => 0xff_00_00,
        // Other communication controller.
        DeviceType::Socket => 0x07_80_00,
    }
}
