//! Whether the VMM comes round: its main loop, and every vCPU thread.

use crate::protocol::ToVmm;

/// The questions of one run.
#[derive(Debug, Default)]
pub struct Liveness {
    asked: u64,
    answered: u64,
}

impl Liveness {
    /// The next question. Asked again before the answer, only the last one is answered.
    pub fn ask(&mut self) -> ToVmm {
        self.asked += 1;
        ToVmm::Ping { id: self.asked }
    }

    /// An answer; says whether it is one to the last question, and the first: an older one says nothing about now.
    pub fn heard(&mut self, id: u64) -> bool {
        let counts = id == self.asked && self.answered != id;
        if counts {
            self.answered = id;
        }
        counts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_answer_to_the_last_question_counts_and_once() {
        let mut liveness = Liveness::default();
        assert!(!liveness.heard(0) && !liveness.heard(1), "nobody had asked");
        assert!(matches!(liveness.ask(), ToVmm::Ping { id: 1 }));
        assert!(matches!(liveness.ask(), ToVmm::Ping { id: 2 }));
        assert!(!liveness.heard(1));
        assert!(liveness.heard(2));
        assert!(!liveness.heard(2));
    }
}
