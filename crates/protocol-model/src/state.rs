//! What the model remembers: the rows of the database, the queue, and what each process is at.
//!
//! Time has no numbers here. Whatever waits for a time to pass (a lease, a deadline, `not_before`,
//! `redeliver_after`) is a value that a step of `time` changes at any moment from when it may.

/// Two worker processes.
pub const WORKERS: usize = 2;
/// Runs that a process works on at a time, at most; how many is said by the
/// [`Protocol`](crate::protocol::Protocol).
pub const SLOTS: usize = 2;
/// Places for runs; how many are used is said by the [`Protocol`](crate::protocol::Protocol).
pub const RUNS: usize = 2;
/// Copies of one run's hint that wait in the queue, at most. More are the same as a lost one.
pub const HINTS: u8 = 2;

/// `operation_runs.status`
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Status {
    /// The producer has not committed yet.
    Absent,
    Queued,
    Running,
    Completed,
}

/// `run_deliveries.delivered_at`
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Delivered {
    Never,
    /// Within `reconciler.redeliver_after`.
    Recently,
    LongAgo,
}

/// A row of `run_deliveries`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Delivery {
    pub delivered: Delivered,
    /// `not_before` lies ahead.
    pub waits: bool,
    /// Written for an earlier run of the same id.
    pub earlier: bool,
}

impl Delivery {
    /// Of the run itself.
    pub fn new(delivered: Delivered, waits: bool) -> Self {
        Self {
            delivered,
            waits,
            earlier: false,
        }
    }
}

/// `run_attempts.worker_id`: a process, which has a new id after every start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Holder {
    Process(usize),
    /// The process is gone; its row in `workers` may look alive for a while.
    Gone {
        heartbeat: Heartbeat,
    },
}

/// The row of `run_attempts` that is not ended: the lease. Of those that are ended only their
/// number and how many of them count matter any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Attempt {
    /// Attempt and token in one: both are new with every claim.
    pub token: u8,
    pub counted: bool,
    pub holder: Holder,
    /// `deadline_at` has passed.
    pub overdue: bool,
}

/// A run with all that belongs to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Run {
    pub status: Status,
    pub delivery: Option<Delivery>,
    /// `max(attempt)`
    pub last: u8,
    /// `started_at` is set.
    pub started: bool,
    /// Attempts up to this one are an earlier run's, of the same id.
    pub base: u8,
    /// `count(*) FILTER (WHERE counted)`
    pub spent: u8,
    /// Whether one of these ended as `worker_lost`.
    pub lost: bool,
    /// Attempts that were only to complete the run, and did not.
    pub failed_completions: u8,
    pub open: Option<Attempt>,
    /// Its producer has recorded it and is about to send the hint.
    pub unsent: bool,
    /// Copies of its hint that wait in the queue.
    pub hints: u8,
    /// History: times that the provider was asked, without those of attempts that were given back
    /// uncounted.
    pub asked: u8,
    /// History: terminal writes, whoever made them.
    pub terminal_writes: u8,
    /// History: attempts that count and were lost because the poison run killed their worker.
    pub taken: u8,
}

/// `workers.beat_at`
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Heartbeat {
    /// No row: no heartbeat yet, or retired.
    None,
    Fresh,
    /// Older than `worker.dead_after`.
    Stale,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Process {
    Up,
    /// By SIGSTOP, or by anything else that takes the processor away.
    Paused,
    Down,
}

/// `ports::store::Claim`
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Claim {
    pub run: usize,
    pub token: u8,
    pub exhausted: bool,
    /// Nothing of what the run holds is read.
    pub forced_completion: bool,
    /// It was claimed as the only one of its kind in this process.
    pub isolated: bool,
}

/// What `claim` answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    Claimed(Claim),
    NotClaimable,
    RequiresIsolation,
}

/// Where one slot of a worker is in `Pipeline::process`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Step {
    Idle,
    /// It holds a hint, its lease was tested, the claim is about to be sent.
    Fetched(usize),
    /// The run requires isolation, and another such run is in flight in this process.
    Waiting(usize),
    /// Only where a claim is noted when its answer is there and not before: the answer is on its way.
    Unnoted(Claim),
    /// Only without the claim's compare-and-set: the run was seen queued.
    SeenQueued(usize),
    Claimed(Claim),
    /// The provider was asked and has answered; the result is about to be written.
    Answered(Claim),
    /// Only without the lock before the token's test: the token was seen to be current.
    SeenCurrent(Claim),
}

impl Step {
    /// What it holds, if it holds anything.
    pub fn claim(self) -> Option<Claim> {
        match self {
            Self::Unnoted(claim)
            | Self::Claimed(claim)
            | Self::Answered(claim)
            | Self::SeenCurrent(claim) => Some(claim),
            Self::Idle | Self::Fetched(_) | Self::Waiting(_) | Self::SeenQueued(_) => None,
        }
    }

    /// The claim that `InFlightRuns` knows of.
    pub fn noted(self) -> Option<Claim> {
        self.claim().filter(|_| !matches!(self, Self::Unnoted(_)))
    }
}

/// A worker process and its row in `workers`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Worker {
    pub process: Process,
    pub heartbeat: Heartbeat,
    /// `engine::lease::Lease` has run out: no heartbeat was confirmed for four fifths of `dead_after`.
    pub fenced: bool,
    /// It was stopped.
    pub stopping: bool,
    /// In ascending order: no slot differs from another.
    pub slots: [Step; SLOTS],
    /// What `open_attempts` has answered, by run, and `release_orphaned` is about to be asked for; 0: nothing.
    pub looked: [u8; RUNS],
    /// Only where the process looks at what it has in flight before it looks at the database: that.
    pub noted: Option<[u8; RUNS]>,
}

impl Worker {
    /// The tokens that this process works with, by run.
    pub fn tokens(&self) -> [u8; RUNS] {
        let mut tokens = [0; RUNS];
        for claim in self.slots.iter().filter_map(|step| step.noted()) {
            tokens[claim.run] = tokens[claim.run].max(claim.token);
        }
        tokens
    }

    /// Whether a run that requires isolation would have it.
    pub fn is_isolated(&self) -> bool {
        let mut held = self.slots.iter().filter_map(|step| step.claim());
        !held.any(|claim| claim.isolated)
    }
}

/// The reconciler that sweeps, or sends what it found. One bit for each run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reconciler {
    Idle,
    /// Between `DUE` and `MARK_DELIVERIES` of one sweep.
    Sweeping {
        reclaimed: u8,
        due: u8,
    },
    /// The sweep is committed, the hints are not sent yet.
    Delivering {
        due: u8,
    },
}

/// What a step did that must never be done. Kept in the state, so that the properties need no
/// memory; nothing follows on such a state, so that each fault of the protocol shows as itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct Broken {
    pub completed_twice: bool,
    pub left_completed: bool,
    pub written_without_token: bool,
    pub taken_over_alive: bool,
    pub wait_cut_short: bool,
    pub claimed_too_often: bool,
    pub taken_by_poison: bool,
    pub counted_earlier: bool,
}

impl Broken {
    pub fn any(self) -> bool {
        self != Self::default()
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct State {
    pub runs: [Run; RUNS],
    pub workers: [Worker; WORKERS],
    pub reconciler: Reconciler,
    /// Redis does not answer; what it holds stays, unless it is wiped.
    pub queue_away: bool,
    /// Faults that may still happen.
    pub faults: u8,
    pub broken: Broken,
}

impl State {
    pub fn first(faults: u8) -> Self {
        let run = Run {
            status: Status::Absent,
            delivery: None,
            last: 0,
            started: false,
            base: 0,
            spent: 0,
            lost: false,
            failed_completions: 0,
            open: None,
            unsent: false,
            hints: 0,
            asked: 0,
            terminal_writes: 0,
            taken: 0,
        };
        let worker = Worker {
            process: Process::Up,
            heartbeat: Heartbeat::Fresh,
            fenced: false,
            stopping: false,
            slots: [Step::Idle; SLOTS],
            looked: [0; RUNS],
            noted: None,
        };
        Self {
            runs: [run; RUNS],
            workers: [worker; WORKERS],
            reconciler: Reconciler::Idle,
            queue_away: false,
            faults,
            broken: Broken::default(),
        }
    }

    /// `queue.depth()`
    pub fn depth(&self) -> u8 {
        self.runs.iter().map(|run| run.hints).sum()
    }

    /// Whether this process may take one more run.
    pub fn is_free(&self, w: usize, slots: usize) -> bool {
        let worker = &self.workers[w];
        let busy = worker.slots.iter().filter(|step| **step != Step::Idle);
        worker.process == Process::Up && busy.count() < slots && !worker.fenced && !worker.stopping
    }

    /// The worker that works with this token, if one does.
    pub fn is_held(&self, r: usize, token: u8) -> Option<usize> {
        (0..WORKERS).find(|&w| {
            let mut held = self.workers[w].slots.iter().filter_map(|step| step.claim());
            held.any(|claim| claim.run == r && claim.token == token)
        })
    }
}
