//! What clients of the control socket want of the VM: from the control thread to the supervisor's loop, and the answers
//! back.

use std::{
    collections::VecDeque,
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use rustix::event::{EventfdFlags, eventfd};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Requests that wait for the loop at most; a connection has one at a time.
const MOST: usize = 32;

/// What a client wants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wish {
    /// That the guest shuts down, within the time if there is one, else within `lifecycle.stop_timeout`.
    Stop {
        /// Replaces the configuration's time.
        timeout: Option<Duration>,
    },
    /// That the VM ends at once.
    Kill,
    /// One press of the power button.
    PowerButton,
    /// That the guest stands still; answered when it does.
    Pause,
    /// That it goes on; answered when it does.
    Resume,
    /// That the VM ends and starts again.
    Reboot {
        /// At once, without the guest's doing.
        force: bool,
    },
    /// What is known of the balloon.
    Balloon {
        /// MiB that are wanted in it from now on.
        size: Option<u32>,
        /// Whether the guest is asked for its statistics.
        statistics: bool,
    },
    /// What has been counted, as OpenMetrics text.
    Metrics,
    /// To be told how the VM ended, when it has for good.
    AwaitEnd,
}

/// How a VM has ended for good.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ended {
    /// In words.
    pub end: String,
    /// What `minivmm run` ends with.
    pub exit_code: u8,
}

/// What a client wants, and the way to tell it what came of it.
#[derive(Debug)]
pub struct Request {
    /// What it wants.
    pub wish: Wish,
    /// To be given once.
    pub answer: Answer,
}

/// Why a request is not fulfilled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The error's name in the interface, as `NotRunning`.
    pub error: &'static str,
    /// For a person.
    pub message: String,
}

impl Refusal {
    /// The VM is not in a state for it.
    pub fn not_now(message: impl Into<String>) -> Self {
        Self {
            error: "NotNow",
            message: message.into(),
        }
    }

    /// The VM has no such thing, or not as much of it.
    pub fn not_possible(message: impl Into<String>) -> Self {
        Self {
            error: "NotPossible",
            message: message.into(),
        }
    }
}

/// What came of a request.
pub type Outcome = Result<Value, Refusal>;

/// The way back to the connection that a request came from. Dropped without an answer, it says that the VM has ended.
#[derive(Debug)]
pub struct Answer {
    /// The connection's number.
    connection: u64,
    answers: Option<Arc<Answers>>,
}

impl Answer {
    /// For the connection with this number.
    pub fn new(connection: u64, answers: Arc<Answers>) -> Self {
        Self {
            connection,
            answers: Some(answers),
        }
    }

    /// It is done.
    pub fn done(self) {
        self.ok(&serde_json::Map::new());
    }

    /// It is done, and this is what the client is told.
    pub fn ok(self, reply: &impl Serialize) {
        self.give(serde_json::to_value(reply).map_err(|error| Refusal::not_now(error.to_string())));
    }

    /// It is not done.
    pub fn refuse(self, refusal: Refusal) {
        self.give(Err(refusal));
    }

    fn give(mut self, outcome: Outcome) {
        if let Some(answers) = self.answers.take() {
            answers.put(self.connection, outcome);
        }
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        if let Some(answers) = self.answers.take() {
            answers.put(self.connection, Err(Refusal::not_now("the VM has ended")));
        }
    }
}

/// Requests on their way to the loop.
#[derive(Debug)]
pub struct Requests {
    queue: Mutex<VecDeque<Request>>,
    /// Those who wait for the VM's end; a connection waits for one thing at a time.
    until_end: Mutex<Vec<Answer>>,
    event: OwnedFd,
}

impl Requests {
    /// None yet.
    pub fn new() -> io::Result<Arc<Self>> {
        Ok(Arc::new(Self {
            queue: Mutex::default(),
            until_end: Mutex::default(),
            event: event()?,
        }))
    }

    /// Puts a request to the others.
    pub fn put(&self, request: Request) {
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        if queue.len() >= MOST {
            drop(queue);
            return request
                .answer
                .refuse(Refusal::not_now("too many requests are waiting"));
        }
        queue.push_back(request);
        drop(queue);
        signal(&self.event);
    }

    /// All requests that wait, in their order.
    pub fn take(&self) -> VecDeque<Request> {
        quiet(&self.event);
        std::mem::take(&mut *self.queue.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Takes the requests that are possible while no guest runs, and answers the others; says whether somebody wants
    /// the VM's end.
    pub fn wants_end(&self) -> bool {
        let mut end = false;
        for request in self.take() {
            match request.wish {
                Wish::Stop { .. } | Wish::Kill => {
                    end = true;
                    request.answer.done();
                }
                Wish::AwaitEnd => self.await_end(request.answer),
                Wish::PowerButton
                | Wish::Pause
                | Wish::Resume
                | Wish::Metrics
                | Wish::Balloon { .. }
                | Wish::Reboot { .. } => request
                    .answer
                    .refuse(Refusal::not_now("no guest runs: the VM is about to start")),
            }
        }
        end
    }

    /// Keeps an answer for the VM's end.
    pub fn await_end(&self, answer: Answer) {
        let mut waiting = self.lock_until_end();
        if waiting.len() >= MOST {
            // Clients that are gone are not told from those that wait.
            waiting.remove(0);
        }
        waiting.push(answer);
    }

    /// Tells those who wait that the VM has ended for good, those among them whom nobody has heard yet.
    pub fn ended(&self, ended: &Ended) {
        for request in self.take() {
            if request.wish == Wish::AwaitEnd {
                self.await_end(request.answer);
            }
        }
        for answer in std::mem::take(&mut *self.lock_until_end()) {
            answer.ok(ended);
        }
    }

    fn lock_until_end(&self) -> MutexGuard<'_, Vec<Answer>> {
        self.until_end
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// Readable while requests wait.
impl AsFd for Requests {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }
}

impl AsRawFd for Requests {
    fn as_raw_fd(&self) -> RawFd {
        self.event.as_raw_fd()
    }
}

/// Answers on their way to the control thread.
#[derive(Debug)]
pub struct Answers {
    queue: Mutex<Vec<(u64, Outcome)>>,
    event: OwnedFd,
}

impl Answers {
    /// None yet.
    pub fn new() -> io::Result<Arc<Self>> {
        Ok(Arc::new(Self {
            queue: Mutex::default(),
            event: event()?,
        }))
    }

    fn put(&self, connection: u64, outcome: Outcome) {
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        queue.push((connection, outcome));
        drop(queue);
        signal(&self.event);
    }

    /// All answers that wait, with the numbers of their connections.
    pub fn take(&self) -> Vec<(u64, Outcome)> {
        quiet(&self.event);
        std::mem::take(&mut *self.queue.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Wakes the control thread, with or without an answer.
    pub fn wake(&self) {
        signal(&self.event);
    }
}

/// Readable while answers wait.
impl AsFd for Answers {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }
}

fn event() -> io::Result<OwnedFd> {
    Ok(eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)?)
}

fn signal(event: &OwnedFd) {
    // A full counter is readable, which is all that counts.
    let _ = rustix::io::write(event, &1_u64.to_ne_bytes());
}

fn quiet(event: &OwnedFd) {
    // An empty one refuses to be read.
    let _ = rustix::io::read(event, &mut [0_u8; 8]);
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_request_that_nobody_answers_is_answered() {
        let (requests, answers) = (Requests::new().unwrap(), Answers::new().unwrap());
        requests.put(Request {
            wish: Wish::Kill,
            answer: Answer::new(7, answers.clone()),
        });
        drop(requests.take());
        let refusal = Refusal::not_now("the VM has ended");
        assert_eq!(answers.take(), [(7, Err(refusal))]);
    }

    #[test]
    fn a_vm_without_a_guest_can_be_ended_and_nothing_else() {
        let (requests, answers) = (Requests::new().unwrap(), Answers::new().unwrap());
        let put = |wish, n| {
            let answer = Answer::new(n, answers.clone());
            requests.put(Request { wish, answer });
        };
        put(Wish::PowerButton, 1);
        assert!(!requests.wants_end());
        assert!(answers.take()[0].1.is_err());
        put(Wish::AwaitEnd, 3);
        assert!(!requests.wants_end());
        assert!(answers.take().is_empty());
        put(Wish::Stop { timeout: None }, 2);
        assert!(requests.wants_end());
        assert!(answers.take()[0].1.is_ok());
        assert!(!requests.wants_end());
        let ended = Ended {
            end: "the guest powered off".into(),
            exit_code: 0,
        };
        requests.ended(&ended);
        assert_eq!(
            answers.take(),
            [(3, Ok(serde_json::to_value(ended).unwrap()))]
        );
    }

    #[test]
    fn only_so_many_wait_for_the_end() {
        let (requests, answers) = (Requests::new().unwrap(), Answers::new().unwrap());
        for n in 0..=MOST as u64 {
            requests.await_end(Answer::new(n, answers.clone()));
        }
        assert!(matches!(answers.take()[..], [(0, Err(_))]));
    }

    #[test]
    fn a_flood_of_requests_is_refused() {
        let (requests, answers) = (Requests::new().unwrap(), Answers::new().unwrap());
        for n in 0..=MOST as u64 {
            let answer = Answer::new(n, answers.clone());
            requests.put(Request {
                wish: Wish::PowerButton,
                answer,
            });
        }
        assert_eq!(answers.take().len(), 1);
        assert_eq!(requests.take().len(), MOST);
    }
}
