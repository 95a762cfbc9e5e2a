//! Any writes to the table, the Message Control register and the vectors, beside a model of 6.8.2.

use proptest::prelude::*;

use super::*;

const VECTORS: usize = 10;
const TABLE: usize = VECTORS * ENTRY_SIZE as usize;

#[derive(Clone, Debug)]
enum Step {
    Table { offset: u32, data: Vec<u8> },
    Control(u16),
    Signal(u16),
    Reset,
}

fn step() -> impl Strategy<Value = Step> {
    // A little beyond the end, and in all widths.
    let offset = 0..TABLE as u32 + 40;
    let aligned = (0..TABLE as u32 / 4, any::<u32>()).prop_map(|(word, value)| Step::Table {
        offset: 4 * word,
        data: value.to_le_bytes().to_vec(),
    });
    let mask = (0..VECTORS as u32, 0..2_u32).prop_map(|(vector, mask)| Step::Table {
        offset: vector * ENTRY_SIZE + 12,
        data: mask.to_le_bytes().to_vec(),
    });
    prop_oneof![
        2 => (offset, prop::collection::vec(any::<u8>(), 0..9))
            .prop_map(|(offset, data)| Step::Table { offset, data }),
        2 => aligned,
        4 => mask,
        2 => prop::sample::select(vec![0, ENABLED, MASKED, 0x4000, 0xffff]).prop_map(Step::Control),
        4 => (0..VECTORS as u16).prop_map(Step::Signal),
        1 => Just(Step::Reset),
    ]
}

/// What the driver and the hypervisor must see.
struct Model {
    table: [u8; TABLE],
    deliver: bool,
    /// Signalled and not delivered.
    pending: [bool; VECTORS],
}

impl Model {
    fn new() -> Self {
        let mut table = [0; TABLE];
        for entry in table.chunks_mut(ENTRY_SIZE as usize) {
            entry[12] = 1;
        }
        Self {
            table,
            deliver: false,
            pending: [false; VECTORS],
        }
    }

    fn apply(&mut self, step: &Step) {
        match step {
            Step::Table { offset, data } => {
                let (at, len) = (*offset as usize, data.len());
                if matches!(len, 4 | 8) && at.is_multiple_of(len) && at < TABLE {
                    self.table[at..at + len].copy_from_slice(data);
                    // Reserved bits: two of the address, all of Vector Control but one.
                    let entry = &mut self.table[at / 16 * 16..][..16];
                    entry[0] &= !3;
                    entry[12] &= 1;
                    entry[13..].fill(0);
                }
            }
            Step::Control(control) => self.deliver = control & MASKED == ENABLED,
            Step::Signal(vector) => self.pending[usize::from(*vector)] = true,
            Step::Reset => {
                for vector in 0..VECTORS {
                    self.pending[vector] &= self.is_open(vector);
                }
            }
        }
    }

    fn is_open(&self, vector: usize) -> bool {
        self.deliver && self.table[16 * vector + 12] == 0
    }

    fn message(&self, vector: usize) -> MsiMessage {
        let entry = &self.table[16 * vector..][..16];
        MsiMessage {
            address: u64::from_le_bytes(entry[..8].try_into().unwrap()),
            data: u32::from_le_bytes(entry[8..12].try_into().unwrap()),
        }
    }
}

fn apply(msix: &Msix, step: &Step) {
    match step {
        Step::Table { offset, data } => msix.write_table(*offset, data),
        Step::Control(control) => msix.set_control(*control),
        Step::Signal(vector) => signal(msix, *vector),
        Step::Reset => msix.clear_pending(),
    }
}

proptest! {
    #[test]
    fn a_vector_delivers_exactly_while_it_is_enabled_and_unmasked(
        steps in prop::collection::vec(step(), 0..64),
    ) {
        let (hypervisor, msix) = msix();
        let mut model = Model::new();
        for step in &steps {
            apply(&msix, step);
            model.apply(step);

            let open: Vec<_> = (0..VECTORS).filter(|vector| model.is_open(*vector)).collect();
            let key = |message: &MsiMessage| (message.address, message.data);
            let mut connected: Vec<_> = hypervisor.connected().iter().map(key).collect();
            let mut expected: Vec<_> = open.iter().map(|v| key(&model.message(*v))).collect();
            connected.sort_unstable();
            expected.sort_unstable();
            prop_assert_eq!(connected, expected, "after {:?}", step);

            // KVM takes what is signalled at once.
            for vector in open {
                let delivered = msix.event(vector as u16).unwrap().read().is_ok();
                prop_assert_eq!(delivered, model.pending[vector], "{} after {:?}", vector, step);
                model.pending[vector] = false;
            }
            let bits = (0..VECTORS).filter(|vector| model.pending[*vector]);
            prop_assert_eq!(pba(&msix), bits.fold(0, |bits, vector| bits | 1 << vector));
            let mut table = [0xff; TABLE];
            msix.read_table(0, &mut table);
            prop_assert_eq!(&table[..], &model.table[..], "after {:?}", step);
        }
    }

    #[test]
    fn table_and_pending_bits_read_the_same_at_every_offset_and_size(
        steps in prop::collection::vec(step(), 0..32),
    ) {
        let (_hypervisor, msix) = msix();
        steps.iter().for_each(|step| apply(&msix, step));
        same_at_every_offset(&|offset, data| msix.read_table(offset, data), TABLE + 32);
        same_at_every_offset(&|offset, data| msix.read_pba(offset, data), 32);
    }
}

fn same_at_every_offset(read: &dyn Fn(u32, &mut [u8]), len: usize) {
    let byte = |offset| {
        let mut byte = [0xaa];
        read(offset, &mut byte);
        byte[0]
    };
    let whole: Vec<u8> = (0..len as u32).map(byte).collect();
    for size in [2, 4, 8] {
        for offset in 0..=len - size {
            let mut data = vec![0xaa; size];
            read(offset as u32, &mut data);
            assert_eq!(
                data,
                whole[offset..offset + size],
                "{size} bytes at {offset:#x}"
            );
        }
    }
}
