//! The transitions of the ports of the store, under the names that they have there, each as atomic as
//! `src/store/postgres` makes it. The names in capitals are its statements: those of a call that is sent by
//! itself. A batch sends the last of them at once, and leaves what it cannot decide.

use crate::state::{
    Answer, Attempt, Claim, Delivered, Delivery, HINTS, Heartbeat, Holder, Process, RUNS,
    Reconciler, SLOTS, State, Status, Step,
};

/// The functions of the ports that write. A test compares them with the traits.
pub const TRANSITIONS: &[&str] = &[
    "record",
    "claim",
    "complete",
    "release",
    "sweep",
    "release_orphaned",
    "mark_undispatched",
    "hand_over",
    "heartbeat",
    "retire",
];

/// `REDELIVER_BELOW` of the reconciler, as small as can be.
const REDELIVER_BELOW: u8 = 1;

/// What a store may be without. Each is one line of SQL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mechanism {
    /// The token and `ended_at IS NULL` in COMPLETE and END_ATTEMPT.
    TokenCheck,
    /// LOCK_RUNNING as a statement of its own: without it the token is tested in the snapshot from
    /// before the wait, the status on the row as it is then.
    LockBeforeTokenCheck,
    /// `status = 'running'` of LOCK_RUNNING and COMPLETE.
    StatusCheckOfComplete,
    /// `status = 'running'` of LOCK_RUNNING and REQUEUE_RELEASED.
    StatusCheckOfRelease,
    /// `status = 'queued'` of CLAIM, tested on the row that it changes.
    ClaimCompareAndSet,
    /// `h.spent >= w.max_attempts` of CLAIM.
    AttemptLimit,
    /// `h.spent + 1 >= w.max_attempts AND h.lost > 0` of CLAIM.
    LastChanceIsolated,
    /// `exhausted` in the same place.
    ExhaustedIsolated,
    /// `h.failed >= $6` of CLAIM.
    ForcedCompletion,
    /// `lease_is_dead!()` of END_DEAD.
    LeaseCheck,
    /// END_DEAD.
    Reclaim,
    /// The second and third part of DUE: what was not delivered, and what was delivered long ago.
    Redelivery,
    /// The first part of DUE: what verifyd has no delivery of.
    FirstDelivery,
    /// The condition of MARK_DELIVERIES.
    WaitKept,
    /// OPEN_ATTEMPTS and RELEASE_ORPHANED.
    ReleaseOrphaned,
    /// `a.token` of RELEASE_ORPHANED.
    OrphanTokenCheck,
    /// `InFlightRuns`: a run is registered before its claim is sent.
    NotedBeforeClaim,
    /// SET_ASIDE: what belongs to an earlier run of the same id.
    SetAside,
    /// `reconciler::orphans`: the database is read first, then what is in flight.
    DatabaseFirst,
}

/// `AttemptEnd`, as far as a release may have it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    Throttled,
    Shutdown,
    Error,
}

impl End {
    fn counts(self) -> bool {
        self == Self::Error
    }
}

/// The store with its limit of attempts.
#[derive(Clone, Copy, Debug)]
pub struct Store {
    pub max_attempts: u8,
    /// `MAX_FAILED_COMPLETIONS`
    pub max_failed_completions: u8,
    pub without: Option<Mechanism>,
}

impl Store {
    pub fn has(&self, mechanism: Mechanism) -> bool {
        self.without != Some(mechanism)
    }

    /// INSERT_RUN and DELIVERED: verifyd's own producers. The hint follows.
    pub fn record(&self, s: &mut State, r: usize) {
        s.runs[r].status = Status::Queued;
        s.runs[r].unsent = true;
        s.runs[r].delivery = Some(Delivery::new(Delivered::Recently, false));
    }

    /// LOCK_QUEUED, SET_ASIDE, SUPERSEDE, CLAIM. One step: the first holds the run, and
    /// those that follow begin after it.
    pub fn claim(&self, s: &mut State, r: usize, w: usize, isolated: bool) -> Answer {
        let mut run = s.runs[r];
        let queued = run.status == Status::Queued || !self.has(Mechanism::ClaimCompareAndSet);
        if !run.started && self.has(Mechanism::SetAside) {
            run.spent = 0;
            run.lost = false;
            run.failed_completions = 0;
            run.open = None;
            // FORGET_WAIT
            if let Some(delivery) = &mut run.delivery {
                delivery.waits = false;
            }
        }
        if !queued || run.delivery.is_some_and(|delivery| delivery.waits) {
            return Answer::NotClaimable;
        }
        // SUPERSEDE ends what is still open: it counts as it was claimed.
        let superseded = run.open.is_some_and(|open| !open.counted);
        let failed_completions = run.failed_completions + u8::from(superseded);
        let forced_completion = failed_completions >= self.max_failed_completions
            && self.has(Mechanism::ForcedCompletion);
        let limited = run.spent >= self.max_attempts && self.has(Mechanism::AttemptLimit);
        let exhausted = limited || forced_completion;
        let last_chance = run.spent + 1 >= self.max_attempts && run.lost;
        let requires_isolation = (exhausted && self.has(Mechanism::ExhaustedIsolated))
            || (!exhausted && last_chance && self.has(Mechanism::LastChanceIsolated));
        if requires_isolation && !isolated {
            return Answer::RequiresIsolation;
        }
        s.runs[r] = run;
        let run = &mut s.runs[r];
        run.failed_completions = failed_completions;
        run.started = true;
        run.status = Status::Running;
        run.last += 1;
        run.spent += u8::from(!exhausted);
        run.open = Some(Attempt {
            token: run.last,
            counted: !exhausted,
            holder: Holder::Process(w),
            overdue: false,
        });
        Answer::Claimed(Claim {
            run: r,
            token: run.last,
            exhausted,
            forced_completion,
            isolated,
        })
    }

    /// Whether an attempt with this token is open.
    fn is_current(s: &State, claim: Claim) -> bool {
        s.runs[claim.run]
            .open
            .is_some_and(|open| open.token == claim.token)
    }

    /// LOCK_RUNNING, COMPLETE. One step: the first holds the run until the end,
    /// and COMPLETE tests the token on the row that it changes.
    pub fn complete(&self, s: &mut State, claim: Claim) -> bool {
        let status = s.runs[claim.run].status;
        if status != Status::Running && self.has(Mechanism::StatusCheckOfComplete) {
            return false;
        }
        let tested = self.has(Mechanism::TokenCheck) && self.has(Mechanism::LockBeforeTokenCheck);
        if tested && !Self::is_current(s, claim) {
            return false;
        }
        let run = &mut s.runs[claim.run];
        run.status = Status::Completed;
        run.terminal_writes += 1;
        run.open = None;
        run.delivery = None;
        true
    }

    /// Without [`Mechanism::LockBeforeTokenCheck`]: what the subquery of a waiting statement sees.
    pub fn sees_current(&self, s: &State, claim: Claim) -> bool {
        s.runs[claim.run].status == Status::Running && Self::is_current(s, claim)
    }

    /// LOCK_RUNNING, END_ATTEMPT, REQUEUE_RELEASED, DUE_AGAIN. One step, as for `complete`.
    pub fn release(&self, s: &mut State, claim: Claim, end: End, asked: bool) -> bool {
        let status = s.runs[claim.run].status;
        if status != Status::Running && self.has(Mechanism::StatusCheckOfRelease) {
            return false;
        }
        if self.has(Mechanism::TokenCheck) && !Self::is_current(s, claim) {
            return false;
        }
        let run = &mut s.runs[claim.run];
        let counted = run.open.is_none_or(|open| open.counted);
        if let Some(open) = run.open.take()
            && open.counted
            && !end.counts()
        {
            run.spent -= 1;
            run.asked -= u8::from(asked && run.asked > 0);
        } else if end == End::Error && !counted {
            run.failed_completions += 1;
        }
        run.status = Status::Queued;
        run.delivery = Some(Delivery::new(Delivered::Never, end != End::Shutdown));
        true
    }

    /// `lease_is_dead!()`
    pub fn lease_is_dead(s: &State, open: Attempt) -> bool {
        let heartbeat = match open.holder {
            Holder::Process(w) => s.workers[w].heartbeat,
            Holder::Gone { heartbeat } => heartbeat,
        };
        open.overdue || heartbeat != Heartbeat::Fresh
    }

    /// The first half of a sweep, up to and with DUE. What is reclaimed is locked until the sweep
    /// commits; what is only due is not, so MARK_DELIVERIES is a step of its own.
    pub fn sweep(&self, s: &mut State, slots: usize) {
        // While the queue is unavailable the batch is the number of free slots.
        if s.queue_away && !(0..s.workers.len()).any(|w| s.is_free(w, slots)) {
            return;
        }
        let reclaimed = self.reclaim(s);
        let due = self.redeliver(s, reclaimed);
        if reclaimed | due != 0 {
            s.reconciler = Reconciler::Sweeping { reclaimed, due };
        }
    }

    /// DEAD_LEASES, LOCK_RUNS, END_DEAD, END_SUPERSEDED, WITHOUT_LEASE, REQUEUE, and for these runs
    /// MARK_DELIVERIES: nobody else can write them before the commit.
    fn reclaim(&self, s: &mut State) -> u8 {
        let mut reclaimed = 0;
        for r in 0..RUNS {
            let run = s.runs[r];
            let dead = run.open.is_some_and(|open| {
                Self::lease_is_dead(s, open) || !self.has(Mechanism::LeaseCheck)
            });
            if run.status == Status::Running {
                if (dead && self.has(Mechanism::Reclaim)) || run.open.is_none() {
                    reclaimed |= u8::from(Self::requeue(s, r)) << r;
                }
            } else if dead {
                // END_SUPERSEDED: `superseded`.
                s.runs[r].failed_completions +=
                    u8::from(run.open.is_some_and(|open| !open.counted));
                s.runs[r].open = None;
            }
        }
        self.mark(s, reclaimed);
        reclaimed
    }

    /// The attempt, if one is open, ends as `worker_lost`; the run is queued. After an attempt that
    /// was only to complete it, it waits (`$3` of MARK_DELIVERIES). Says whether it is due at once.
    fn requeue(s: &mut State, r: usize) -> bool {
        let run = &mut s.runs[r];
        run.status = Status::Queued;
        match run.open.take() {
            Some(open) if !open.counted => {
                run.failed_completions += 1;
                run.delivery = Some(Delivery::new(Delivered::Never, true));
                return false;
            }
            open => run.lost |= open.is_some(),
        }
        true
    }

    /// OPEN_ATTEMPTS: what is open of this worker's, by run.
    pub fn open_attempts(s: &State, w: usize) -> [u8; RUNS] {
        s.runs.map(|run| {
            run.open
                .filter(|open| open.holder == Holder::Process(w))
                .map_or(0, |open| open.token)
        })
    }

    /// LOCK_RUNS, RELEASE_ORPHANED, MARK_DELIVERIES. One step: the first holds the runs until the end.
    pub fn release_orphaned(&self, s: &mut State, w: usize, tokens: [u8; RUNS]) {
        for (r, &token) in tokens.iter().enumerate() {
            let run = &s.runs[r];
            let current = run.open.is_some_and(|open| {
                token > 0
                    && (!self.has(Mechanism::OrphanTokenCheck)
                        || (open.token == token && open.holder == Holder::Process(w)))
            });
            if current && run.status == Status::Running && Self::requeue(s, r) {
                s.runs[r].delivery = Some(Delivery::new(Delivered::Never, false));
            }
        }
    }

    /// DUE, DUE_IN_GROUP.
    fn redeliver(&self, s: &State, reclaimed: u8) -> u8 {
        let mut due = reclaimed;
        let short = s.queue_away || s.depth() < REDELIVER_BELOW;
        for (r, run) in s.runs.iter().enumerate() {
            let found = match run.delivery {
                None => self.has(Mechanism::FirstDelivery),
                Some(row) if row.earlier && !run.started => self.has(Mechanism::FirstDelivery),
                Some(row) => {
                    self.has(Mechanism::Redelivery)
                        && !row.waits
                        && match row.delivered {
                            Delivered::Never => true,
                            Delivered::Recently => false,
                            Delivered::LongAgo => short,
                        }
                }
            };
            due |= u8::from(run.status == Status::Queued && found) << r;
        }
        due
    }

    /// The second half of a sweep: MARK_DELIVERIES of what is due but was not reclaimed.
    pub fn mark_deliveries(&self, s: &mut State, reclaimed: u8, due: u8) {
        self.mark(s, due & !reclaimed);
        s.reconciler = Reconciler::Delivering { due };
    }

    fn mark(&self, s: &mut State, runs: u8) {
        for (r, run) in s.runs.iter_mut().enumerate() {
            if runs & 1 << r == 0 || run.status == Status::Completed {
                // A row of a completed run is an orphan: FORGET_ORPHANS.
                continue;
            }
            let waits = run
                .delivery
                .is_some_and(|delivery| delivery.waits && (run.started || !delivery.earlier));
            if waits && self.has(Mechanism::WaitKept) {
                continue;
            }
            run.delivery = Some(Delivery::new(Delivered::Recently, false));
        }
    }

    /// MARK_UNDISPATCHED.
    pub fn mark_undispatched(&self, s: &mut State, runs: u8) {
        for (r, run) in s.runs.iter_mut().enumerate() {
            if runs & 1 << r != 0
                && let Some(delivery) = &mut run.delivery
            {
                delivery.delivered = Delivered::Never;
            }
        }
    }

    /// QUEUED_IN_GROUP, MARK_UNDISPATCHED, FORGET_DELIVERIES, by a worker of another group. One step: what is delivered
    /// before MARK_UNDISPATCHED is sent once more, and a row that is written after it is not deleted if it waits or was sent.
    pub fn hand_over(&self, s: &mut State, r: usize) {
        if s.runs[r].status != Status::Queued {
            return;
        }
        self.mark_undispatched(s, 1 << r);
        let delivery = &mut s.runs[r].delivery;
        *delivery = delivery.filter(|delivery| delivery.waits);
    }

    /// HEARTBEAT, confirmed.
    pub fn heartbeat(&self, s: &mut State, w: usize) {
        s.workers[w].heartbeat = Heartbeat::Fresh;
        s.workers[w].fenced = false;
    }

    /// RETIRE, and the end of the process.
    pub fn retire(&self, s: &mut State, w: usize) {
        s.workers[w].heartbeat = Heartbeat::None;
        Self::end_process(s, w);
    }

    /// The process is gone; the next one has another id.
    pub fn end_process(s: &mut State, w: usize) {
        let heartbeat = s.workers[w].heartbeat;
        for run in &mut s.runs {
            if let Some(open) = &mut run.open
                && open.holder == Holder::Process(w)
            {
                open.holder = Holder::Gone { heartbeat };
            }
        }
        let worker = &mut s.workers[w];
        worker.process = Process::Down;
        worker.heartbeat = Heartbeat::None;
        worker.fenced = true;
        worker.stopping = false;
        worker.slots = [Step::Idle; SLOTS];
        worker.looked = [0; RUNS];
        worker.noted = None;
    }
}

/// `queue.send`: one hint for each of these runs.
pub fn send(s: &mut State, runs: u8) {
    for (r, run) in s.runs.iter_mut().enumerate() {
        if runs & 1 << r != 0 {
            run.hints = (run.hints + 1).min(HINTS);
        }
    }
}
