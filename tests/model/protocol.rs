//! The steps of producers, workers and the reconciler as `src/engine` makes them, the passing of
//! time, and the faults.

use crate::faults::Scope;
use crate::history;
use crate::state::{
    Beat, Delivered, Delivery, Holder, Process, Reconciler, State, Status, Step, WORKERS,
};
use crate::store::{End, Mechanism, Store, send};
use stateright::{Model, Property};

/// One step. Those that call the store have the name of its function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Another application's bare INSERT.
    Insert(usize),
    Record(usize),
    /// The producer sends the hint, or takes the mark of delivery back where the queue is away.
    Submit(usize),

    Fetch(usize, usize),
    Claim(usize),
    /// The provider is called and answers.
    Ask(usize),
    Complete(usize),
    Release(usize, End),
    /// The worker drops what it holds, as its heartbeat does not get through.
    Fence(usize),
    Beat(usize),
    Retire(usize),
    /// A supervisor starts the process again.
    Start(usize),

    Sweep,
    MarkDeliveries,
    /// The reconciler sends the hints of what it found.
    Deliver,
    /// The queue is away: the reconciler gives a run to a free slot of its process.
    TakeDirectly(usize, usize),
    Undeliver,

    /// `worker.dead_after` has passed since the last beat.
    LeaseEnds(usize),
    /// The same for a process that is gone.
    OrphanedLeaseEnds(usize),
    DeadlinePasses(usize),
    NotBeforePasses(usize),
    RedeliverAfterPasses(usize),

    Resume(usize),
    QueueIsBack,

    Crash(usize),
    Pause(usize),
    /// The heartbeat does not get through for a while.
    Cut(usize),
    /// SIGTERM. What is in work is completed or released, as the grace period will have it.
    Terminate(usize),
    /// The database cannot be reached: what the worker has begun is left, its hint is tried again.
    Lose(usize),
    /// The commit took place, its answer did not arrive.
    ClaimReplyLost(usize),
    CompleteReplyLost(usize),
    ReleaseReplyLost(usize),
    /// The provider asks to wait for longer than an attempt may.
    Throttle(usize),
    /// Something of verifyd's own fails.
    Fail(usize),
    /// The attempt takes longer than its deadline although its process lives.
    Overrun(usize),
    ProducerCrash(usize),
    /// In the middle of a sweep, or with hints to send, or the answer of the commit was lost.
    ReconcilerCrash,
    HintLost(usize),
    /// Also a forged one.
    HintDuplicated(usize),
    /// The hint was fetched and then forgotten.
    FetchedHintLost(usize),
    QueueWiped,
    QueueAway,
    /// The other application puts a run in work back to `queued`.
    RequeuedOutside(usize),
    /// The other application sets a queued run to `running`; nobody works on it.
    StartedOutside(usize),
    /// The other application ends the run itself.
    CompletedOutside(usize),
}

/// Why a step happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Happens in the end, if nothing else does: somebody is at it, or time passes.
    Sure,
    /// May happen any time or never, and costs nothing.
    Perhaps,
    /// May happen any time or never, as often as the model allows faults.
    Fault,
}

impl Action {
    pub fn kind(self) -> Kind {
        match self {
            Self::Insert(_)
            | Self::Record(_)
            | Self::Submit(_)
            | Self::Fetch(..)
            | Self::Claim(_)
            | Self::Ask(_)
            | Self::Complete(_)
            | Self::Release(..)
            | Self::Fence(_)
            | Self::Beat(_)
            | Self::Retire(_)
            | Self::Start(_)
            | Self::Sweep
            | Self::MarkDeliveries
            | Self::Deliver
            | Self::TakeDirectly(..)
            | Self::Undeliver
            | Self::LeaseEnds(_)
            | Self::OrphanedLeaseEnds(_)
            | Self::DeadlinePasses(_)
            | Self::NotBeforePasses(_)
            | Self::RedeliverAfterPasses(_) => Kind::Sure,
            Self::Resume(_) | Self::QueueIsBack => Kind::Perhaps,
            _ => Kind::Fault,
        }
    }
}

/// The protocol with its bounds.
#[derive(Clone, Copy, Debug)]
pub struct Protocol {
    pub runs: usize,
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
            faults,
            scope: Scope::Any,
            store: Store {
                max_attempts: 3,
                without: None,
            },
        }
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
                let free: Vec<usize> = (0..WORKERS).filter(|&w| s.is_free(w)).collect();
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
            steps.extend([Action::Insert(r), Action::Record(r)]);
        }
        if run.unsent {
            steps.push(Action::Submit(r));
        }
        if let Some(open) = run.open {
            if open.holder == (Holder::Gone { beat: Beat::Fresh }) {
                steps.push(Action::OrphanedLeaseEnds(r));
            }
            // Who works on it ends before the deadline by limits of its own, unless it is paused.
            let worked_on = s
                .is_held(r, open.token)
                .is_some_and(|w| s.workers[w].process == Process::Up);
            if !open.overdue && !worked_on {
                steps.push(Action::DeadlinePasses(r));
            }
        }
        if let Some(delivery) = run.delivery {
            if delivery.waits {
                steps.push(Action::NotBeforePasses(r));
            }
            if delivery.delivered == Delivered::Lately && run.status == Status::Queued {
                steps.push(Action::RedeliverAfterPasses(r));
            }
        }
    }

    fn steps_of_worker(&self, s: &State, w: usize, steps: &mut Vec<Action>) {
        let worker = &s.workers[w];
        let silent = worker.process == Process::Paused || worker.fenced;
        if silent && worker.beat == Beat::Fresh {
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
            steps.push(Action::Beat(w));
            if worker.step.claim().is_some() {
                steps.push(Action::Fence(w));
            }
        }
        match worker.step {
            Step::Idle => {
                if worker.stopping {
                    steps.push(Action::Retire(w));
                }
                if s.is_free(w) && !s.queue_away {
                    let waiting = (0..self.runs).filter(|&r| s.runs[r].hints > 0);
                    steps.extend(waiting.map(|r| Action::Fetch(w, r)));
                }
            }
            Step::Fetched(_) | Step::SeenQueued(_) => steps.push(Action::Claim(w)),
            Step::Claimed(claim) if !claim.exhausted => steps.push(Action::Ask(w)),
            Step::Claimed(_) | Step::Answered(_) | Step::SeenCurrent(_) => {
                steps.push(Action::Complete(w));
            }
        }
        if worker.stopping && worker.step.claim().is_some() {
            steps.push(Action::Release(w, End::Shutdown));
        }
    }

    fn perhaps(&self, s: &State, steps: &mut Vec<Action>) {
        if s.queue_away {
            steps.push(Action::QueueIsBack);
        }
        let paused = (0..WORKERS).filter(|&w| s.workers[w].process == Process::Paused);
        steps.extend(paused.map(Action::Resume));
    }

    /// A worker's step. The names of the guards are those of the engine's answers.
    fn work(&self, s: &mut State, w: usize, action: Action) {
        let step = s.workers[w].step;
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
            (Action::Claim(_), Step::Fetched(r) | Step::SeenQueued(r)) => {
                self.store.claim(s, r, w).map_or(Step::Idle, Step::Claimed)
            }
            (Action::ClaimReplyLost(_), Step::Fetched(r)) => {
                // Without the answer the claim is unknown; the hint is tried again.
                match self.store.claim(s, r, w) {
                    Some(_) => Step::Fetched(r),
                    None => Step::Idle,
                }
            }
            (Action::Ask(_), Step::Claimed(claim)) => {
                s.runs[claim.run].asked += 1;
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
                // `Engine::write` tries again.
                self.store.complete(s, claim);
                step
            }
            (Action::Lose(_), Step::Claimed(claim) | Step::Answered(claim)) => {
                Step::Fetched(claim.run)
            }
            (Action::FetchedHintLost(_), Step::Fetched(_)) | (Action::Fence(_), _) => Step::Idle,
            (_, Step::Claimed(claim) | Step::Answered(claim) | Step::SeenCurrent(claim)) => {
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
        s.workers[w].step = next;
    }

    fn apply(&self, s: &mut State, action: Action) {
        match action {
            Action::Insert(r) => s.runs[r].status = Status::Queued,
            Action::Record(r) => self.store.record(s, r),
            Action::Submit(r) => {
                s.runs[r].unsent = false;
                if s.queue_away {
                    self.store.undeliver(s, 1 << r);
                } else {
                    send(s, 1 << r);
                }
            }
            Action::Fetch(w, r) => {
                s.runs[r].hints -= 1;
                s.workers[w].step = Step::Fetched(r);
            }
            Action::Claim(w)
            | Action::Ask(w)
            | Action::Complete(w)
            | Action::Release(w, _)
            | Action::Fence(w)
            | Action::Lose(w)
            | Action::ClaimReplyLost(w)
            | Action::CompleteReplyLost(w)
            | Action::ReleaseReplyLost(w)
            | Action::Throttle(w)
            | Action::Fail(w)
            | Action::FetchedHintLost(w) => self.work(s, w, action),
            Action::Beat(w) => self.store.beat(s, w),
            Action::Retire(w) => self.store.retire(s, w),
            Action::Start(w) => s.workers[w].process = Process::Up,
            Action::Sweep => self.store.sweep(s),
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
                s.workers[w].step = Step::Fetched(r);
                if let Reconciler::Delivering { due } = s.reconciler {
                    s.reconciler = match due & !(1 << r) {
                        0 => Reconciler::Idle,
                        due => Reconciler::Delivering { due },
                    };
                }
            }
            Action::Undeliver => {
                if let Reconciler::Delivering { due } = s.reconciler {
                    self.store.undeliver(s, due);
                    s.reconciler = Reconciler::Idle;
                }
            }
            Action::LeaseEnds(w) => s.workers[w].beat = Beat::Stale,
            Action::OrphanedLeaseEnds(r) => {
                if let Some(open) = &mut s.runs[r].open {
                    open.holder = Holder::Gone { beat: Beat::Stale };
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
                // The fence has an earlier limit than the others' patience.
                s.workers[w].fenced |= s.workers[w].beat != Beat::Fresh;
            }
            Action::QueueIsBack => s.queue_away = false,
            Action::Crash(w) => Store::end_process(s, w),
            Action::Pause(w) => s.workers[w].process = Process::Paused,
            Action::Cut(w) => s.workers[w].fenced = true,
            Action::Terminate(w) => s.workers[w].stopping = true,
            Action::ProducerCrash(r) => s.runs[r].unsent = false,
            Action::ReconcilerCrash => s.reconciler = Reconciler::Idle,
            Action::HintLost(r) => s.runs[r].hints -= 1,
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
        vec![State::first(self.faults)]
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
        if after == *before {
            return None;
        }
        if action.kind() == Kind::Fault {
            after.faults -= 1;
        }
        history::judge(before, action, &mut after);
        Some(after)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let mut properties = history::promises();
        properties.extend(history::signs());
        properties
    }
}
