#![allow(clippy::unwrap_used, clippy::panic)]

use super::*;

const IDENTITY: Identity = Identity {
    vendor: 0x1af4,
    device: 0x1041,
    revision: 1,
    class: 0x02_00_00,
    subsystem_vendor: 0x1af4,
    subsystem: 0x1100,
};

fn config() -> ConfigSpace {
    ConfigSpace::new(&IDENTITY)
}

fn read<const N: usize>(config: &ConfigSpace, offset: u16) -> [u8; N] {
    let mut data = [0xaa; N];
    config.read(offset, &mut data);
    data
}

fn read_u32(config: &ConfigSpace, offset: u16) -> u32 {
    u32::from_le_bytes(read(config, offset))
}

fn write(config: &mut ConfigSpace, offset: u16, data: &[u8]) -> bool {
    config.write(offset, data, |_, _| true)
}

#[test]
fn the_header_says_what_the_function_is() {
    let config = config();
    assert_eq!(read_u32(&config, 0x00), 0x1041_1af4);
    assert_eq!(read_u32(&config, 0x04), 0);
    assert_eq!(read_u32(&config, 0x08), 0x0200_0001);
    assert_eq!(read(&config, 0x0e), [0], "type 0, one function");
    assert_eq!(read_u32(&config, 0x2c), 0x1100_1af4);
    assert_eq!(read(&config, 0x3d), [0], "no interrupt pin");
}

#[test]
fn every_size_and_alignment_reads_the_same_bytes() {
    let mut config = config();
    config.add_bar(0, 0x8000).unwrap();
    config.place_bar(0, 0xe000_8000);
    let whole: [u8; 256] = read(&config, 0);
    for offset in 0..256 {
        for len in [1, 2, 4, 8] {
            let mut data = vec![0xaa; len];
            config.read(offset as u16, &mut data);
            let expected: Vec<u8> = whole[offset..]
                .iter()
                .copied()
                .chain([0; 8])
                .take(len)
                .collect();
            assert_eq!(data, expected, "{len} bytes at {offset:#x}");
        }
    }
    assert_eq!(read_u32(&config, 0x100), 0, "no extended capability");
    assert_eq!(read::<4>(&config, u16::MAX), [0; 4]);
}

#[test]
fn only_writable_bits_change() {
    let mut config = config();
    config.add_bar(1, 0x1000).unwrap();
    config.add_capability(9, &[1, 2, 3, 4], &[0, 0xf0]).unwrap();
    let before: [u8; 256] = read(&config, 0);
    for offset in (0..256).step_by(4) {
        write(&mut config, offset, &[0xff; 4]);
    }
    let mut expected = before;
    expected[0x04..0x06].copy_from_slice(&[0x06, 0x04]);
    expected[0x0c] = 0xff;
    expected[0x14..0x18].copy_from_slice(&[0, 0xf0, 0xff, 0xff]);
    expected[0x3c] = 0xff;
    expected[0x43] = 0xf2;
    assert_eq!(read(&config, 0), expected);
}

#[test]
fn writes_of_any_size_and_place_are_harmless() {
    for offset in (0..0x110).chain(0xff8..=0x1000).chain([u16::MAX]) {
        for len in [0, 1, 2, 3, 4, 8, 64] {
            let mut config = config();
            config.add_bar(0, 0x1000).unwrap();
            write(&mut config, offset, &vec![0xff; len]);
            assert_eq!(read_u32(&config, 0), 0x1041_1af4);
            read::<64>(&config, offset);
        }
    }
}

#[test]
fn capabilities_form_a_list() {
    let mut config = config();
    assert_eq!(read(&config, 0x06), [0, 0], "no list yet");
    let first = config.add_capability(0x09, &[7; 14], &[]).unwrap();
    let second = config.add_capability(0x11, &[8; 9], &[]).unwrap();
    let third = config.add_capability(0x09, &[9; 2], &[]).unwrap();
    assert_eq!((first, second, third), (0x40, 0x50, 0x5c));
    assert_eq!(read(&config, 0x06), [STATUS_CAPABILITIES, 0]);

    let mut at = read::<1>(&config, 0x34)[0];
    let mut found = Vec::new();
    while at != 0 {
        let [id, next] = read(&config, at.into());
        found.push((usize::from(at), id));
        at = next;
    }
    assert_eq!(found, [(first, 0x09), (second, 0x11), (third, 0x09)]);
}

#[test]
fn capabilities_that_do_not_fit_are_refused() {
    let mut config = config();
    assert_eq!(
        config.add_capability(9, &[0; 191], &[]),
        Err(Error::NoRoom { len: 193 })
    );
    assert_eq!(config.add_capability(9, &[0; 190], &[]), Ok(0x40));
    assert_eq!(
        config.add_capability(9, &[], &[]),
        Err(Error::NoRoom { len: 2 })
    );
}

#[test]
fn a_bar_tells_its_size() {
    let mut config = config();
    config.add_bar(0, 0x8000).unwrap();
    config.place_bar(0, 0xe000_8000);
    assert_eq!(read_u32(&config, 0x10), 0xe000_8000);
    assert!(write(&mut config, 0x10, &[0xff; 4]));
    assert_eq!(read_u32(&config, 0x10), 0xffff_8000);
    assert_eq!(read_u32(&config, 0x14), 0, "there is no second BAR");
    assert!(write(&mut config, 0x10, &0xe000_8000_u32.to_le_bytes()));
    assert_eq!(read_u32(&config, 0x10), 0xe000_8000);
}

#[test]
fn a_bar_answers_when_memory_is_decoded_and_it_is_not_being_sized() {
    let mut config = config();
    config.add_bar(2, 0x1000).unwrap();
    config.place_bar(2, 0xe000_0000);
    assert_eq!(config.decoded(), [None; 6]);
    write(&mut config, 0x04, &[2, 0]);
    let range = BarRange {
        base: 0xe000_0000,
        size: 0x1000,
    };
    assert_eq!(config.decoded()[2], Some(range));
    write(&mut config, 0x18, &[0xff; 4]);
    assert_eq!(config.decoded()[2], None);
    write(&mut config, 0x18, &0xe000_0000_u32.to_le_bytes());
    assert_eq!(config.decoded()[2], Some(range));
}

#[test]
fn a_bar_stays_where_it_is_when_its_new_place_is_refused() {
    let mut config = config();
    config.add_bar(0, 0x1000).unwrap();
    config.place_bar(0, 0xe000_0000);
    write(&mut config, 0x10, &[0xff; 4]);
    let mut asked = None;
    let accepted = config.write(0x10, &0xd000_0fff_u32.to_le_bytes(), |bar, range| {
        asked = Some((bar, range.base));
        false
    });
    assert!(!accepted);
    assert_eq!(asked, Some((0, 0xd000_0000)));
    assert_eq!(read_u32(&config, 0x10), 0xe000_0000);
}

#[test]
fn a_part_of_a_bar_cannot_be_written_and_two_at_once_can() {
    let mut config = config();
    config.add_bar(0, 0x1000).unwrap();
    config.add_bar(1, 0x1000).unwrap();
    for (offset, len) in [(0x10, 1), (0x10, 2), (0x12, 2), (0x0e, 4), (0x12, 4)] {
        write(&mut config, offset, &vec![0xee; len]);
        assert_eq!(read_u32(&config, 0x10), 0, "{len} bytes at {offset:#x}");
    }
    write(&mut config, 0x10, &0xe000_2000_e000_1000_u64.to_le_bytes());
    assert_eq!(read_u32(&config, 0x10), 0xe000_1000);
    assert_eq!(read_u32(&config, 0x14), 0xe000_2000);
}

#[test]
fn impossible_bars_are_refused() {
    let mut config = config();
    config.add_bar(0, 16).unwrap();
    for (index, size) in [(0, 16), (1, 0), (1, 8), (1, 0x1001), (6, 16)] {
        assert_eq!(
            config.add_bar(index, size),
            Err(Error::InvalidBar { index, size })
        );
    }
}
