//! Features and the configuration space (virtio 1.3, 5.2.3 and 5.2.4).

use virtio_bindings::{
    virtio_blk::{
        VIRTIO_BLK_F_BLK_SIZE, VIRTIO_BLK_F_DISCARD, VIRTIO_BLK_F_FLUSH, VIRTIO_BLK_F_MQ,
        VIRTIO_BLK_F_RO, VIRTIO_BLK_F_SEG_MAX, VIRTIO_BLK_F_TOPOLOGY, VIRTIO_BLK_F_WRITE_ZEROES,
    },
    virtio_ring::{VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC},
};

use crate::{
    SECTOR, SEG_MAX,
    image::Image,
    request::{DISCARD_SECTORS, DISCARD_SEGMENTS, ZEROES_SECTORS, ZEROES_SEGMENTS},
};

/// The features that a disk on `image` offers with so many queues.
pub(crate) fn features(image: &Image, queues: u16) -> u64 {
    let mut bits = vec![
        VIRTIO_RING_F_INDIRECT_DESC,
        VIRTIO_RING_F_EVENT_IDX,
        VIRTIO_BLK_F_SEG_MAX,
        VIRTIO_BLK_F_BLK_SIZE,
        VIRTIO_BLK_F_TOPOLOGY,
        VIRTIO_BLK_F_FLUSH,
    ];
    match image.options.read_only {
        true => bits.push(VIRTIO_BLK_F_RO),
        false => bits.extend([VIRTIO_BLK_F_DISCARD, VIRTIO_BLK_F_WRITE_ZEROES]),
    }
    if queues > 1 {
        bits.push(VIRTIO_BLK_F_MQ);
    }
    bits.into_iter().fold(0, |all, bit| all | 1 << bit)
}

/// `struct virtio_blk_config` up to `write_zeroes_may_unmap`.
pub(crate) fn space(image: &Image, queues: u16) -> Vec<u8> {
    let (logical, physical) = (image.sectors.logical, image.sectors.physical);
    // All are powers of two, from 512 to 4096.
    let exponent = (physical / logical).trailing_zeros() as u8;
    let (seg_max, granule) = (SEG_MAX as u32, physical / SECTOR as u32);
    let mut bytes = Vec::new();
    bytes.extend((image.size / SECTOR).to_le_bytes()); // capacity
    bytes.extend(0_u32.to_le_bytes()); // size_max: a piece has no limit
    bytes.extend(seg_max.to_le_bytes());
    bytes.extend([0; 4]); // geometry
    bytes.extend(logical.to_le_bytes()); // blk_size
    bytes.extend([exponent, 0]); // physical_block_exp, alignment_offset
    bytes.extend(((physical / logical) as u16).to_le_bytes()); // min_io_size
    bytes.extend(0_u32.to_le_bytes()); // opt_io_size
    bytes.extend([0, 0]); // writeback, unused
    bytes.extend(queues.to_le_bytes());
    for number in [
        DISCARD_SECTORS,
        DISCARD_SEGMENTS,
        granule, // discard_sector_alignment
        ZEROES_SECTORS,
        ZEROES_SEGMENTS,
    ] {
        bytes.extend(number.to_le_bytes());
    }
    bytes.extend([1, 0, 0, 0]); // write_zeroes_may_unmap
    bytes
}
