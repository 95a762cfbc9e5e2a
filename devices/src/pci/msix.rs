//! MSI-X (6.8.2): a vector is an eventfd that devices write to and that the hypervisor turns into the
//! guest's message while the vector is unmasked.
//!
//! A signal while the vector is masked stays in the eventfd, so the eventfd *is* the pending bit: nothing
//! is lost, and a back end in another process or in the kernel need not know of masks.

use std::{
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use crate::hypervisor::{Gsi, Hypervisor, MsiMessage};

/// Capability ID of MSI-X.
pub const CAPABILITY_ID: u8 = 0x11;
/// Offset of the Message Control register into the capability.
pub const MESSAGE_CONTROL: usize = 2;
/// Bytes of a table entry: message address, upper address, data, vector control.
pub const ENTRY_SIZE: u32 = 16;
/// Most vectors of a function.
pub const MAX_VECTORS: u16 = 2048;

const CONTROL_ENABLE: u16 = 1 << 15;
const CONTROL_FUNCTION_MASK: u16 = 1 << 14;
const VECTOR_CONTROL_MASK: u32 = 1;

/// The body of an MSI-X capability, and the bits of it that a driver writes, for
/// [`ConfigSpace::add_capability`](super::ConfigSpace::add_capability). Offsets are into BAR `bar` and
/// multiples of 8.
pub fn capability(vectors: u16, bar: u8, table: u32, pba: u32) -> ([u8; 10], [u8; 2]) {
    let mut body = [0; 10];
    body[..2].copy_from_slice(&vectors.saturating_sub(1).to_le_bytes());
    body[2..6].copy_from_slice(&(table | u32::from(bar)).to_le_bytes());
    body[6..].copy_from_slice(&(pba | u32::from(bar)).to_le_bytes());
    (body, (CONTROL_ENABLE | CONTROL_FUNCTION_MASK).to_le_bytes())
}

/// One vector.
struct Vector {
    event: Arc<EventFd>,
    /// Allocated when the driver first unmasks: most functions have more vectors than are used.
    gsi: Option<Gsi>,
    message: MsiMessage,
    control: u32,
    connected: Option<MsiMessage>,
}

impl Vector {
    /// The table entry as the driver sees it (6.8.2.6 to 6.8.2.9).
    fn entry(&self) -> [u8; 16] {
        let mut entry = [0; 16];
        entry[..8].copy_from_slice(&self.message.address.to_le_bytes());
        entry[8..12].copy_from_slice(&self.message.data.to_le_bytes());
        entry[12..].copy_from_slice(&self.control.to_le_bytes());
        entry
    }

    fn set_entry(&mut self, entry: [u8; 16]) {
        let word = |at: usize| u32::from_le_bytes([0, 1, 2, 3].map(|i| entry[at + i]));
        self.message = MsiMessage {
            // The two lowest bits of the address are reserved.
            address: u64::from(word(4)) << 32 | u64::from(word(0) & !3),
            data: word(8),
        };
        self.control = word(12) & VECTOR_CONTROL_MASK;
    }

    fn is_masked(&self) -> bool {
        self.control & VECTOR_CONTROL_MASK != 0
    }

    /// A count in an eventfd that nobody reads. Reading it is the only way to see it, so it is written
    /// back; a signal in between only adds to it.
    fn is_pending(&self) -> bool {
        self.connected.is_none()
            && match self.event.read() {
                Ok(count) => self.event.write(count).is_ok(),
                Err(_) => false,
            }
    }

    /// Makes the hypervisor deliver exactly when `deliver` and the mask bit say so.
    fn update(&mut self, hypervisor: &dyn Hypervisor, deliver: bool) -> io::Result<()> {
        let wanted = (deliver && !self.is_masked()).then_some(self.message);
        if wanted == self.connected {
            return Ok(());
        }
        match (wanted, self.gsi) {
            (Some(message), gsi) => {
                let gsi = match gsi {
                    Some(gsi) => gsi,
                    None => *self.gsi.insert(hypervisor.allocate_gsi()?),
                };
                hypervisor.connect_msi(gsi, &self.event, message)?;
            }
            (None, Some(gsi)) => hypervisor.disconnect_msi(gsi, &self.event)?,
            (None, None) => {}
        }
        self.connected = wanted;
        Ok(())
    }
}

struct State {
    vectors: Vec<Vector>,
    /// MSI-X Enable without Function Mask.
    deliver: bool,
    /// The log has been told of a hypervisor that refused.
    warned: bool,
}

/// The vectors of a function.
pub struct Msix {
    name: Arc<str>,
    hypervisor: Arc<dyn Hypervisor>,
    events: Vec<Arc<EventFd>>,
    state: Mutex<State>,
}

impl Msix {
    /// `vectors` vectors, all masked, MSI-X off; `name` is for the log.
    pub fn new(name: Arc<str>, vectors: u16, hypervisor: Arc<dyn Hypervisor>) -> io::Result<Self> {
        let events = (0..vectors)
            .map(|_| EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC).map(Arc::new))
            .collect::<io::Result<Vec<_>>>()?;
        let vectors = events
            .iter()
            .map(|event| Vector {
                event: event.clone(),
                gsi: None,
                message: MsiMessage::default(),
                control: VECTOR_CONTROL_MASK,
                connected: None,
            })
            .collect();
        Ok(Self {
            name,
            hypervisor,
            events,
            state: Mutex::new(State {
                vectors,
                deliver: false,
                warned: false,
            }),
        })
    }

    /// What a device writes to, to raise `vector`.
    pub fn event(&self, vector: u16) -> Option<&Arc<EventFd>> {
        self.events.get(usize::from(vector))
    }

    /// The driver wrote the Message Control register.
    pub fn set_control(&self, control: u16) {
        let mut state = self.lock();
        let deliver = control & (CONTROL_ENABLE | CONTROL_FUNCTION_MASK) == CONTROL_ENABLE;
        if std::mem::replace(&mut state.deliver, deliver) != deliver {
            for index in 0..state.vectors.len() {
                self.update(&mut state, index);
            }
        }
    }

    /// Reads the table from `offset` bytes into it; zero beyond its end.
    pub fn read_table(&self, offset: u32, data: &mut [u8]) {
        let state = self.lock();
        for (at, byte) in (offset as usize..).zip(data) {
            let entry = state.vectors.get(at / ENTRY_SIZE as usize);
            *byte = entry.map_or(0, |v| v.entry()[at % ENTRY_SIZE as usize]);
        }
    }

    /// Writes the table: aligned doublewords and quadwords, as software must (6.8.2); others do nothing.
    pub fn write_table(&self, offset: u32, data: &[u8]) {
        let offset = offset as usize;
        if !matches!(data.len(), 4 | 8) || !offset.is_multiple_of(data.len()) {
            return;
        }
        let (index, at) = (offset / ENTRY_SIZE as usize, offset % ENTRY_SIZE as usize);
        let mut state = self.lock();
        if let Some(vector) = state.vectors.get_mut(index) {
            let mut entry = vector.entry();
            entry[at..at + data.len()].copy_from_slice(data);
            vector.set_entry(entry);
            self.update(&mut state, index);
        }
    }

    /// Reads the pending bit array from `offset` bytes into it; zero beyond its end. It cannot be written.
    pub fn read_pba(&self, offset: u32, data: &mut [u8]) {
        let state = self.lock();
        for (at, byte) in (offset as usize..).zip(data) {
            let of_byte = state.vectors.iter().skip(at.saturating_mul(8)).take(8);
            *byte = (0..8)
                .zip(of_byte)
                .filter(|(_, vector)| vector.is_pending())
                .fold(0, |bits, (bit, _)| bits | 1 << bit);
        }
    }

    /// Forgets what is pending, as a reset of the device does.
    pub fn clear_pending(&self) {
        for vector in &self.lock().vectors {
            if vector.connected.is_none() {
                // An empty eventfd refuses to be read; then nothing was pending.
                let _ = vector.event.read();
            }
        }
    }

    fn update(&self, state: &mut State, index: usize) {
        let deliver = state.deliver;
        if let Some(vector) = state.vectors.get_mut(index)
            && let Err(error) = vector.update(&*self.hypervisor, deliver)
            && !std::mem::replace(&mut state.warned, true)
        {
            tracing::error!(
                device = %self.name,
                vector = index,
                %error,
                "cannot route an MSI-X vector; its interrupts are lost"
            );
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests;
