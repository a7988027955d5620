//! What goes wrong, and when it can.

use crate::actions::Action;
use crate::protocol::Protocol;
use crate::state::{Process, Reconciler, State, Status, Step, WORKERS};

/// Which faults happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    Any,
    /// Those that use up attempts, so that there can be more of them.
    Attempts,
    /// Processes die.
    Crashes,
    /// The other application completes a run while this one gives it back.
    Outside,
    /// An id is given to another run, whatever became of the one before.
    GivenAgain,
}

impl Scope {
    pub fn has(self, fault: Action) -> bool {
        match self {
            Self::Any => !matches!(fault, Action::GivenAgain(_)),
            Self::Attempts => matches!(
                fault,
                Action::Crash(_) | Action::Pause(_) | Action::CompleteReplyLost(_)
            ),
            Self::Crashes => matches!(fault, Action::Crash(_)),
            Self::GivenAgain => matches!(
                fault,
                Action::GivenAgain(_)
                    | Action::Crash(_)
                    | Action::Pause(_)
                    | Action::Throttle(_)
                    | Action::HintDuplicated(_)
            ),
            Self::Outside => matches!(fault, Action::CompletedOutside(_) | Action::Fail(_)),
        }
    }
}

impl Protocol {
    /// Every fault that can happen now.
    pub fn fault_steps(&self, s: &State, steps: &mut Vec<Action>) {
        for w in 0..WORKERS {
            faults_of_worker(s, w, steps);
        }
        for r in 0..self.runs {
            let run = &s.runs[r];
            if run.unsent {
                steps.push(Action::ProducerCrash(r));
            }
            if run.hints > 0 {
                steps.extend([Action::HintLost(r), Action::HandedOver(r)]);
            }
            steps.push(Action::HintDuplicated(r));
            if run.open.is_some_and(|open| !open.overdue) {
                steps.push(Action::Overrun(r));
            }
            match run.status {
                Status::Queued => {
                    steps.extend([Action::StartedOutside(r), Action::CompletedOutside(r)]);
                }
                Status::Running => {
                    steps.extend([Action::RequeuedOutside(r), Action::CompletedOutside(r)]);
                }
                Status::Absent | Status::Completed => {}
            }
            if run.status != Status::Absent {
                steps.push(Action::GivenAgain(r));
            }
        }
        if s.reconciler != Reconciler::Idle {
            steps.push(Action::ReconcilerCrash);
        }
        if s.depth() > 0 {
            steps.push(Action::QueueWiped);
        }
        if !s.queue_away {
            steps.push(Action::QueueAway);
        }
    }
}

fn faults_of_worker(s: &State, w: usize, steps: &mut Vec<Action>) {
    let worker = &s.workers[w];
    if worker.process != Process::Up {
        return;
    }
    steps.push(Action::Crash(w));
    // A process that nobody resumes must leave another one: that is the promise's condition.
    if s.workers.iter().all(|w| w.process != Process::Paused) {
        steps.push(Action::Pause(w));
    }
    if !worker.fenced {
        steps.push(Action::Cut(w));
    }
    if !worker.stopping {
        steps.push(Action::Terminate(w));
    }
    for (k, step) in worker.slots.iter().enumerate() {
        let slot = (w, k);
        match step {
            Step::Idle | Step::SeenQueued(_) | Step::SeenCurrent(_) | Step::Unnoted(_) => {}
            Step::Fetched(_) => {
                steps.extend([Action::FetchedHintLost(slot), Action::ClaimReplyLost(slot)]);
            }
            Step::Waiting(_) => {
                if worker.is_isolated() {
                    steps.push(Action::ClaimReplyLost(slot));
                }
            }
            Step::Claimed(claim) => {
                steps.extend([Action::Lose(slot), Action::Fail(slot)]);
                if claim.exhausted {
                    steps.push(Action::CompleteReplyLost(slot));
                }
            }
            Step::Answered(_) => steps.extend([
                Action::Lose(slot),
                Action::Fail(slot),
                Action::Throttle(slot),
                Action::CompleteReplyLost(slot),
                Action::ReleaseReplyLost(slot),
            ]),
        }
    }
}
