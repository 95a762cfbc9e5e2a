//! Who wants something of the balloon, and is answered when the VMM has said what is known of it.

use std::time::{Duration, Instant};

use minivmm_vmm::BalloonReport;

use super::Session;
use crate::{
    protocol::ToVmm,
    requests::{Answer, Refusal},
    usage,
};

/// Who waits at most.
const MOST: usize = 32;

/// The VMM answers within a second. A question or an answer that was lost, as to a VMM that did not take its messages, does
/// not keep its place for longer than this.
const PATIENCE: Duration = Duration::from_secs(5);

/// What the VMM was asked and has not answered. It answers what needs the guest later than the rest.
#[derive(Debug, Default)]
pub(super) struct Questions {
    last: u64,
    waiting: Vec<Question>,
}

#[derive(Debug)]
struct Question {
    id: u64,
    asked: Instant,
    answer: Answer,
}

impl Questions {
    /// Refuses those that have waited for too long.
    fn give_up(&mut self) {
        let late = |question: &mut Question| question.asked.elapsed() > PATIENCE;
        for Question { answer, .. } in self.waiting.extract_if(.., late) {
            answer.refuse(Refusal::not_now("the VMM does not answer"));
        }
    }
}

impl Session<'_> {
    /// A client wants `size` MiB in the balloon, or to know of it: with or without the guest's statistics.
    pub(super) fn balloon(&mut self, size: Option<u32>, statistics: bool, answer: Answer) {
        self.balloon_questions.give_up();
        if let Err(refusal) = self.balloon_refusal(size) {
            return answer.refuse(refusal);
        }
        let id = self.balloon_questions.last + 1;
        self.balloon_questions.last = id;
        self.balloon_questions.waiting.push(Question {
            id,
            asked: Instant::now(),
            answer,
        });
        if let Some(mib) = size {
            tracing::info!("{mib} MiB are wanted in the balloon");
        }
        let size_bytes = size.map(|mib| u64::from(mib) << 20);
        self.tell(&ToVmm::Balloon {
            id,
            size_bytes,
            statistics,
        });
    }

    fn balloon_refusal(&self, size: Option<u32>) -> Result<(), Refusal> {
        if !self.config.balloon.enabled {
            let why = "the VM has no balloon: its configuration has `enabled = false` in [balloon]";
            return Err(Refusal::not_possible(why));
        }
        let mem = self.config.mem;
        if let Some(size) = size.filter(|size| *size > mem) {
            let why = format!("{size} MiB are more than the {mem} MiB of memory that the VM has");
            return Err(Refusal::not_possible(why));
        }
        if self.running.is_none() {
            return Err(Refusal::not_now("the VM does not run yet"));
        }
        if self.balloon_questions.waiting.len() >= MOST {
            return Err(Refusal::not_now("the VMM does not answer"));
        }
        Ok(())
    }

    /// The VMM has answered. What nobody has asked is ignored.
    pub(super) fn balloon_came(&mut self, id: u64, report: Option<BalloonReport>) {
        let waiting = &mut self.balloon_questions.waiting;
        let Some(place) = waiting.iter().position(|question| question.id == id) else {
            return;
        };
        let Question { answer, .. } = waiting.remove(place);
        let Some(mut report) = report else {
            return answer.refuse(Refusal::not_now("the VMM knows of no balloon"));
        };
        // As in the metrics: of private memory, what the process has.
        let resident = || usage::resident(self.vmm.pid);
        report.resident_bytes = report.resident_bytes.or_else(resident);
        answer.ok(&serde_json::json!({ "balloon": report }));
    }
}
