//! What is promised, judged from outside: by what a step changed, not by what it tested.

use crate::actions::Action;
use crate::protocol::Protocol;
use crate::state::{Attempt, Broken, Heartbeat, Holder, RUNS, State, Status, Step};
use crate::store::Store;
use stateright::Property;

pub const ONE_TERMINAL_WRITE: &str = "at most one terminal write";
pub const TERMINAL_IS_FINAL: &str = "what is terminal stays terminal";
pub const CURRENT_TOKEN: &str = "only the current token writes";
pub const TAKEOVER: &str = "a takeover only after the lease ended or was released";
pub const ATTEMPTS: &str = "the provider is asked at most N times";
pub const WAIT: &str = "a wait that was asked for is kept";
pub const CLAIMS: &str = "a run is claimed a bounded number of times";
pub const SPARED: &str = "a poison run never costs another one all its attempts";
pub const EARLIER: &str = "what belongs to an earlier run of the same id never counts";
pub const QUIESCENT: &str = "a quiescent state is terminal";

pub const ALL_SPENT: &str = "all attempts are spent";
pub const OVERTAKEN: &str = "a worker is overtaken";
pub const TOO_LATE: &str = "a worker comes too late";
pub const LEFT_ALIVE: &str = "a live worker has left its attempt";
pub const WAITING: &str = "a run waits to be isolated";
pub const FORCED_COMPLETION: &str = "a run comes to a forced completion";
pub const QUEUE_AWAY: &str = "a run is completed without the queue";

/// Writes into `after` what must not have happened.
pub fn judge(model: &Protocol, before: &State, action: Action, after: &mut State) {
    let mut broken = Broken::default();
    for r in 0..RUNS {
        let (old, new) = (&before.runs[r], &after.runs[r]);
        let writer = writer(before, action, r);
        broken.completed_twice |= new.terminal_writes > 1;
        let given_again = action == Action::GivenAgain(r);
        broken.left_completed |=
            old.status == Status::Completed && new.status != Status::Completed && !given_again;

        // A worker that ends its own work, and not by a claim.
        let moved = old.status != new.status || old.terminal_writes != new.terminal_writes;
        if let Some(token) = writer
            && moved
        {
            broken.written_without_token |= token != old.last
                || token <= old.base
                || old.open.map(|open| open.token) != Some(token);
        }

        // A claim or a sweep ended the lease.
        if let Some(open) = old.open
            && new.open.map(|now| now.token) != Some(open.token)
            && writer.is_none()
            && old.status == Status::Running
            && !given_again
        {
            let given_up = matches!(action, Action::ReleaseOrphaned(w) if open.holder == Holder::Process(w))
                && before.is_held(r, open.token).is_none();
            broken.taken_over_alive |= !given_up && !lease_has_ended(before, open);
        }

        // A claim of its own is what ends the attempts of a run.
        let exhausted = after.workers.iter().flat_map(|worker| worker.slots);
        let exhausted = exhausted
            .filter_map(|step| step.claim())
            .any(|claim| claim.run == r && claim.exhausted && claim.token == new.last);
        broken.counted_earlier |=
            exhausted && new.last > old.last && old.last - old.base < model.store.max_attempts;

        let waited = old
            .delivery
            .is_some_and(|delivery| delivery.waits && !delivery.earlier);
        let waits = new.delivery.is_some_and(|delivery| delivery.waits);
        broken.wait_cut_short |= waited
            && !waits
            && action != Action::NotBeforePasses(r)
            && new.status != Status::Completed;

        // Each claim is completed, counts, is failed_completions, or met a fault; a process that is stopped
        // may give back as many as it has slots.
        let limit = model.store.max_attempts + model.store.max_failed_completions + 1;
        let met = (model.faults - after.faults) * u8::try_from(model.slots).unwrap();
        broken.claimed_too_often |= new.last - new.base > limit + met;
        broken.taken_by_poison |= new.taken >= model.store.max_attempts;
    }
    after.broken = broken;
}

/// The token with which this step ends work on run `r`.
fn writer(before: &State, action: Action, r: usize) -> Option<u8> {
    let (w, k) = match action {
        Action::Complete(slot)
        | Action::CompleteReplyLost(slot)
        | Action::Release(slot, _)
        | Action::ReleaseReplyLost(slot)
        | Action::Throttle(slot)
        | Action::Fail(slot) => slot,
        _ => return None,
    };
    let claim = before.workers[w].slots[k].claim()?;
    (claim.run == r).then_some(claim.token)
}

/// By the worker's heartbeat and the deadline, not by what the store tests.
fn lease_has_ended(s: &State, open: Attempt) -> bool {
    let is_fresh = match open.holder {
        Holder::Process(w) => s.workers[w].heartbeat == Heartbeat::Fresh,
        Holder::Gone { heartbeat } => heartbeat == Heartbeat::Fresh,
    };
    open.overdue || !is_fresh
}

fn holds(s: &State, test: impl Fn(Step) -> bool) -> bool {
    let mut steps = s.workers.iter().flat_map(|worker| worker.slots);
    steps.any(test)
}

/// A worker that works with a token while somebody else has a newer one.
fn is_overtaken(s: &State) -> bool {
    holds(s, |step| {
        step.claim().is_some_and(|claim| {
            let run = &s.runs[claim.run];
            run.status == Status::Running && run.open.is_some_and(|open| open.token > claim.token)
        })
    })
}

fn works_too_late(s: &State) -> bool {
    holds(s, |step| {
        step.claim()
            .is_some_and(|claim| s.runs[claim.run].status == Status::Completed)
    })
}

/// The promises. Each is an invariant; [`QUIESCENT`] needs `progress` beside it.
pub fn promises() -> Vec<Property<Protocol>> {
    vec![
        Property::always(ONE_TERMINAL_WRITE, |_, s: &State| !s.broken.completed_twice),
        Property::always(TERMINAL_IS_FINAL, |_, s: &State| !s.broken.left_completed),
        Property::always(CURRENT_TOKEN, |_, s: &State| {
            !s.broken.written_without_token
        }),
        Property::always(TAKEOVER, |_, s: &State| !s.broken.taken_over_alive),
        Property::always(ATTEMPTS, |m: &Protocol, s: &State| {
            let limit = m.store.max_attempts;
            s.runs
                .iter()
                .all(|run| run.asked <= limit && run.spent <= limit)
        }),
        Property::always(CLAIMS, |_, s: &State| !s.broken.claimed_too_often),
        Property::always(SPARED, |_, s: &State| !s.broken.taken_by_poison),
        Property::always(EARLIER, |_, s: &State| !s.broken.counted_earlier),
        Property::always(WAIT, |_, s: &State| !s.broken.wait_cut_short),
        Property::always(QUIESCENT, |m: &Protocol, s: &State| {
            s.broken.any() || m.is_terminal(s) || !m.is_quiescent(s)
        }),
    ]
}

/// Signs that the model comes to where the promises are at stake.
pub fn signs() -> Vec<Property<Protocol>> {
    vec![
        Property::sometimes(OVERTAKEN, |_, s: &State| is_overtaken(s)),
        Property::sometimes(TOO_LATE, |_, s: &State| works_too_late(s)),
        Property::sometimes(ALL_SPENT, |_, s: &State| {
            holds(s, |step| step.claim().is_some_and(|claim| claim.exhausted))
        }),
        Property::sometimes(
            "both workers hold a hint of the same run",
            |_, s: &State| {
                let hints = s.workers.map(|worker| {
                    let mut slots = worker.slots.into_iter();
                    slots.find(|step| matches!(step, Step::Fetched(_)))
                });
                hints[0].is_some() && hints[0] == hints[1]
            },
        ),
        Property::sometimes(WAITING, |_, s: &State| {
            holds(s, |step| matches!(step, Step::Waiting(_)))
        }),
        Property::sometimes(FORCED_COMPLETION, |_, s: &State| {
            holds(s, |step| {
                step.claim().is_some_and(|claim| claim.forced_completion)
            })
        }),
        Property::sometimes(QUEUE_AWAY, |m: &Protocol, s: &State| {
            s.queue_away && m.is_terminal(s)
        }),
        Property::sometimes(LEFT_ALIVE, |_, s: &State| {
            (0..RUNS).any(|r| {
                s.runs[r].open.is_some_and(|open| {
                    s.is_held(r, open.token).is_none()
                        && matches!(open.holder, Holder::Process(_))
                        && !Store::lease_is_dead(s, open)
                })
            })
        }),
        Property::sometimes("everything has come to its end", |m: &Protocol, s| {
            m.is_terminal(s) && !holds(s, |step| step != Step::Idle) && m.is_quiescent(s)
        }),
    ]
}
