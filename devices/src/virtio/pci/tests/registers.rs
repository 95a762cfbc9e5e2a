//! The registers as a driver finds and pokes them.

use proptest::prelude::*;
use virtio_bindings::virtio_config::{
    VIRTIO_CONFIG_S_ACKNOWLEDGE as ACKNOWLEDGE, VIRTIO_CONFIG_S_DRIVER as DRIVER,
    VIRTIO_CONFIG_S_DRIVER_OK as DRIVER_OK, VIRTIO_CONFIG_S_FAILED as FAILED,
    VIRTIO_CONFIG_S_FEATURES_OK as FEATURES_OK,
};

use super::{
    device::{FEATURES, QUEUE_SIZES},
    *,
};
use crate::test_utils::DEADLINE;

const NO_VECTOR: [u8; 2] = [0xff; 2];
const CONFIG_MSIX_VECTOR: u64 = 0x10;
const QUEUE_SELECT: u64 = 0x16;
const QUEUE_SIZE: u64 = 0x18;
const QUEUE_MSIX_VECTOR: u64 = 0x1a;
const QUEUE_ENABLE: u64 = 0x1c;
const QUEUE_DESC: u64 = 0x20;

#[test]
fn a_driver_recognises_a_modern_device() {
    let f = fixture();
    assert_eq!(f.driver.read_config(0x00), [0xf4, 0x1a, 0x41, 0x10]);
    assert_eq!(f.driver.read_config(0x08), [1, 0, 0, 2]);
    assert_eq!(f.driver.read_config(0x2c), [0xf4, 0x1a, 0x41, 0x10]);
    assert_eq!(f.driver.read_config(0x3d), [0], "no INTx");
    let cfg_types = f.driver.capabilities(9).into_iter().map(|cap| {
        let [len, cfg_type, bar] = f.driver.read_config(cap + 2);
        let place: [u8; 8] = f.driver.read_config(cap + 8);
        (len, cfg_type, bar, u64::from_le_bytes(place))
    });
    assert_eq!(
        cfg_types.collect::<Vec<_>>(),
        [
            (16, 1, 0, 0x38 << 32),
            (20, 2, 0, 8 << 32 | 0x3000),
            (16, 3, 0, 1 << 32 | 0x1000),
            (16, 4, 0, 0x1000 << 32 | 0x2000),
            (20, 5, 0, 0),
        ]
    );
    let msix = f.driver.capabilities(0x11)[0];
    assert_eq!(
        f.driver.read_config(msix + 2),
        [2, 0x80, 0, 0x40, 0, 0, 0, 0x60, 0, 0],
        "three vectors"
    );
}

#[test]
fn a_reset_device_is_fresh() {
    let f = fixture();
    assert_eq!(f.driver.status(), 0);
    assert_eq!(f.driver.read_common(CONFIG_MSIX_VECTOR), NO_VECTOR);
    assert_eq!(f.driver.read_common(0x12), [2, 0], "num_queues");
    assert_eq!(f.driver.device_features(), FEATURES | VERSION_1);
    for (index, size) in (0_u16..).zip(QUEUE_SIZES) {
        f.driver.write_common(QUEUE_SELECT, &index.to_le_bytes());
        assert_eq!(f.driver.read_common(QUEUE_SIZE), size.to_le_bytes());
        assert_eq!(f.driver.read_common(QUEUE_MSIX_VECTOR), NO_VECTOR);
        assert_eq!(f.driver.read_common(QUEUE_ENABLE), [0, 0]);
        assert_eq!(f.driver.read_common(0x1e), index.to_le_bytes());
        assert_eq!(f.driver.read_common(QUEUE_DESC), [0; 24]);
    }
}

#[test]
fn a_queue_that_does_not_exist_has_size_0_and_takes_nothing() {
    let f = fixture();
    for index in [2_u16, 0xffff] {
        f.driver.write_common(QUEUE_SELECT, &index.to_le_bytes());
        f.driver.write_common(QUEUE_SIZE, &[8, 0]);
        f.driver.write_common(QUEUE_MSIX_VECTOR, &[1, 0]);
        f.driver.write_common(QUEUE_ENABLE, &[1, 0]);
        assert_eq!(f.driver.read_common(QUEUE_SIZE), [0, 0]);
        assert_eq!(f.driver.read_common(QUEUE_MSIX_VECTOR), NO_VECTOR);
        assert_eq!(f.driver.read_common(QUEUE_ENABLE), [0, 0]);
    }
}

#[test]
fn features_are_64_bits_in_two_halves() {
    let f = fixture();
    f.driver.set_features(0x1234_5678_9abc_def0);
    for (select, expected) in [(0_u32, 0x9abc_def0_u32), (1, 0x1234_5678), (2, 0)] {
        f.driver.write_common(0x08, &select.to_le_bytes());
        assert_eq!(f.driver.read_common(0x0c), expected.to_le_bytes());
        assert_eq!(f.driver.read_common(0x08), select.to_le_bytes());
    }
    f.driver.write_common(0x0c, &[0xff; 4]);
    f.driver.write_common(0x00, &2_u32.to_le_bytes());
    assert_eq!(f.driver.read_common(0x04), [0; 4]);
}

#[test]
fn features_ok_needs_version_1_and_only_what_was_offered() {
    for (features, ok) in [
        (VERSION_1, true),
        (VERSION_1 | FEATURES, true),
        (FEATURES, false),
        (0, false),
        (VERSION_1 | 1, false),
        (u64::MAX, false),
    ] {
        let f = fixture();
        assert_eq!(f.driver.negotiate(features), ok, "{features:#x}");
        assert_eq!(f.driver.status() & FEATURES_OK != 0, ok);
        assert_eq!(f.driver.start(), ok, "DRIVER_OK only after FEATURES_OK");
    }
}

#[test]
fn features_are_frozen_by_features_ok() {
    let f = fixture();
    assert!(f.driver.negotiate(VERSION_1));
    f.driver.set_features(VERSION_1 | FEATURES);
    f.driver.write_common(0x08, &[0; 4]);
    assert_eq!(f.driver.read_common(0x0c), [0; 4]);
}

#[test]
fn status_bits_stick_only_in_their_order() {
    let f = fixture();
    f.driver.set_features(VERSION_1);
    assert!(!f.driver.add_status(DRIVER));
    assert!(!f.driver.add_status(FEATURES_OK));
    assert!(!f.driver.add_status(DRIVER_OK));
    assert_eq!(f.driver.status(), 0);
    assert!(f.driver.add_status(ACKNOWLEDGE | DRIVER), "both at once");
    assert!(!f.driver.add_status(FEATURES_OK | DRIVER_OK));
    assert_eq!(f.driver.status(), ACKNOWLEDGE | DRIVER | FEATURES_OK);
    f.driver.write_common(0x14, &[ACKNOWLEDGE as u8]);
    assert_eq!(
        f.driver.status(),
        ACKNOWLEDGE | DRIVER | FEATURES_OK,
        "bits are not taken back"
    );
    assert!(!f.driver.add_status(0x70), "bits that are not the driver's");
    assert!(f.driver.add_status(FAILED));
    assert!(!f.driver.add_status(DRIVER_OK));
    assert!(f.driver.reset(DEADLINE));
}

#[test]
fn queue_sizes_are_powers_of_two_up_to_the_largest() {
    let f = fixture();
    for (written, read) in [
        (4_u16, 4_u16),
        (3, 4),
        (0, 4),
        (16, 4),
        (0x8000, 4),
        (8, 8),
        (1, 1),
    ] {
        f.driver.write_common(QUEUE_SIZE, &written.to_le_bytes());
        assert_eq!(f.driver.read_common(QUEUE_SIZE), read.to_le_bytes());
    }
}

#[test]
fn vectors_that_do_not_exist_read_back_as_none() {
    let f = fixture();
    for register in [CONFIG_MSIX_VECTOR, QUEUE_MSIX_VECTOR] {
        for (written, read) in [(2_u16, 2_u16), (3, 0xffff), (0, 0), (0xffff, 0xffff)] {
            f.driver.write_common(register, &written.to_le_bytes());
            assert_eq!(f.driver.read_common(register), read.to_le_bytes());
        }
    }
}

#[test]
fn an_enabled_queue_keeps_its_registers() {
    let f = fixture();
    f.driver.enable_queue(0, &f.rings(0));
    let before: [u8; 0x38] = f.driver.read_common(0);
    f.driver.write_common(QUEUE_SIZE, &[2, 0]);
    f.driver.write_common(QUEUE_ENABLE, &[0, 0]);
    for offset in (QUEUE_DESC..0x38).step_by(4) {
        f.driver.write_common(offset, &[0x10; 4]);
    }
    assert_eq!(f.driver.read_common::<0x38>(0), before);
}

#[test]
fn a_running_device_keeps_its_registers() {
    let f = fixture();
    f.start();
    f.driver.write_common(QUEUE_SELECT, &[1, 0]);
    let before: [u8; 0x38] = f.driver.read_common(0);
    for (register, value) in [
        (CONFIG_MSIX_VECTOR, [2, 0]),
        (QUEUE_MSIX_VECTOR, [0, 0]),
        (QUEUE_SIZE, [2, 0]),
    ] {
        f.driver.write_common(register, &value);
    }
    f.driver.set_features(0);
    f.driver.write_common(0x08, &before[8..12]);
    assert_eq!(f.driver.read_common::<0x38>(0), before);
}

#[test]
fn addresses_are_written_whole_or_by_halves() {
    let f = fixture();
    f.driver
        .write_common(QUEUE_DESC, &0x1111_2222_3333_4444_u64.to_le_bytes());
    f.driver
        .write_common(QUEUE_DESC + 12, &0x5555_6666_u32.to_le_bytes());
    f.driver.write_common(QUEUE_DESC + 4, &[0xee; 8]);
    f.driver.write_common(QUEUE_DESC + 2, &[0xee; 4]);
    f.driver.write_common(QUEUE_DESC, &[0xee; 2]);
    let read: [u8; 16] = f.driver.read_common(QUEUE_DESC);
    assert_eq!(
        u128::from_le_bytes(read),
        0x5555_6666_0000_0000_1111_2222_3333_4444
    );
}

#[test]
fn what_is_between_the_registers_reads_zero() {
    let f = fixture();
    for offset in [0x38, 0xffc, 0x1000, 0x1004, 0x2008, 0x3000, 0x7000, 0x7ffc] {
        f.driver.write_bar(offset, &[0xff; 4]);
        assert_eq!(f.driver.read_bar(offset), [0; 4], "{offset:#x}");
    }
}

#[test]
fn the_device_configuration_is_the_devices() {
    let f = fixture();
    f.driver.write_device(2, &[7, 8]);
    assert_eq!(f.driver.read_device(0), [0, 0, 7, 8, 0, 0, 0, 0]);
    f.control
        .generation
        .store(5, std::sync::atomic::Ordering::Relaxed);
    assert_eq!(f.driver.read_common(0x15), [5]);
}

#[test]
fn the_configuration_access_window_reaches_the_registers() {
    let f = fixture();
    let cap = f.driver.capabilities(9)[4];
    let aim = |bar: u8, offset: u32, length: u32| {
        f.driver.write_config(cap + 4, &[bar]);
        f.driver.write_config(cap + 8, &offset.to_le_bytes());
        f.driver.write_config(cap + 12, &length.to_le_bytes());
    };
    aim(0, 0x12, 2);
    assert_eq!(f.driver.read_config::<2>(cap + 16), [2, 0]);
    aim(0, 0x14, 1);
    f.driver.write_config(cap + 16, &[ACKNOWLEDGE as u8]);
    assert_eq!(f.driver.status(), ACKNOWLEDGE);
    aim(0, 0x2000, 4);
    f.driver.write_config(cap + 16, &[1, 2, 3, 4]);
    assert_eq!(f.driver.read_device(0), [1, 2, 3, 4]);

    for (bar, offset, length) in [
        (1, 0x2000, 4),
        (0, 0x2000, 0),
        (0, 0x2000, 3),
        (0, 0x2000, 8),
        (0, 0x2002, 4),
        (0, 0x8000, 4),
        (0, 0xffff_fffc, 4),
    ] {
        aim(bar, offset, length);
        f.driver.write_config(cap + 16, &[9; 4]);
        f.driver.read_config::<4>(cap + 16);
    }
    assert_eq!(f.driver.read_device(0), [1, 2, 3, 4]);
    assert_eq!(f.driver.read_config(cap + 2), [20, 5], "not writable");
}

#[test]
fn impossible_queues_are_refused() {
    let memory = guest_memory(RAM);
    for sizes in [&[][..], &[0], &[3], &[8, 0x8001], &[8; MAX_QUEUES + 1]] {
        let device = Box::new(Echo::with_queues(Arc::default(), sizes));
        let hypervisor = Arc::new(FakeHypervisor::default());
        let result = VirtioPci::new("odd", device, memory.clone(), hypervisor);
        assert!(matches!(result, Err(Error::Queues { .. })), "{sizes:?}");
    }
}

/// A write of any width, mostly to where something is.
fn access() -> impl Strategy<Value = (u64, Vec<u8>)> {
    let offset = prop_oneof![
        8 => 0..0x40_u64,
        1 => Just(0x14_u64),
        1 => 0x1000..0x8000_u64,
    ];
    let byte = prop_oneof![Just(0), Just(1), Just(0xf), any::<u8>()];
    let data = prop_oneof![Just(1), Just(2), Just(4), Just(8)]
        .prop_flat_map(move |len: usize| prop::collection::vec(byte.clone(), len));
    (offset, data)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// No sequence of writes makes the function panic or hang, and a reset always leads back.
    #[test]
    fn random_writes_are_harmless(
        writes in prop::collection::vec(access(), 0..128),
        config in prop::collection::vec((0..0x100_u64, any::<u32>()), 0..32),
        start in any::<bool>(),
    ) {
        let f = fixture();
        if start {
            f.start();
        }
        for (offset, data) in &writes {
            f.driver.write_bar(*offset, data);
            f.driver.read_bar::<8>(offset & !7);
        }
        for (offset, value) in &config {
            f.driver.write_config(offset & !3, &value.to_le_bytes());
            f.driver.read_config::<4>(*offset);
        }
        let mut driver = PciDriver::new(&f.bus, Slot::new(1).unwrap(), WINDOW.base);
        driver.move_bar(WINDOW.base as u32);
        prop_assert!(driver.reset(DEADLINE));
        prop_assert!(driver.negotiate(VERSION_1));
        f.function.stop(std::time::Instant::now() + DEADLINE).unwrap();
    }
}
