//! Walking a virtqueue whose every byte is the fuzzer's.
#![no_main]

use std::sync::LazyLock;

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use minivmm_devices::{
    GuestMemory,
    virtio::queue::{self, BrokenRing, Chain, MAX_CHAIN},
};
use virtio_queue::{Queue, QueueT};
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
    let mut ring = Queue::new(1024).expect("it is a power of two");
    ring.try_set_size(size).expect("it is one too");
    // The addresses that these refuse are refused when a driver writes them, too.
    let _ = ring.try_set_desc_table_address(GuestAddress(input.desc.into()));
    let _ = ring.try_set_avail_ring_address(GuestAddress(input.avail.into()));
    let _ = ring.try_set_used_ring_address(GuestAddress(input.used.into()));
    ring.set_next_avail(input.next);
    ring.set_event_idx(input.event_idx);
    ring.set_ready(true);
    let _ = serve(&mut ring, usize::from(size), usize::from(input.offset));
});

/// What every device does with a queue, a bounded number of times.
fn serve(ring: &mut Queue, size: usize, offset: usize) -> Result<bool, BrokenRing> {
    let memory = &*MEMORY;
    let mut chain = Chain::new();
    queue::disable_notification(ring, memory)?;
    for _ in 0..64 {
        if !queue::pop(ring, memory, &mut chain)? {
            if !queue::enable_notification(ring, memory)? {
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
        queue::push_used(ring, memory, chain.head(), written as u32)?;
    }
    queue::needs_interrupt(ring, memory)
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
