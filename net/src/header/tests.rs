use proptest::prelude::*;

use super::*;

const ALL: Features = Features(u64::MAX);
const NONE: Features = Features(0);
const LEN: usize = 1000;

fn without(bit: u32) -> Features {
    Features(!(1 << bit))
}

/// flags, gso_type, hdr_len, gso_size, csum_start, csum_offset.
fn header(flags: u8, gso_type: u8, words: [u16; 4]) -> Header {
    let mut header = Header([0xff; HEADER]);
    header.0[0] = flags;
    header.0[1] = gso_type;
    for (at, word) in (2..).step_by(2).zip(words) {
        header.0[at..at + 2].copy_from_slice(&word.to_le_bytes());
    }
    header
}

const TCP: [u16; 4] = [54, 1448, 34, 16];

#[test]
fn a_plain_frame_has_a_plain_header_whatever_else_is_written_in_it() {
    let plain = Some(Header::default());
    assert_eq!(Header::default().of_guest(LEN, NONE), plain);
    assert_eq!(header(0, 0, [0xffff; 4]).of_guest(LEN, NONE), plain);
    assert_eq!(header(0xfe, 0, TCP).of_guest(LEN, ALL), plain);
}

#[test]
fn a_checksum_is_left_to_the_host_only_where_that_was_agreed_and_within_the_frame() {
    let asked = header(1, 0, TCP);
    let mut passed = Header::default();
    passed.0[0] = 1;
    passed.0[6..10].copy_from_slice(&asked.0[6..10]);
    assert_eq!(asked.of_guest(LEN, ALL), Some(passed));
    assert_eq!(asked.of_guest(LEN, without(0)), None);
    assert_eq!(asked.of_guest(52, ALL), Some(passed));
    assert_eq!(asked.of_guest(51, ALL), None);
    for (start, offset) in [(0xffff, 0xffff), (999, 0), (0, 999)] {
        assert_eq!(header(1, 0, [0, 0, start, offset]).of_guest(LEN, ALL), None);
    }
}

#[test]
fn segments_are_made_only_where_that_was_agreed() {
    for (gso_type, feature) in [(1, 11), (4, 12), (5, 56), (0x81, 13), (0x84, 13)] {
        let asked = header(1, gso_type, TCP);
        let mut passed = asked;
        passed.0[10..].fill(0);
        assert_eq!(asked.of_guest(LEN, ALL), Some(passed), "{gso_type:#x}");
        assert_eq!(asked.of_guest(LEN, without(feature)), None, "{gso_type:#x}");
    }
}

#[test]
fn segments_that_make_no_sense_are_refused() {
    // UDP fragments, an unknown kind, ECN of nothing and of UDP.
    for gso_type in [2, 3, 6, 0x7f, 0x80, 0x83, 0x85] {
        assert_eq!(header(1, gso_type, TCP).of_guest(LEN, ALL), None);
    }
    assert_eq!(header(0, 1, TCP).of_guest(LEN, ALL), None, "no checksum");
    assert_eq!(
        header(1, 1, [54, 0, 34, 16]).of_guest(LEN, ALL),
        None,
        "size 0"
    );
    let long = [LEN as u16 + 1, 1448, 34, 16];
    assert_eq!(header(1, 1, long).of_guest(LEN, ALL), None, "its header");
}

#[test]
fn a_guest_gets_only_what_it_has_agreed_to() {
    let buffers = |header: Header| header.u16(10);
    let plain = Header::default().of_host(3, NONE);
    assert_eq!(plain.map(buffers), Some(3));
    // The kernel says that it has seen the checksum; a driver without the feature must not be told.
    assert_eq!(
        header(2, 0, TCP).of_host(1, NONE).map(|h| h.flags()),
        Some(0)
    );
    assert_eq!(
        header(2, 0, TCP).of_host(1, ALL).map(|h| h.flags()),
        Some(2)
    );
    assert_eq!(
        header(1, 0, TCP).of_host(1, ALL).map(|h| h.flags()),
        Some(1)
    );
    assert_eq!(header(1, 0, TCP).of_host(1, without(1)), None);
    for (gso_type, feature) in [(1, 7), (4, 8), (0x81, 9), (5, 54), (5, 55)] {
        let frame = header(1, gso_type, TCP);
        assert_eq!(frame.of_host(17, ALL).map(buffers), Some(17));
        assert_eq!(frame.of_host(17, without(feature)), None, "{gso_type:#x}");
    }
    assert_eq!(header(1, 3, TCP).of_host(1, ALL), None);
}

proptest! {
    /// Whatever a guest writes: what the kernel gets has only what was agreed, inside of the frame.
    #[test]
    fn no_header_of_a_guest_leads_out_of_its_frame(
        bytes in any::<[u8; HEADER]>(),
        len in 14..=65550_usize,
        features in any::<u64>(),
    ) {
        if let Some(header) = Header(bytes).of_guest(len, Features(features)) {
            prop_assert!(header.flags() & !NEEDS_CSUM == 0);
            prop_assert_eq!(header.u16(10), 0);
            if header.flags() != 0 {
                prop_assert!(header.csum_end() <= len);
            }
            if header.gso_type() != 0 {
                prop_assert!(header.flags() == NEEDS_CSUM && header.gso_size() > 0);
                prop_assert!(usize::from(header.hdr_len()) <= len);
            }
            // Seen again it is found as good as before.
            prop_assert_eq!(header.of_guest(len, Features(features)), Some(header));
        }
    }
}
