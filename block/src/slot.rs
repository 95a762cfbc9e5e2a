//! A request on its way: one operation after the other, until it can be answered.

use std::{io, mem, sync::Arc};

use minivmm_devices::{GuestMemory, virtio::queue::Buffer};
use vm_memory::{Bytes, GuestAddress};

use crate::{
    SEG_MAX,
    counters::add,
    device::OnEnospc,
    disk::{Disk, FLUSH},
    engine::{Action, Operation, Vectors},
    request::{Range, Wish},
};

/// Bytes that are copied at once where memory is not aligned as O_DIRECT wants it.
const BOUNCE: u64 = 64 << 10;
/// How often an operation that was interrupted is begun again.
const TRIES: u8 = 100;

/// What is to be done for a request next.
pub(crate) enum Step {
    /// This, and then ask again.
    Do(Operation),
    /// Nothing: it is answered.
    Answer(Answer),
    /// Nothing until the host has room.
    Wait,
}

/// How a request is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    Done,
    Failed,
}

/// Room for one request. Its lists are kept between requests.
pub(crate) struct Slot {
    pub(crate) head: u16,
    pub(crate) status: GuestAddress,
    pub(crate) wish: Wish,
    /// The guest's memory of a read or a write, without header and status.
    pub(crate) data: Vec<Buffer>,
    /// What a discard or a write of zeros is about.
    pub(crate) ranges: Vec<Range>,
    /// Every write is stable when it is answered.
    pub(crate) writethrough: bool,
    /// It has waited for room, and has got none since.
    pub(crate) waiting: bool,
    /// Bytes of the read, of the write or of the present range that are done.
    done: u64,
    /// The range that it is at.
    range: usize,
    means: Means,
    flushed: bool,
    tries: u8,
    vectors: Option<Vectors>,
}

/// How a range is made zeros: what the file system does not know is followed by the next one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Means {
    #[default]
    Punch,
    Zero,
    Write,
}

impl Slot {
    /// An empty one.
    pub(crate) fn new(memory: Arc<GuestMemory>) -> Self {
        Self {
            head: 0,
            status: GuestAddress(0),
            wish: Wish::Flush,
            data: Vec::new(),
            ranges: Vec::new(),
            writethrough: false,
            waiting: false,
            done: 0,
            range: 0,
            means: Means::Punch,
            flushed: false,
            tries: 0,
            vectors: Some(Vectors::new(memory)),
        }
    }

    /// Gets it ready for the request at `head`.
    pub(crate) fn begin(&mut self, head: u16, status: GuestAddress) {
        self.head = head;
        self.status = status;
        self.data.clear();
        self.ranges.clear();
        self.done = 0;
        self.range = 0;
        self.means = Means::Punch;
        self.flushed = false;
        self.tries = 0;
    }

    /// What comes next.
    pub(crate) fn step(&mut self, disk: &Disk, memory: &GuestMemory) -> Step {
        match self.wish {
            Wish::Read { offset, len } if self.done < len => {
                self.transfer(disk, memory, Action::Read, offset, len)
            }
            Wish::Write { offset, len } if self.done < len => {
                let stable = self.writethrough;
                self.transfer(disk, memory, Action::Write { stable }, offset, len)
            }
            Wish::Discard | Wish::Zeroes => self.next_range(),
            Wish::Flush if disk.is_unstable() => Step::Answer(Answer::Failed),
            Wish::Flush if !self.flushed => self.plain(Action::Flush, 0, 0),
            Wish::Read { .. } | Wish::Write { .. } | Wish::Flush | Wish::Id => {
                Step::Answer(Answer::Done)
            }
        }
    }

    fn transfer(
        &mut self,
        disk: &Disk,
        memory: &GuestMemory,
        action: Action,
        offset: u64,
        len: u64,
    ) -> Step {
        let Some(mut vectors) = self.vectors.take() else {
            return Step::Answer(Answer::Failed);
        };
        vectors.set_guest(&self.data, self.done);
        if let Some(align) = disk.direct
            && !vectors.is_aligned(align as usize)
        {
            let bytes = BOUNCE.min(len - self.done);
            vectors.set_own(bytes as usize);
            if let Action::Write { .. } = action {
                copy(memory, &self.data, self.done, vectors.own(), Way::FromGuest);
            }
        }
        Step::Do(Operation {
            action,
            offset: offset + self.done,
            len: 0,
            vectors,
        })
    }

    fn next_range(&mut self) -> Step {
        while let Some(range) = self.ranges.get(self.range).copied() {
            let (at, left) = (range.offset + self.done, range.len - self.done);
            if left == 0 {
                self.range += 1;
                self.done = 0;
                self.means = Means::Punch;
                continue;
            }
            if self.wish == Wish::Zeroes && !range.unmap && self.means == Means::Punch {
                self.means = Means::Zero;
            }
            return match self.means {
                Means::Punch => self.plain(Action::Punch, at, left),
                Means::Zero => self.plain(Action::Zero, at, left),
                Means::Write => {
                    let Some(mut vectors) = self.vectors.take() else {
                        return Step::Answer(Answer::Failed);
                    };
                    vectors.set_zeros(left, SEG_MAX);
                    Step::Do(Operation {
                        action: Action::Write { stable: false },
                        offset: at,
                        len: 0,
                        vectors,
                    })
                }
            };
        }
        match self.writethrough && !self.flushed {
            true => self.plain(Action::Flush, 0, 0),
            false => Step::Answer(Answer::Done),
        }
    }

    fn plain(&mut self, action: Action, offset: u64, len: u64) -> Step {
        match self.vectors.take() {
            Some(vectors) => Step::Do(Operation {
                action,
                offset,
                len,
                vectors,
            }),
            None => Step::Answer(Answer::Failed),
        }
    }

    /// Takes an operation back. None: [`step`](Self::step) says how it goes on.
    pub(crate) fn take(
        &mut self,
        operation: Operation,
        result: io::Result<u64>,
        disk: &Disk,
        memory: &GuestMemory,
    ) -> Option<Step> {
        let Operation {
            action,
            len,
            mut vectors,
            ..
        } = operation;
        let outcome = match result {
            Ok(bytes) => self.progress(action, bytes, len, &mut vectors, memory),
            Err(error) => self.trouble(action, &error, disk),
        };
        self.vectors = Some(vectors);
        outcome
    }

    fn progress(
        &mut self,
        action: Action,
        bytes: u64,
        len: u64,
        vectors: &mut Vectors,
        memory: &GuestMemory,
    ) -> Option<Step> {
        self.tries = 0;
        match action {
            // The file has become shorter than the disk.
            Action::Read | Action::Write { .. } if bytes == 0 => {
                return Some(Step::Answer(Answer::Failed));
            }
            Action::Read => {
                if vectors.is_own() {
                    let n = usize::try_from(bytes).unwrap_or(usize::MAX);
                    let read = vectors.own();
                    let n = n.min(read.len());
                    copy(memory, &self.data, self.done, &mut read[..n], Way::ToGuest);
                }
                self.done += bytes;
            }
            Action::Write { .. } => self.done += bytes,
            Action::Flush => self.flushed = true,
            Action::Punch | Action::Zero => self.done += len,
        }
        None
    }

    fn trouble(&mut self, action: Action, error: &io::Error, disk: &Disk) -> Option<Step> {
        let code = error.raw_os_error();
        if matches!(code, Some(libc::EINTR | libc::EAGAIN)) && self.tries < TRIES {
            self.tries += 1;
            return None;
        }
        let unknown = matches!(code, Some(libc::EOPNOTSUPP | libc::EINVAL | libc::ENOSYS));
        let (writes, what) = match action {
            Action::Read => (false, "read"),
            Action::Write { .. } => (true, "write"),
            // Never begun again: what the kernel could not write it forgets, and would say next time that all is well.
            Action::Flush => (false, FLUSH),
            Action::Punch | Action::Zero if unknown => {
                self.means = match (self.wish, self.means) {
                    // A discard says what is not needed; to keep it is right as well.
                    (Wish::Discard, _) => {
                        self.range += 1;
                        Means::Punch
                    }
                    (_, Means::Punch) => Means::Zero,
                    (_, _) => Means::Write,
                };
                return None;
            }
            Action::Punch | Action::Zero => (true, "make zeros"),
        };
        if writes && Disk::is_full(error) && disk.on_enospc == OnEnospc::Pause {
            return Some(Step::Wait);
        }
        disk.failed(what, error);
        Some(Step::Answer(Answer::Failed))
    }

    /// Counts what was done for the request.
    pub(crate) fn count(&self, disk: &Disk) {
        let counters = &disk.counters;
        match self.wish {
            Wish::Read { len, .. } => {
                add(&counters.reads, 1);
                add(&counters.read_bytes, len);
            }
            Wish::Write { len, .. } => {
                add(&counters.writes, 1);
                add(&counters.written_bytes, len);
            }
            Wish::Flush => add(&counters.flushes, 1),
            Wish::Discard | Wish::Zeroes => add(&counters.discards, 1),
            Wish::Id => {}
        }
    }

    /// Whether it waited for room until now.
    pub(crate) fn stop_waiting(&mut self) -> bool {
        mem::take(&mut self.waiting)
    }
}

enum Way {
    ToGuest,
    FromGuest,
}

/// Copies between `ours` and the guest's `data` after its first `skip` bytes. What does not exist, the kernel would not
/// have reached either.
fn copy(memory: &GuestMemory, data: &[Buffer], mut skip: u64, mut ours: &mut [u8], way: Way) {
    for buffer in data {
        let passed = skip.min(buffer.len.into());
        skip -= passed;
        let here = (u64::from(buffer.len) - passed) as usize;
        let (part, rest) = ours.split_at_mut(here.min(ours.len()));
        ours = rest;
        let address = GuestAddress(buffer.address.0 + passed);
        let _ = match way {
            Way::ToGuest => memory.write_slice(part, address),
            Way::FromGuest => memory.read_slice(part, address),
        };
    }
}

#[cfg(test)]
mod tests;
