//! Walking a virtqueue whose every byte is the fuzzer's.
#![no_main]

use std::sync::LazyLock;

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use minivmm_devices::{
    GuestMemory,
    virtio::queue::{BrokenRing, Chain, Layout, MAX_CHAIN, Queue},
};
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend};

/// Two ranges with a hole between them, so that a buffer can begin inside and end outside.
const RANGES: [(GuestAddress, usize); 2] =
    [(GuestAddress(0), 0x8000), (GuestAddress(0x9000), 0x1000)];

#[derive(Arbitrary, Debug)]
struct Input<'a> {
    size: u8,
    desc: u16,
    avail: u16,
    used: u16,
    next: u16,
    event_idx: bool,
    offset: u16,
    memory: &'a [u8],
}

static MEMORY: LazyLock<GuestMemory> =
    LazyLock::new(|| GuestMemory::from_ranges(&RANGES).expect("64 KiB are free"));

fuzz_target!(|input: Input<'_>| {
    for (base, size) in RANGES {
        MEMORY
            .write_slice(&vec![0; size], base)
            .expect("it is memory");
    }
    let len = input.memory.len().min(RANGES[0].1);
    MEMORY
        .write_slice(&input.memory[..len], RANGES[0].0)
        .expect("it is memory");

    let size = 1 << (input.size % 11);
    let layout = Layout {
        size,
        desc_table: input.desc.into(),
        avail_ring: input.avail.into(),
        used_ring: input.used.into(),
    };
    let Ok(mut ring) = Queue::new(layout, input.event_idx, &MEMORY) else {
        return;
    };
    ring.set_next(input.next);
    let _ = serve(&mut ring, usize::from(size), usize::from(input.offset));
});

/// What every device does with a queue, a bounded number of times.
fn serve(ring: &mut Queue, size: usize, offset: usize) -> Result<bool, BrokenRing> {
    let memory = &*MEMORY;
    let mut chain = Chain::new();
    ring.disable_notification(memory)?;
    for _ in 0..64 {
        if !ring.pop(memory, &mut chain)? {
            if !ring.enable_notification(memory)? {
                break;
            }
            continue;
        }
        check(&chain, size);
        let mut data = [0; 256];
        let read = chain.read_at(memory, offset, &mut data);
        assert!(read <= chain.readable_len().saturating_sub(offset));
        let written = chain.write_at(memory, offset, &data);
        assert!(written <= chain.writable_len().saturating_sub(offset));
        ring.push_used(memory, chain.head(), written as u32)?;
    }
    ring.needs_interrupt(memory)
}

fn check(chain: &Chain, size: usize) {
    let buffers = [chain.readable(), chain.writable()].concat();
    assert!(buffers.len() <= size.max(MAX_CHAIN));
    for buffer in &buffers {
        assert!(buffer.len > 0);
        assert!(MEMORY.check_range(buffer.address, buffer.len as usize));
    }
    let sum: usize = buffers.iter().map(|buffer| buffer.len as usize).sum();
    assert_eq!(sum, chain.readable_len() + chain.writable_len());
}
