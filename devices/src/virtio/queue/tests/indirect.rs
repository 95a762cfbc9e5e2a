//! Chains that go on in a table of their own (virtio 1.3, 2.7.5.3).

use virtio_bindings::virtio_ring::{
    VRING_DESC_F_INDIRECT as INDIRECT, VRING_DESC_F_NEXT as NEXT, VRING_DESC_F_WRITE as WRITE,
};

use super::*;

#[test]
fn an_indirect_table_continues_the_chain() {
    let mut f = fixture();
    let table = BUFFERS + 0x1000;
    f.driver.write_descriptor_at(table, BUFFERS, 4, NEXT, 2);
    f.driver
        .write_descriptor_at(table + 32, BUFFERS + 0x10, 4, WRITE, 0);
    assert_eq!(
        f.pop_table(&[(BUFFERS + 0x20, 4, NEXT, 1), (table, 48, INDIRECT, 0)]),
        Ok(true)
    );
    assert_eq!(
        f.buffers(),
        [
            vec![(BUFFERS + 0x20, 4), (BUFFERS, 4)],
            vec![(BUFFERS + 0x10, 4)]
        ]
    );
}

#[test]
fn an_indirect_chain_may_be_longer_than_the_queue_up_to_its_limit() {
    let table = BUFFERS + 0x1000;
    let lay = |f: &Fixture, count: u16| {
        for i in 0..count {
            let flags = if i + 1 < count { NEXT } else { 0 };
            f.driver
                .write_descriptor_at(table + 16 * u64::from(i), BUFFERS, 1, flags, i + 1);
        }
    };
    let limit = MAX_CHAIN as u16;
    let mut f = fixture();
    lay(&f, limit);
    let len = 16 * (u32::from(limit) + 1);
    assert_eq!(f.pop_table(&[(table, len, INDIRECT, 0)]), Ok(true));
    assert_eq!(f.chain.readable_len(), MAX_CHAIN);

    let mut f = fixture();
    lay(&f, limit + 1);
    assert_eq!(
        f.pop_table(&[(table, len, INDIRECT, 0)]),
        Err(BrokenRing::Endless {
            head: 0,
            limit: MAX_CHAIN
        })
    );
}

#[test]
fn a_malformed_indirect_table_is_found() {
    for (address, len) in [
        (BUFFERS, 0),
        (BUFFERS, 15),
        (BUFFERS, 24),
        (BUFFERS, 16 * ((1 << 16) + 1)),
        (RAM as u64, 16),
        (RAM as u64 - 16, 32),
        (u64::MAX, 16),
        (BUFFERS, !15),
    ] {
        assert_eq!(
            fixture().pop_table(&[(address, len, INDIRECT, 0)]),
            Err(BrokenRing::IndirectTable { address, len }),
            "{address:#x}+{len:#x}"
        );
    }
    let mut f = fixture();
    f.driver.write_descriptor_at(BUFFERS, BUFFERS, 1, NEXT, 1);
    assert_eq!(
        f.pop_table(&[(BUFFERS, 16, INDIRECT, 0)]),
        Err(BrokenRing::DescriptorIndex {
            index: 1,
            entries: 1
        })
    );
}

#[test]
fn an_indirect_descriptor_that_nests_or_has_a_next_one_is_found() {
    let mut f = fixture();
    f.driver
        .write_descriptor_at(BUFFERS, BUFFERS, 16, INDIRECT, 0);
    assert_eq!(
        f.pop_table(&[(BUFFERS, 16, INDIRECT, 0)]),
        Err(BrokenRing::Indirect { head: 0 })
    );
    assert_eq!(
        fixture().pop_table(&[(BUFFERS, 16, INDIRECT | NEXT, 1)]),
        Err(BrokenRing::Indirect { head: 0 })
    );
}
