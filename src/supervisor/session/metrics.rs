//! Who has asked for metrics, and is answered when the VMM has said what it has counted.

use std::{collections::VecDeque, time::Instant};

use minivmm_vmm::Metrics;

use super::Session;
use crate::{
    metrics::{text, textfile::Textfile},
    protocol::ToVmm,
    requests::{Answer, Refusal},
};

/// Who waits at most: there are no more connections.
const MOST: usize = 16;

/// What the VMM was asked and has not answered.
#[derive(Debug)]
pub(super) struct Asked {
    textfile: Option<Textfile>,
    last: u64,
    waiting: VecDeque<(u64, For)>,
}

#[derive(Debug)]
enum For {
    Client(Answer),
    Textfile,
}

impl Asked {
    pub(super) fn new(textfile: Option<Textfile>) -> Self {
        Self {
            textfile,
            last: 0,
            waiting: VecDeque::new(),
        }
    }

    fn ask(&mut self, whom: For) -> ToVmm {
        self.last += 1;
        self.waiting.push_back((self.last, whom));
        ToVmm::Metrics { id: self.last }
    }

    /// Who has asked the question `id`. What came before it is not answered any more.
    fn answered(&mut self, id: u64) -> Option<For> {
        while let Some((asked, whom)) = self.waiting.pop_front() {
            if asked == id {
                return Some(whom);
            }
            if asked > id {
                self.waiting.push_front((asked, whom));
                break;
            }
        }
        None
    }
}

impl Session<'_> {
    /// A client wants the metrics.
    pub(super) fn ask_metrics(&mut self, answer: Answer) {
        if self.questions.waiting.len() >= MOST {
            return answer.refuse(Refusal::not_now("the VMM does not answer"));
        }
        let question = self.questions.ask(For::Client(answer));
        self.tell(&question);
    }

    /// Has the textfile written if it is time; says when to look again. Not before the guest runs: the VMM has its hands
    /// full, and nothing has been counted.
    pub(super) fn textfile_due(&mut self, now: Instant) -> Option<Instant> {
        self.running?;
        let due = self.questions.textfile.as_mut()?.is_due(now);
        let idle = !self
            .questions
            .waiting
            .iter()
            .any(|(_, whom)| matches!(whom, For::Textfile));
        if due && idle {
            let question = self.questions.ask(For::Textfile);
            self.tell(&question);
        }
        self.questions.textfile.as_ref().map(Textfile::next)
    }

    /// The VMM has answered. What nobody has asked is ignored.
    pub(super) fn metrics_came(&mut self, id: u64, metrics: Metrics) {
        let Some(whom) = self.questions.answered(id) else {
            return;
        };
        let text = text(self.board.status(), Some(metrics));
        match whom {
            For::Client(answer) => answer.ok(&serde_json::json!({ "text": text })),
            For::Textfile => {
                if let Some(file) = &mut self.questions.textfile {
                    file.write(&text);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_for_who_has_asked_and_once() {
        let mut asked = Asked::new(None);
        for _ in 0..3 {
            asked.ask(For::Textfile);
        }
        assert!(asked.answered(0).is_none());
        assert!(asked.answered(2).is_some());
        assert!(asked.answered(2).is_none());
        assert!(asked.answered(1).is_none());
        assert!(asked.answered(7).is_none());
        assert!(asked.waiting.is_empty());
    }
}
