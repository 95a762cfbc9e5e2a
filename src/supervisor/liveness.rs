//! Whether the VMM comes round: its main loop, and every vCPU thread.

use std::time::Instant;

use crate::protocol::ToVmm;

/// The questions of one run, and when the last one was answered.
#[derive(Debug)]
pub struct Liveness {
    asked: u64,
    answered: u64,
    last: Instant,
}

impl Liveness {
    /// Nothing asked; a VMM that is new at `now` counts as alive then.
    pub fn new(now: Instant) -> Self {
        Self {
            asked: 0,
            answered: 0,
            last: now,
        }
    }

    /// The next question. Asked again before the answer, only the last one is answered.
    #[allow(dead_code, reason = "asked for the host's watchdog")]
    pub fn ask(&mut self) -> ToVmm {
        self.asked += 1;
        ToVmm::Ping { id: self.asked }
    }

    /// An answer, which counts if it is to the last question.
    pub fn heard(&mut self, id: u64, now: Instant) {
        if id == self.asked && self.answered != id {
            self.answered = id;
            self.last = now;
        }
    }

    /// When it was last known to come round.
    #[allow(dead_code, reason = "asked for the host's watchdog")]
    pub fn last(&self) -> Instant {
        self.last
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn only_an_answer_to_the_last_question_counts_and_once() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut liveness = Liveness::new(start);
        liveness.heard(1, at(1));
        assert_eq!(liveness.last(), start, "nobody had asked");
        assert!(matches!(liveness.ask(), ToVmm::Ping { id: 1 }));
        assert!(matches!(liveness.ask(), ToVmm::Ping { id: 2 }));
        liveness.heard(1, at(2));
        assert_eq!(liveness.last(), start);
        liveness.heard(2, at(3));
        liveness.heard(2, at(4));
        assert_eq!(liveness.last(), at(3));
    }
}
