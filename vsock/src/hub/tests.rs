//! The hub with real sockets, under an event loop that only looks whether it would ever come to rest.
#![allow(clippy::unwrap_used)]

use std::{
    io::{Read, Write},
    net::Shutdown,
    os::fd::AsFd,
    sync::Mutex,
    time::Duration,
};

use proptest::prelude::*;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::*;
use crate::{BUFFER, CONNECTIONS, connector::Answer, ports::Ports};

const CID: u64 = 3;

/// What happens, from either side.
#[derive(Clone, Debug)]
enum Step {
    /// A packet of the guest: host's port, guest's port, operation, flags, bytes, its room, what it has taken.
    Packet(usize, u32, u16, u32, usize, u32, u32),
    /// The guest takes so many packets.
    Take(usize),
    /// A client connects and says something.
    Client(usize),
    /// The host answers for the guest's streams.
    Answer(bool),
    /// Something at the host's end of a stream.
    Write(usize, usize),
    Read(usize),
    Shut(usize, bool),
    Close(usize),
    /// Time passes.
    Wait,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (0..5_usize, 0..3_u32, 0..9_u16, 0..4_u32, 0..BUFFER as usize, 0..0x3000_u32, 0..0x3000_u32)
            .prop_map(|(h, g, op, f, n, b, c)| Step::Packet(h, g, op, f, n, b, c)),
        3 => (1..20_usize).prop_map(Step::Take),
        2 => (0..4_usize).prop_map(Step::Client),
        1 => any::<bool>().prop_map(Step::Answer),
        2 => (any::<usize>(), 1..30_000_usize).prop_map(|(i, n)| Step::Write(i, n)),
        1 => any::<usize>().prop_map(Step::Read),
        1 => (any::<usize>(), any::<bool>()).prop_map(|(i, how)| Step::Shut(i, how)),
        1 => any::<usize>().prop_map(Step::Close),
        1 => Just(Step::Wait),
    ]
}

/// Sets of events, as the kernel has them.
const PAIRS: [(PollFlags, EventSet); 4] = [
    (PollFlags::IN, EventSet::IN),
    (PollFlags::OUT, EventSet::OUT),
    (PollFlags::HUP, EventSet::HANG_UP),
    (PollFlags::ERR, EventSet::ERROR),
];

/// What an event loop would say of a descriptor.
fn ready(fd: &impl AsFd, interest: EventSet) -> EventSet {
    let wanted = PAIRS.iter().filter(|(_, set)| interest.contains(*set));
    let wanted = wanted.fold(PollFlags::empty(), |all, (flag, _)| all | *flag);
    let mut fds = [PollFd::new(fd, wanted)];
    poll(&mut fds, Some(&Timespec::default())).unwrap();
    let seen = fds[0].revents();
    let seen = PAIRS.iter().filter(|(flag, _)| seen.contains(*flag));
    seen.fold(EventSet::empty(), |all, (_, set)| all | *set)
}

struct World {
    hub: Hub,
    asked: Arc<Mutex<Vec<u64>>>,
    /// The host's ends.
    ends: Vec<UnixStream>,
    now: Instant,
}

impl World {
    fn new() -> Self {
        let asked = Arc::new(Mutex::new(Vec::new()));
        let list = asked.clone();
        let rules = Rules {
            cid: CID,
            to_guest: Ports::from_iter([22]),
            to_host: Ports::from_iter([9000]),
            ask: Box::new(move |id, port| {
                assert_eq!(port, 9000);
                list.lock().unwrap().push(id);
                true
            }),
            on_notify: Some(Box::new(|text| {
                assert!((1..=crate::NOTIFY_TEXT).contains(&text.len()));
            })),
        };
        let now = Instant::now();
        Self {
            hub: Hub::new(Arc::new(rules), 0, now),
            asked,
            ends: Vec::new(),
            now,
        }
    }

    fn end(&mut self, index: usize) -> Option<&mut UnixStream> {
        let count = self.ends.len();
        self.ends.get_mut(index.checked_rem(count)?)
    }

    /// A stream's other end.
    fn pair(&mut self) -> UnixStream {
        let (ours, theirs) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        self.ends.push(ours);
        theirs
    }

    fn step(&mut self, step: &Step) {
        match *step {
            Step::Packet(host, guest, op, flags, len, buf_alloc, fwd_cnt) => {
                if !self.hub.can_receive() {
                    return;
                }
                let header = Header {
                    src_cid: CID,
                    dst_cid: HOST_CID,
                    src_port: [22, 1000, 1001][guest as usize],
                    dst_port: [9000, NOTIFY_PORT, 9001, (1 << 30) + 1, (1 << 30) + 2][host],
                    len: len as u32,
                    kind: STREAM,
                    op,
                    flags,
                    buf_alloc,
                    fwd_cnt,
                };
                self.hub.receive(self.now, &header, &vec![1; len]);
            }
            Step::Take(count) => {
                let mut room = vec![0; 4096];
                for _ in 0..count {
                    let Some(header) = self.hub.next_packet(&mut room) else {
                        break;
                    };
                    assert_eq!((header.src_cid, header.dst_cid), (HOST_CID, CID));
                    assert!(header.len as usize <= room.len());
                    assert!(Op::new(header.op).is_some());
                }
            }
            Step::Client(line) => {
                let lines = ["CONNECT 22\n", "CONNECT 22\nearly", "CONN", "CONNECT 23\n"];
                let stream = self.pair();
                let _ = self.ends.last().unwrap().write(lines[line].as_bytes());
                self.hub.accept(self.now, stream);
            }
            Step::Answer(good) => {
                let asked = std::mem::take(&mut *self.asked.lock().unwrap());
                let answers = asked.into_iter().map(|id| Answer {
                    id,
                    stream: good.then(|| self.pair()),
                });
                let answers = answers.collect();
                self.hub.answered(answers);
            }
            Step::Write(index, len) => {
                if let Some(end) = self.end(index) {
                    let _ = end.write(&vec![2; len]);
                }
            }
            Step::Read(index) => {
                if let Some(end) = self.end(index) {
                    let _ = end.read(&mut [0; 50_000]);
                }
            }
            Step::Shut(index, write) => {
                let how = if write {
                    Shutdown::Write
                } else {
                    Shutdown::Read
                };
                if let Some(end) = self.end(index) {
                    let _ = end.shutdown(how);
                }
            }
            Step::Close(index) => {
                if let Some(index) = index.checked_rem(self.ends.len()) {
                    self.ends.swap_remove(index);
                }
            }
            Step::Wait => {
                self.now += Duration::from_secs(3);
                self.hub.expire(self.now);
            }
        }
    }

    /// Delivers what an event loop would; says of how many streams it would wake.
    fn turn(&mut self) -> usize {
        let tokens: Vec<Token> = self.hub.table.entries().map(|(token, _)| token).collect();
        let mut woken = 0;
        for token in tokens {
            let Some((Some(interest), stream)) = self.hub.interest(token) else {
                continue;
            };
            let events = ready(stream, interest);
            if !events.is_empty() {
                woken += 1;
                self.hub.on_events(self.now, token, events);
            }
        }
        drop(self.hub.take_closed());
        self.hub.take_changed();
        woken
    }

    fn check(&mut self) {
        let tokens: Vec<Token> = self.hub.table.entries().map(|(token, _)| token).collect();
        assert!(tokens.len() <= CONNECTIONS);
        assert!(self.hub.resets.len() <= RESETS + CONNECTIONS);
        assert!(self.hub.ready.len() <= CONNECTIONS);
        for token in tokens {
            if let Some(Entry::Connection(connection)) = self.hub.table.get_mut(token) {
                assert!(connection.kept() <= BUFFER as usize);
                let queued = self.hub.ready.contains(&token);
                // One that has lost its packet may still stand there.
                assert!(!connection.has_packet() || queued, "{connection:?}");
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// Whatever both sides do: the limits hold, and when nothing happens any more nobody is woken, whether the guest takes
    /// its packets or not.
    #[test]
    fn every_course_of_things_comes_to_rest(
        steps in proptest::collection::vec(step(), 1..120),
        takes: bool,
    ) {
        let mut world = World::new();
        for step in &steps {
            world.step(step);
            world.turn();
            world.check();
        }
        // A turn may free the next one: a client's line, its bytes, its end.
        let mut turns = 0;
        loop {
            let woken = world.turn();
            world.check();
            if takes {
                world.step(&Step::Take(10_000));
                world.check();
            }
            if woken == 0 {
                break;
            }
            turns += 1;
            prop_assert!(turns < 100, "{woken} streams wake the thread without end");
        }
        prop_assert!(!takes || !world.hub.may_have_packet());
        world.hub.close();
        world.turn();
        prop_assert_eq!(world.hub.table.entries().count(), 0);
        prop_assert_eq!(world.hub.deadline(), None);
    }
}
