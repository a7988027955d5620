//! What the steps of producers, workers and the reconciler do, as `src/engine` makes them, and when each can happen.

use crate::actions::{Action, Kind, Slot};
use crate::faults::Scope;
use crate::history;
use crate::state::{
    Answer, Claim, Delivered, Delivery, Heartbeat, Holder, Process, RUNS, Reconciler, State,
    Status, Step, WORKERS,
};
use crate::store::{End, Mechanism, Store, send};
use stateright::{Model, Property};

/// When the first run kills each worker that works on it. A forced completion reads nothing of it, and so
/// is not killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Poison {
    /// While the provider is asked.
    Asked,
    /// When it is to be completed.
    Completed,
}

/// The protocol with its bounds.
#[derive(Clone, Copy, Debug)]
pub struct Protocol {
    pub runs: usize,
    /// Runs that a process works on at a time.
    pub slots: usize,
    pub poison: Option<Poison>,
    /// Processes ask for their open attempts at any time, not only when they have lost sight of one.
    pub curious: bool,
    /// The queue is away from the beginning, so that there are fewer states: nobody but the sweep says what is
    /// to be done.
    pub polling: bool,
    /// Faults in one history, in any order and combination.
    pub faults: u8,
    pub scope: Scope,
    pub store: Store,
}

impl Protocol {
    /// Three attempts, nothing left out.
    pub fn new(runs: usize, faults: u8) -> Self {
        Self {
            runs,
            slots: 1,
            poison: None,
            curious: false,
            polling: false,
            faults,
            scope: Scope::Any,
            store: Store {
                max_attempts: 3,
                max_failed_completions: 3,
                without: None,
            },
        }
    }

    /// The same with a first run that kills its workers.
    pub fn poisoned(self, poison: Poison) -> Self {
        let poison = Some(poison);
        Self { poison, ..self }
    }

    /// The same with processes that ask for their open attempts at any time.
    pub fn curious(self) -> Self {
        let curious = true;
        Self { curious, ..self }
    }

    /// The same with fewer attempts.
    pub fn attempts(mut self, max_attempts: u8, max_failed_completions: u8) -> Self {
        self.store.max_attempts = max_attempts;
        self.store.max_failed_completions = max_failed_completions;
        self
    }

    /// The same with such faults only.
    pub fn only(self, scope: Scope) -> Self {
        Self { scope, ..self }
    }

    /// The same without one mechanism.
    pub fn without(self, mechanism: Mechanism) -> Self {
        let store = Store {
            without: Some(mechanism),
            ..self.store
        };
        Self { store, ..self }
    }

    /// Whether every run is terminal.
    pub fn is_terminal(&self, s: &State) -> bool {
        s.runs[..self.runs]
            .iter()
            .all(|run| run.status == Status::Completed)
    }

    /// Whether nothing will ever change again unless a fault, or luck, changes it.
    pub fn is_quiescent(&self, s: &State) -> bool {
        let mut sure = Vec::with_capacity(16);
        self.sure_steps(s, &mut sure);
        !sure
            .into_iter()
            .any(|action| self.next_state(s, action).is_some())
    }

    fn sure_steps(&self, s: &State, steps: &mut Vec<Action>) {
        for r in 0..self.runs {
            self.steps_of_run(s, r, steps);
        }
        for w in 0..WORKERS {
            self.steps_of_worker(s, w, steps);
        }
        match s.reconciler {
            Reconciler::Idle => steps.push(Action::Sweep),
            Reconciler::Sweeping { .. } => steps.push(Action::MarkDeliveries),
            Reconciler::Delivering { .. } if !s.queue_away => steps.push(Action::Deliver),
            Reconciler::Delivering { due } => {
                let free: Vec<usize> = (0..WORKERS).filter(|&w| s.is_free(w, self.slots)).collect();
                for r in (0..self.runs).filter(|r| due & 1 << r != 0) {
                    steps.extend(free.iter().map(|&w| Action::TakeDirectly(w, r)));
                }
                if free.is_empty() {
                    steps.push(Action::Undeliver);
                }
            }
        }
    }

    fn steps_of_run(&self, s: &State, r: usize, steps: &mut Vec<Action>) {
        let run = &s.runs[r];
        if run.status == Status::Absent {
            steps.push(Action::Insert(r));
            if !self.polling {
                steps.push(Action::Record(r));
            }
        }
        if run.unsent {
            steps.push(Action::Submit(r));
        }
        let orphaned = Holder::Gone {
            heartbeat: Heartbeat::Fresh,
        };
        if run.open.is_some_and(|open| open.holder == orphaned) {
            steps.push(Action::OrphanedLeaseEnds(r));
        }
        if let Some(delivery) = run.delivery {
            if delivery.waits {
                steps.push(Action::NotBeforePasses(r));
            }
            if delivery.delivered == Delivered::Recently && run.status == Status::Queued {
                steps.push(Action::RedeliverAfterPasses(r));
            }
        }
    }

    fn steps_of_worker(&self, s: &State, w: usize, steps: &mut Vec<Action>) {
        let worker = &s.workers[w];
        let sends_none = worker.process == Process::Paused || worker.fenced;
        if sends_none && worker.heartbeat == Heartbeat::Fresh {
            steps.push(Action::LeaseEnds(w));
        }
        match worker.process {
            Process::Paused => return,
            Process::Down => {
                steps.push(Action::Start(w));
                return;
            }
            Process::Up => {}
        }
        if worker.fenced {
            steps.push(Action::Heartbeat(w));
        }
        if worker.stopping && worker.slots.iter().all(|step| *step == Step::Idle) {
            steps.push(Action::Retire(w));
        }
        if s.is_free(w, self.slots) && !s.queue_away {
            let waiting = (0..self.runs).filter(|&r| s.runs[r].hints > 0);
            steps.extend(waiting.map(|r| Action::Fetch(w, r)));
        }
        if worker.looked != [0; RUNS] || worker.noted.is_some() {
            steps.push(Action::ReleaseOrphaned(w));
        } else if self.store.has(Mechanism::ReleaseOrphaned) && self.has_lost_sight(s, w) {
            // Where nobody is curious the two are one step, so that there are fewer states.
            steps.push(if self.curious {
                Action::Look(w)
            } else {
                Action::ReleaseOrphaned(w)
            });
        }
        for (k, &step) in worker.slots.iter().enumerate() {
            self.steps_of_slot(s, (w, k), step, steps);
        }
    }

    fn steps_of_slot(&self, s: &State, slot: Slot, step: Step, steps: &mut Vec<Action>) {
        let worker = &s.workers[slot.0];
        match step {
            Step::Idle => {}
            Step::Fetched(_) | Step::SeenQueued(_) | Step::Unnoted(_) => {
                steps.push(Action::Claim(slot));
            }
            Step::Waiting(_) if worker.stopping => steps.push(Action::GiveUp(slot)),
            Step::Waiting(_) => {
                if worker.is_isolated() {
                    steps.push(Action::Claim(slot));
                }
            }
            Step::Claimed(claim) if !claim.exhausted => {
                if self.kills(claim, Poison::Asked) {
                    steps.push(Action::Die(slot));
                } else {
                    steps.push(Action::Ask(slot));
                }
            }
            Step::Claimed(claim) | Step::Answered(claim) | Step::SeenCurrent(claim) => {
                if self.kills(claim, Poison::Completed) {
                    steps.push(Action::Die(slot));
                } else {
                    steps.push(Action::Complete(slot));
                }
            }
        }
        if step.claim().is_some() {
            if worker.fenced {
                steps.push(Action::Fence(slot));
            }
            if worker.stopping {
                steps.push(Action::Release(slot, End::Shutdown));
            }
        }
    }

    fn kills(&self, claim: Claim, poison: Poison) -> bool {
        self.poison == Some(poison) && claim.run == 0 && !claim.forced_completion
    }

    /// Whether a process has open attempts at running runs that it does not work on.
    fn has_lost_sight(&self, s: &State, w: usize) -> bool {
        let known = s.workers[w].tokens();
        let open = Store::open_attempts(s, w);
        (0..self.runs).any(|r| open[r] > 0 && known[r] == 0 && s.runs[r].status == Status::Running)
    }

    fn perhaps(&self, s: &State, steps: &mut Vec<Action>) {
        if s.queue_away && !self.polling {
            steps.push(Action::QueueIsBack);
        }
        for (w, worker) in s.workers.iter().enumerate() {
            match worker.process {
                Process::Paused => steps.push(Action::Resume(w)),
                Process::Down => {}
                Process::Up => {
                    let waiting = (0..).zip(&worker.slots);
                    steps.extend(
                        waiting
                            .filter(|(_, step)| matches!(step, Step::Waiting(_)))
                            .map(|(k, _)| Action::WaitTooLong((w, k))),
                    );
                    let idle = worker.looked == [0; RUNS] && worker.noted.is_none();
                    if self.curious && idle && self.store.has(Mechanism::ReleaseOrphaned) {
                        steps.push(Action::LookInVain(w));
                    }
                }
            }
        }
        for r in 0..self.runs {
            let Some(open) = s.runs[r].open else { continue };
            // Who works on it ends before the deadline by limits of its own, unless it is paused.
            let worked_on = s
                .is_held(r, open.token)
                .is_some_and(|w| s.workers[w].process == Process::Up);
            if !open.overdue && !worked_on {
                steps.push(Action::DeadlinePasses(r));
            }
        }
    }

    /// A worker's step. The names of the guards are those of the engine's answers.
    fn work(&self, s: &mut State, (w, k): Slot, action: Action) {
        let step = s.workers[w].slots[k];
        let asked = matches!(step, Step::Answered(_));
        let next = match (action, step) {
            (Action::Claim(_), Step::Fetched(r))
                if !self.store.has(Mechanism::ClaimCompareAndSet) =>
            {
                let run = &s.runs[r];
                let waits = run.delivery.is_some_and(|delivery| delivery.waits);
                if run.status == Status::Queued && !waits {
                    Step::SeenQueued(r)
                } else {
                    Step::Idle
                }
            }
            (Action::Claim(_), Step::Unnoted(claim)) => Step::Claimed(claim),
            (Action::Claim(_), Step::Fetched(r) | Step::SeenQueued(r) | Step::Waiting(r)) => {
                let isolated = matches!(step, Step::Waiting(_));
                match self.store.claim(s, r, w, isolated) {
                    Answer::Claimed(claim) if self.store.has(Mechanism::NotedBeforeClaim) => {
                        Step::Claimed(claim)
                    }
                    Answer::Claimed(claim) => Step::Unnoted(claim),
                    Answer::NotClaimable => Step::Idle,
                    Answer::RequiresIsolation => Step::Waiting(r),
                }
            }
            (Action::ClaimReplyLost(_), Step::Fetched(r) | Step::Waiting(r)) => {
                // Without the answer the claim is unknown; the hint is tried again.
                let isolated = matches!(step, Step::Waiting(_));
                match self.store.claim(s, r, w, isolated) {
                    Answer::Claimed(_) => Step::Fetched(r),
                    Answer::NotClaimable => Step::Idle,
                    Answer::RequiresIsolation => Step::Waiting(r),
                }
            }
            (Action::GiveUp(_) | Action::WaitTooLong(_), Step::Waiting(_)) => Step::Idle,
            (Action::Ask(_), Step::Claimed(claim)) => {
                let run = &mut s.runs[claim.run];
                run.asked += u8::from(claim.token > run.base);
                Step::Answered(claim)
            }
            (Action::Complete(_), Step::Claimed(claim) | Step::Answered(claim))
                if !self.store.has(Mechanism::LockBeforeTokenCheck) =>
            {
                if self.store.sees_current(s, claim) {
                    Step::SeenCurrent(claim)
                } else {
                    Step::Idle
                }
            }
            (
                Action::Complete(_),
                Step::Claimed(claim) | Step::Answered(claim) | Step::SeenCurrent(claim),
            ) => {
                self.store.complete(s, claim);
                Step::Idle
            }
            (Action::CompleteReplyLost(_), Step::Claimed(claim) | Step::Answered(claim)) => {
                // `Pipeline::complete` tries again.
                self.store.complete(s, claim);
                step
            }
            (Action::Lose(_), Step::Claimed(claim) | Step::Answered(claim)) => {
                Step::Fetched(claim.run)
            }
            (Action::FetchedHintLost(_), Step::Fetched(_)) | (Action::Fence(_), _) => Step::Idle,
            (
                _,
                Step::Claimed(claim)
                | Step::Answered(claim)
                | Step::SeenCurrent(claim)
                | Step::Unnoted(claim),
            ) => {
                let end = match action {
                    Action::Throttle(_) | Action::ReleaseReplyLost(_) => End::Throttled,
                    Action::Release(_, end) => end,
                    _ => End::Error,
                };
                self.store.release(s, claim, end, asked);
                match action {
                    Action::ReleaseReplyLost(_) => Step::Fetched(claim.run),
                    _ => Step::Idle,
                }
            }
            _ => step,
        };
        s.workers[w].slots[k] = next;
    }

    /// The poison run takes its process with it, and what else is in flight there.
    fn die(s: &mut State, (w, k): Slot) {
        for (other, step) in s.workers[w].slots.iter().enumerate() {
            if other != k
                && let Some(claim) = step.claim()
                && let Some(open) = s.runs[claim.run].open
                && open.token == claim.token
                && open.counted
            {
                s.runs[claim.run].taken += 1;
            }
        }
        Store::end_process(s, w);
    }

    fn give(s: &mut State, w: usize, r: usize) {
        let mut slots = s.workers[w].slots.iter_mut();
        if let Some(idle) = slots.find(|step| **step == Step::Idle) {
            *idle = Step::Fetched(r);
        }
    }

    fn apply(&self, s: &mut State, action: Action) {
        match action {
            Action::Insert(r) => s.runs[r].status = Status::Queued,
            Action::Record(r) => self.store.record(s, r),
            Action::Submit(r) => {
                s.runs[r].unsent = false;
                if s.queue_away {
                    self.store.mark_undispatched(s, 1 << r);
                } else {
                    send(s, 1 << r);
                }
            }
            Action::Fetch(w, r) => {
                s.runs[r].hints -= 1;
                Self::give(s, w, r);
            }
            Action::Claim(slot)
            | Action::Ask(slot)
            | Action::Complete(slot)
            | Action::Release(slot, _)
            | Action::GiveUp(slot)
            | Action::WaitTooLong(slot)
            | Action::Fence(slot)
            | Action::Lose(slot)
            | Action::ClaimReplyLost(slot)
            | Action::CompleteReplyLost(slot)
            | Action::ReleaseReplyLost(slot)
            | Action::Throttle(slot)
            | Action::Fail(slot)
            | Action::FetchedHintLost(slot) => self.work(s, slot, action),
            Action::Die(slot) => Self::die(s, slot),
            Action::Look(w) | Action::LookInVain(w) => {
                if self.store.has(Mechanism::DatabaseFirst) {
                    s.workers[w].looked = Store::open_attempts(s, w);
                } else {
                    s.workers[w].noted = Some(s.workers[w].tokens());
                }
            }
            Action::ReleaseOrphaned(w) => {
                let worker = &mut s.workers[w];
                let looked = std::mem::take(&mut worker.looked);
                let (known, mut tokens) = match worker.noted.take() {
                    None if self.curious => (worker.tokens(), looked),
                    None => (worker.tokens(), Store::open_attempts(s, w)),
                    Some(noted) => (noted, Store::open_attempts(s, w)),
                };
                for (token, known) in tokens.iter_mut().zip(known) {
                    *token *= u8::from(known == 0);
                }
                self.store.release_orphaned(s, w, tokens);
            }
            Action::Heartbeat(w) => self.store.heartbeat(s, w),
            Action::Retire(w) => self.store.retire(s, w),
            Action::Start(w) => s.workers[w].process = Process::Up,
            Action::Sweep => self.store.sweep(s, self.slots),
            Action::MarkDeliveries => {
                if let Reconciler::Sweeping { reclaimed, due } = s.reconciler {
                    self.store.mark_deliveries(s, reclaimed, due);
                }
            }
            Action::Deliver => {
                if let Reconciler::Delivering { due } = s.reconciler {
                    send(s, due);
                    s.reconciler = Reconciler::Idle;
                }
            }
            Action::TakeDirectly(w, r) => {
                Self::give(s, w, r);
                if let Reconciler::Delivering { due } = s.reconciler {
                    s.reconciler = match due & !(1 << r) {
                        0 => Reconciler::Idle,
                        due => Reconciler::Delivering { due },
                    };
                }
            }
            Action::Undeliver => {
                if let Reconciler::Delivering { due } = s.reconciler {
                    self.store.mark_undispatched(s, due);
                    s.reconciler = Reconciler::Idle;
                }
            }
            Action::LeaseEnds(w) => s.workers[w].heartbeat = Heartbeat::Stale,
            Action::OrphanedLeaseEnds(r) => {
                if let Some(open) = &mut s.runs[r].open {
                    open.holder = Holder::Gone {
                        heartbeat: Heartbeat::Stale,
                    };
                }
            }
            Action::DeadlinePasses(r) | Action::Overrun(r) => {
                if let Some(open) = &mut s.runs[r].open {
                    open.overdue = true;
                }
            }
            Action::NotBeforePasses(r) => {
                self.change_delivery(s, r, |delivery| delivery.waits = false);
            }
            Action::RedeliverAfterPasses(r) => {
                self.change_delivery(s, r, |delivery| delivery.delivered = Delivered::LongAgo);
            }
            Action::Resume(w) => {
                s.workers[w].process = Process::Up;
                // The fence has an earlier limit than the others' timeout.
                s.workers[w].fenced |= s.workers[w].heartbeat != Heartbeat::Fresh;
            }
            Action::QueueIsBack => s.queue_away = false,
            Action::Crash(w) => Store::end_process(s, w),
            Action::Pause(w) => s.workers[w].process = Process::Paused,
            Action::Cut(w) => s.workers[w].fenced = true,
            Action::Terminate(w) => s.workers[w].stopping = true,
            Action::ProducerCrash(r) => s.runs[r].unsent = false,
            Action::ReconcilerCrash => s.reconciler = Reconciler::Idle,
            Action::HintLost(r) => s.runs[r].hints -= 1,
            Action::HandedOver(r) => {
                s.runs[r].hints -= 1;
                self.store.hand_over(s, r);
            }
            Action::HintDuplicated(r) => send(s, 1 << r),
            Action::QueueWiped => s.runs.iter_mut().for_each(|run| run.hints = 0),
            Action::QueueAway => s.queue_away = true,
            Action::RequeuedOutside(r) => s.runs[r].status = Status::Queued,
            Action::StartedOutside(r) => s.runs[r].status = Status::Running,
            Action::CompletedOutside(r) => {
                let run = &mut s.runs[r];
                run.status = Status::Completed;
                run.terminal_writes += 1;
                run.delivery = None;
            }
            Action::GivenAgain(r) => {
                let run = &mut s.runs[r];
                run.status = Status::Queued;
                run.started = false;
                run.base = run.last;
                if let Some(delivery) = &mut run.delivery {
                    delivery.earlier = true;
                }
                (run.asked, run.terminal_writes, run.taken) = (0, 0, 0);
            }
        }
    }

    fn change_delivery(&self, s: &mut State, r: usize, change: impl Fn(&mut Delivery)) {
        if let Some(delivery) = &mut s.runs[r].delivery {
            change(delivery);
        }
    }
}

impl Model for Protocol {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let mut first = State::first(self.faults);
        first.queue_away = self.polling;
        vec![first]
    }

    fn actions(&self, s: &State, actions: &mut Vec<Action>) {
        if s.broken.any() {
            return;
        }
        self.sure_steps(s, actions);
        self.perhaps(s, actions);
        if s.faults > 0 {
            let sure = actions.len();
            self.fault_steps(s, actions);
            let faults = actions.split_off(sure);
            actions.extend(faults.into_iter().filter(|&fault| self.scope.has(fault)));
        }
    }

    fn next_state(&self, before: &State, action: Action) -> Option<State> {
        let mut after = *before;
        self.apply(&mut after, action);
        for worker in &mut after.workers {
            worker.slots.sort_unstable();
        }
        if after == *before {
            return None;
        }
        if action.kind() == Kind::Fault {
            after.faults -= 1;
        }
        history::judge(self, before, action, &mut after);
        Some(after)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let mut properties = history::promises();
        properties.extend(history::signs());
        properties
    }
}
