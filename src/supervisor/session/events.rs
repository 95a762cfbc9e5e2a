//! What a session waits for, and what each event leads to.

use std::{os::fd::AsRawFd, time::Instant};

use event_manager::{EventOps, EventSet, Events, MutEventSubscriber};

use super::Session;

/// What an event is about. The virtiofsds, of which there are few, are counted from theirs on.
mod token {
    pub const WISH: u32 = 0;
    pub const HANGUP: u32 = 1;
    pub const CHANNEL: u32 = 2;
    pub const VMM: u32 = 3;
    pub const CHILDREN: u32 = 4;
    pub const REQUEST: u32 = 5;
    pub const VIRTIOFSD_OUTPUT: u32 = 0x100;
    pub const VIRTIOFSD_END: u32 = 0x200;
}

impl MutEventSubscriber for Session<'_> {
    fn init(&mut self, ops: &mut EventOps) {
        let mut sources = vec![
            (self.signals.wishes_fd(), token::WISH),
            (self.signals.hangups_fd(), token::HANGUP),
            (self.signals.children_fd(), token::CHILDREN),
            (self.signals.requests().as_raw_fd(), token::REQUEST),
            (self.channel.as_raw_fd(), token::CHANNEL),
            (self.vmm.pidfd.as_raw_fd(), token::VMM),
        ];
        for (n, (output, end)) in (0..).zip(self.backends.descriptors()) {
            sources.push((output, token::VIRTIOFSD_OUTPUT + n));
            sources.push((end, token::VIRTIOFSD_END + n));
        }
        for (fd, token) in sources {
            if let Err(error) = ops.add(Events::with_data_raw(fd, token, EventSet::IN)) {
                // A VM that nobody could stop does not run.
                self.fail(format!("cannot watch a descriptor: {error}"));
            }
        }
    }

    fn process(&mut self, events: Events, ops: &mut EventOps) {
        match events.data() {
            token::WISH => {
                for _ in 0..self.signals.wishes() {
                    self.asked();
                }
            }
            token::HANGUP => {
                self.signals.forget_hangups();
                self.hung_up();
            }
            token::REQUEST => self.serve(),
            token::CHILDREN => {
                self.signals.forget_children();
                self.backends.look(Instant::now());
            }
            token::CHANNEL => self.listen(ops),
            token::VMM => self.reap(),
            n if n >= token::VIRTIOFSD_END => {
                self.virtiofsd_ended((n - token::VIRTIOFSD_END) as usize, ops);
            }
            n => {
                if !self
                    .backends
                    .log_output(n.saturating_sub(token::VIRTIOFSD_OUTPUT) as usize)
                {
                    let _ = ops.remove(Events::empty_raw(events.fd()));
                }
            }
        }
    }
}
