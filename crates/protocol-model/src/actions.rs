//! The steps there are: of producers, workers and the reconciler, the passing of time, and the faults.

use crate::store::End;

/// A worker, and which of its slots.
pub type Slot = (usize, usize);

/// One step. Those that call the store have the name of its function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Another application's bare INSERT.
    Insert(usize),
    Record(usize),
    /// The producer sends the hint, or takes the mark of delivery back where the queue is unavailable.
    Submit(usize),

    Fetch(usize, usize),
    Claim(Slot),
    /// The provider is called and answers.
    Ask(Slot),
    Complete(Slot),
    Release(Slot, End),
    /// The worker is stopped, so it waits no longer for a run to be isolated.
    GiveUp(Slot),
    /// The poison run kills the worker that works on it.
    Die(Slot),
    /// The process asks for its open attempts.
    Look(usize),
    /// It releases those that it does not work on.
    ReleaseOrphaned(usize),
    /// The worker drops what it holds, as its heartbeat does not get through.
    Fence(Slot),
    Heartbeat(usize),
    Retire(usize),
    /// A supervisor starts the process again.
    Start(usize),

    Sweep,
    MarkDeliveries,
    /// The reconciler sends the hints of what it found.
    Deliver,
    /// The queue is unavailable: the reconciler gives a run to a free slot of its process.
    TakeDirectly(usize, usize),
    Undeliver,

    /// `worker.dead_after` has passed since the last heartbeat.
    LeaseEnds(usize),
    /// The same for a process that is gone.
    OrphanedLeaseEnds(usize),
    DeadlinePasses(usize),
    NotBeforePasses(usize),
    RedeliverAfterPasses(usize),

    Resume(usize),
    QueueIsBack,
    /// Another run that has to be isolated takes too long: the hint is left.
    WaitTooLong(Slot),
    /// `Look` where nothing is amiss.
    LookInVain(usize),

    Crash(usize),
    Pause(usize),
    /// The heartbeat does not get through for a while.
    Cut(usize),
    /// SIGTERM. What is in flight is completed or released, as the grace period will have it.
    Terminate(usize),
    /// The database cannot be reached: what the worker has begun is left, its hint is tried again.
    Lose(Slot),
    /// The commit took place, its answer did not arrive.
    ClaimReplyLost(Slot),
    CompleteReplyLost(Slot),
    ReleaseReplyLost(Slot),
    /// The provider asks to wait for longer than an attempt may.
    Throttle(Slot),
    /// Something of verifyd's own fails.
    Fail(Slot),
    /// The attempt takes longer than its deadline although its process lives.
    Overrun(usize),
    ProducerCrash(usize),
    /// In the middle of a sweep, or with hints to send, or the answer of the commit was lost.
    ReconcilerCrash,
    HintLost(usize),
    /// The hint was in the queue of another group of workspaces.
    HandedOver(usize),
    /// Also a forged one.
    HintDuplicated(usize),
    /// The hint was fetched and then forgotten.
    FetchedHintLost(Slot),
    QueueWiped,
    QueueAway,
    /// The other application puts a run in flight back to `queued`.
    RequeuedOutside(usize),
    /// The other application sets a queued run to `running`; nobody works on it.
    StartedOutside(usize),
    /// The other application ends the run itself.
    CompletedOutside(usize),
    /// It makes its table anew, or a backup is restored: another run gets the same id.
    GivenAgain(usize),
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
            | Self::GiveUp(_)
            | Self::Die(_)
            | Self::Look(_)
            | Self::ReleaseOrphaned(_)
            | Self::Fence(_)
            | Self::Heartbeat(_)
            | Self::Retire(_)
            | Self::Start(_)
            | Self::Sweep
            | Self::MarkDeliveries
            | Self::Deliver
            | Self::TakeDirectly(..)
            | Self::Undeliver
            | Self::LeaseEnds(_)
            | Self::OrphanedLeaseEnds(_)
            | Self::NotBeforePasses(_)
            | Self::RedeliverAfterPasses(_) => Kind::Sure,
            Self::Resume(_)
            | Self::QueueIsBack
            | Self::WaitTooLong(_)
            | Self::LookInVain(_)
            | Self::DeadlinePasses(_) => Kind::Perhaps,
            _ => Kind::Fault,
        }
    }
}
