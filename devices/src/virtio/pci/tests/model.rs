//! Any sequence of register writes, beside a model of what virtio 1.3 (2.1, 2.2, 3.1, 4.1.4.3) makes of it.

use std::sync::atomic::Ordering;

use proptest::prelude::*;
use virtio_bindings::virtio_config::VIRTIO_CONFIG_S_NEEDS_RESET;

use super::{
    device::{FEATURES, QUEUE_SIZES},
    *,
};
use crate::test_utils::DEADLINE;

const ACKNOWLEDGE: u8 = 1;
const DRIVER: u8 = 2;
const DRIVER_OK: u8 = 4;
const FEATURES_OK: u8 = 8;
const NEEDS_RESET: u8 = VIRTIO_CONFIG_S_NEEDS_RESET as u8;
const FAILED: u8 = 128;
const NO_VECTOR: u16 = 0xffff;
const VECTORS: u16 = QUEUE_SIZES.len() as u16 + 1;

/// A write of one register, or what takes two.
#[derive(Clone, Copy, Debug)]
enum Write {
    /// Zero is a reset.
    Status(u8),
    DriverFeatures(u64),
    ConfigVector(u16),
    QueueSelect(u16),
    Size(u16),
    Vector(u16),
    Enable(u16),
    Area(Area, u64),
    /// No register of the driver's: the device's own configuration changes.
    Generation(u8),
}

#[derive(Clone, Copy, Debug)]
enum Area {
    Descriptors,
    Driver,
    Device,
}

fn write() -> impl Strategy<Value = Write> {
    let forward = prop::sample::select(vec![1, 3, 11, 15, 15, 0, 0x83, 0x8f, 4, 12, 8]);
    let features = prop::sample::select(vec![
        VERSION_1,
        VERSION_1 | FEATURES,
        VERSION_1 | 1 << 29,
        FEATURES,
        VERSION_1 | 1,
        0,
    ]);
    // Aligned and in memory, misaligned, at the end, and outside.
    let address = prop::sample::select(vec![
        0x1000,
        0x2000,
        0x3000,
        0x1001,
        RAM as u64 - 16,
        RAM as u64,
        u64::MAX - 15,
    ]);
    let area = prop::sample::select(vec![Area::Descriptors, Area::Driver, Area::Device]);
    prop_oneof![
        6 => forward.prop_map(Write::Status),
        1 => any::<u8>().prop_map(Write::Status),
        3 => features.prop_map(Write::DriverFeatures),
        1 => (0..5_u16).prop_map(Write::ConfigVector),
        2 => (0..3_u16).prop_map(Write::QueueSelect),
        1 => prop::sample::select(vec![0, 1, 2, 3, 8, 16, 256, 512]).prop_map(Write::Size),
        1 => (0..5_u16).prop_map(Write::Vector),
        2 => (0..3_u16).prop_map(Write::Enable),
        3 => (area, address).prop_map(|(area, address)| Write::Area(area, address)),
        1 => any::<u8>().prop_map(Write::Generation),
    ]
}

/// What a driver does that means well, but for one address.
fn start() -> impl Strategy<Value = Vec<Write>> {
    let address = prop::sample::select(vec![0x3000, 0x3000, 0x3001, RAM as u64]);
    (0..QUEUE_SIZES.len() as u16, address).prop_map(|(queue, device)| {
        vec![
            Write::Status(0),
            Write::Status(ACKNOWLEDGE),
            Write::Status(ACKNOWLEDGE | DRIVER),
            Write::DriverFeatures(VERSION_1 | FEATURES),
            Write::Status(ACKNOWLEDGE | DRIVER | FEATURES_OK),
            Write::QueueSelect(queue),
            Write::Area(Area::Descriptors, 0x1000),
            Write::Area(Area::Driver, 0x2000),
            Write::Area(Area::Device, device),
            Write::Enable(1),
            Write::Status(ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK),
        ]
    })
}

fn writes() -> impl Strategy<Value = Vec<Write>> {
    let step = prop_oneof![8 => write().prop_map(|write| vec![write]), 1 => start()];
    prop::collection::vec(step, 0..40).prop_map(|steps| steps.concat())
}

#[derive(Clone, Debug, PartialEq)]
struct Queue {
    size: u16,
    vector: u16,
    enabled: bool,
    areas: [u64; 3],
}

/// What the driver must read.
#[derive(Clone, Debug, PartialEq)]
struct Model {
    status: u8,
    features: u64,
    config_vector: u16,
    select: u16,
    queues: Vec<Queue>,
    activations: u32,
    generation: u8,
}

impl Model {
    fn new() -> Self {
        Self {
            status: 0,
            features: 0,
            config_vector: NO_VECTOR,
            select: 0,
            queues: QUEUE_SIZES
                .map(|size| Queue {
                    size,
                    vector: NO_VECTOR,
                    enabled: false,
                    areas: [0; 3],
                })
                .to_vec(),
            activations: 0,
            generation: 0,
        }
    }

    fn apply(&mut self, write: Write) {
        let runs = self.status & DRIVER_OK != 0;
        let queue = self.queues.get_mut(usize::from(self.select));
        let vector = |value| if value < VECTORS { value } else { NO_VECTOR };
        match (write, queue) {
            (Write::Status(0), _) => {
                *self = Self {
                    activations: self.activations,
                    generation: self.generation,
                    ..Self::new()
                };
            }
            (Write::Status(bits), _) => self.advance(bits),
            (Write::DriverFeatures(bits), _) if self.status & FEATURES_OK == 0 => {
                self.features = bits;
            }
            (Write::ConfigVector(value), _) if !runs => self.config_vector = vector(value),
            (Write::QueueSelect(index), _) => self.select = index,
            (Write::Vector(value), Some(queue)) if !runs => queue.vector = vector(value),
            (Write::Size(size), Some(queue)) if !runs && !queue.enabled => {
                let largest = QUEUE_SIZES[usize::from(self.select)];
                if size.is_power_of_two() && size <= largest {
                    queue.size = size;
                }
            }
            (Write::Enable(1), Some(queue)) if !runs => queue.enabled = true,
            (Write::Area(area, address), Some(queue)) if !runs && !queue.enabled => {
                queue.areas[area as usize] = address;
            }
            (Write::Generation(value), _) => self.generation = value,
            _ => {}
        }
    }

    /// Bits come in the order of 3.1.1, each only if what it says is true; none goes.
    fn advance(&mut self, bits: u8) {
        let before = self.status;
        let mut take = |bit: u8, is_allowed: bool| {
            if bits & bit != 0 && before & bit == 0 && is_allowed {
                self.status |= bit;
            }
            self.status
        };
        take(ACKNOWLEDGE, true);
        let status = take(FAILED, true);
        let status = take(DRIVER, status & ACKNOWLEDGE != 0);
        let acceptable =
            self.features & VERSION_1 != 0 && self.features & !(VERSION_1 | FEATURES) == 0;
        let status = take(FEATURES_OK, status & DRIVER != 0 && acceptable);
        // The driver has to have seen FEATURES_OK before.
        let may_run = before & FEATURES_OK != 0 && status & FAILED == 0;
        let status = take(DRIVER_OK, may_run);
        if status & !before & DRIVER_OK != 0 {
            if self.queues.iter().all(Queue::is_usable) {
                self.activations += 1;
            } else {
                self.status |= NEEDS_RESET;
            }
        }
    }

    fn works(&self) -> bool {
        self.status & (DRIVER_OK | NEEDS_RESET) == DRIVER_OK
    }
}

impl Queue {
    fn is_usable(&self) -> bool {
        let size = u64::from(self.size);
        let parts = [(16 * size, 16), (6 + 2 * size, 2), (6 + 8 * size, 4)];
        let mut areas = self.areas.iter().zip(parts);
        !self.enabled
            || areas.all(|(address, (len, align))| {
                let end = address.checked_add(len);
                address % align == 0 && end.is_some_and(|end| end <= RAM as u64)
            })
    }
}

impl Fixture {
    fn apply(&self, write: Write) {
        let driver = &self.driver;
        match write {
            Write::Status(0) => assert!(driver.reset(DEADLINE)),
            Write::Status(bits) => driver.write_common(0x14, &[bits]),
            Write::DriverFeatures(bits) => driver.set_features(bits),
            Write::ConfigVector(value) => driver.write_common(0x10, &value.to_le_bytes()),
            Write::QueueSelect(index) => driver.write_common(0x16, &index.to_le_bytes()),
            Write::Size(size) => driver.write_common(0x18, &size.to_le_bytes()),
            Write::Vector(value) => driver.write_common(0x1a, &value.to_le_bytes()),
            Write::Enable(value) => driver.write_common(0x1c, &value.to_le_bytes()),
            Write::Area(area, address) => {
                driver.write_common(0x20 + 8 * area as u64, &address.to_le_bytes());
            }
            Write::Generation(value) => self.control.generation.store(value, Ordering::Relaxed),
        }
    }

    /// Everything that a driver can read, and what the device has seen.
    fn read(&self) -> Model {
        let driver = &self.driver;
        let u16_at = |offset| u16::from_le_bytes(driver.read_common(offset));
        let select = u16_at(0x16);
        let half = |half: u32| {
            driver.write_common(0x08, &half.to_le_bytes());
            u64::from(u32::from_le_bytes(driver.read_common(0x0c)))
        };
        let features = half(0) | half(1) << 32;
        let queues = (0..QUEUE_SIZES.len() as u16).map(|index| {
            driver.write_common(0x16, &index.to_le_bytes());
            Queue {
                size: u16_at(0x18),
                vector: u16_at(0x1a),
                enabled: u16_at(0x1c) == 1,
                areas: [0x20, 0x28, 0x30].map(|at| u64::from_le_bytes(driver.read_common(at))),
            }
        });
        let queues = queues.collect();
        driver.write_common(0x16, &select.to_le_bytes());
        let [status, generation] = driver.read_common(0x14);
        Model {
            status,
            features,
            config_vector: u16_at(0x10),
            select,
            queues,
            activations: self.control.activations.load(Ordering::Relaxed),
            generation,
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn registers_and_life_are_those_of_the_standard(writes in writes()) {
        let f = fixture();
        let mut model = Model::new();
        for write in writes {
            f.apply(write);
            model.apply(write);
            prop_assert_eq!(f.read(), model.clone(), "after {:?}", write);
            // Queues are only used, and the hypervisor only told of them, while the device works.
            let expected = if model.works() {
                model.queues.iter().filter(|queue| queue.enabled).count()
            } else {
                0
            };
            prop_assert_eq!(f.hypervisor.attached().len(), expected);
        }
        f.function.stop(std::time::Instant::now() + DEADLINE).unwrap();
    }
}

/// The strategy above is worth something only if it comes far.
#[test]
fn random_drivers_come_as_far_as_a_working_device() {
    use proptest::{strategy::ValueTree, test_runner::TestRunner};

    let mut runner = TestRunner::deterministic();
    let (mut working, mut broken) = (0, 0);
    for _ in 0..256 {
        let mut model = Model::new();
        for write in writes().new_tree(&mut runner).unwrap().current() {
            model.apply(write);
            working += u32::from(model.works() && model.queues.iter().any(|queue| queue.enabled));
            broken += u32::from(model.status & NEEDS_RESET != 0);
        }
    }
    assert!(working > 100 && broken > 100, "{working} {broken}");
}
