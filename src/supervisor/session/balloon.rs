//! Who wants something of the balloon, and is answered when the VMM has said what is known of it.

use minivmm_vmm::BalloonReport;

use super::Session;
use crate::{
    protocol::ToVmm,
    requests::{Answer, Refusal},
    usage,
};

/// Who waits at most: there are no more connections.
const MOST: usize = 32;

/// What the VMM was asked and has not answered. It answers what needs the guest later than the rest.
#[derive(Debug, Default)]
pub(super) struct Questions {
    last: u64,
    waiting: Vec<(u64, Answer)>,
}

impl Session<'_> {
    /// A client wants `size` MiB in the balloon, or to know of it: with or without the guest's statistics.
    pub(super) fn balloon(&mut self, size: Option<u32>, statistics: bool, answer: Answer) {
        if let Err(refusal) = self.balloon_refusal(size) {
            return answer.refuse(refusal);
        }
        let id = self.balloon_questions.last + 1;
        self.balloon_questions.last = id;
        self.balloon_questions.waiting.push((id, answer));
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
        let Some(place) = waiting.iter().position(|(asked, _)| *asked == id) else {
            return;
        };
        let (_, answer) = waiting.remove(place);
        let Some(mut report) = report else {
            return answer.refuse(Refusal::not_now("the VMM knows of no balloon"));
        };
        // As in the metrics: of private memory, what the process has.
        let resident = || usage::resident(self.vmm.pid);
        report.resident_bytes = report.resident_bytes.or_else(resident);
        answer.ok(&serde_json::json!({ "balloon": report }));
    }
}
