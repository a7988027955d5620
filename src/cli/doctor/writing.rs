//! Tests the writes of `serve`, which are rolled back, and the ids that its next rows get. The same test decides for
//! `migrate` and for the start of `serve`.

use super::{Line, RUNS, State, TIMEOUT, bad, error, ok};
use crate::cli::remedy::{NO_FURTHER_ID, REPEATED_KEY};
use crate::ports::probe::{
    CLAIMING, COMPLETING, RECORDING, RELEASING, REWRITTEN, RefusedClaim, SWEEPING, UnusableIds,
    WRITING_INVENTORY, Writing,
};
use crate::ports::store::{Store, StoreError};
use std::fmt;
use std::time::Duration;

const PART: &str = "writing";

/// The remedy where a rule of the application refuses what `serve` writes to a run.
const REFUSING_RULE: &str = "let the policy, trigger or constraint that refuses it accept what verifyd \
     writes: status, outcome, context, failure_summary, started_at and completed_at of its runs";

/// The remedy where such a rule refuses the permissions that a check has read.
const REFUSING_PERMISSIONS: &str = "let the column, policy, trigger or constraint of tenant_permissions that refuses it accept \
     what verifyd writes: tenant_id, permission_key, status (granted, missing), details and last_checked_at; until then no \
     check that reads permissions can be completed";

/// The remedy where such a rule refuses a run that verifyd records.
const REFUSING_INSERT: &str = "let the policy, trigger or constraint that refuses it accept a queued run with workspace_id, \
     tenant_id, type, status, context and created_at; until then no check is started by command line, API or page";

/// The remedy where it is not known whether such a rule refuses more than the run that verifyd records.
const REFUSING_ALL: &str = "let the policy, trigger or constraint that refuses it accept a queued run with workspace_id, \
     tenant_id, type, status, context and created_at; or try again while a run is queued";

/// The remedy where such a rule waits for longer than a statement may take, or says so.
const WAITING_RULE: &str = "let the trigger return at once: it waits, or locks what others have locked; or let it \
     accept what verifyd writes";

/// The remedy where rules of PostgreSQL rewrite what is written.
const REWRITING_RULE: &str = "as the table's owner drop each rule that is named (DROP RULE … ON the table or view), and have a trigger \
     do what it is for: PostgreSQL refuses what verifyd writes where rules rewrite it";

/// The remedy for runs that have waited for long, where claims of some are refused.
const REFUSED_FIRST: &str = "first correct what refuses claims, as the next lines say; where other runs wait, too, add \
     replicas, or look at the workers' logs";

/// The remedy where nothing says that it is a rule of the application.
const TRY_AGAIN: &str = "try again; else look for locks and load";

/// The remedy where a trigger changes what `serve` writes, and the run is completed all the same.
const CHANGING_RULE: &str = "let the trigger leave what verifyd writes to its runs; until then API, pages and other \
     readers find what it leaves";

/// What was found where a queued run was claimed, released and completed.
const OTHERS_ACCEPTED: &str =
    "runs of other producers are worked on, and verifyd cannot record its own";

/// What was not tried where none is queued. What refuses the check may refuse claims and completions, too.
const NONE_QUEUED: &str = "claiming could not be tried, since no run is queued";

/// What was found where another producer's run was claimed. A rollback undoes nothing that a trigger does outside.
const ONLY_CLAIMED: &str =
    "claiming a run is accepted; completing one was not tried, since no check could be recorded";

/// What was found where there is no run to try.
const NOTHING_TRIED: &str =
    "no run is queued, and no check could be recorded: nothing could be tried";

/// Returns whether the INSERT of a check has notified the workers; `None`: it cannot be told.
pub async fn check(store: &dyn Store, lines: &mut Vec<Line>) -> Option<bool> {
    // Before a check is recorded, which takes an id.
    let unusable = store.unusable_ids().await.unwrap_or_else(|failure| {
        lines.push(Line {
            state: State::Warning,
            ..error(PART, &failure)
        });
        Vec::new()
    });
    lines.extend(unusable.iter().map(of_ids));
    let tried = store.try_writing().await;
    let notifies = match &tried {
        Ok(Writing::Accepted { notifies, .. }) => *notifies,
        _ => None,
    };
    lines.push(match tried {
        Ok(Writing::Accepted { changed: None, .. }) => ok(PART, "what serve writes is accepted"),
        Ok(Writing::Accepted {
            changed: Some(changed),
            ..
        }) => Line {
            quotes: true,
            ..bad(PART, State::Warning, changed, CHANGING_RULE)
        },
        Ok(Writing::OnlyClaimed) => ok(PART, ONLY_CLAIMED),
        Ok(Writing::NothingTried) => ok(PART, NOTHING_TRIED),
        Ok(Writing::NotRecording(failure) | Writing::NotTried(failure))
            if (failure.has(REPEATED_KEY) || failure.has(NO_FURTHER_ID))
                && unusable.iter().any(|ids| ids.table == "operation_runs") =>
        {
            return None;
        }
        Ok(Writing::NotRecording(failure)) => {
            let line = refused(&failure, REFUSING_INSERT);
            Line {
                state: State::Warning,
                found: format!("{OTHERS_ACCEPTED}: {}", line.found),
                ..line
            }
        }
        Ok(Writing::NotTried(failure)) => {
            let line = refused(&failure, REFUSING_ALL);
            Line {
                // Whether claims are refused depends on what is queued by chance: `serve` starts.
                state: State::Warning,
                found: format!("{}; {NONE_QUEUED}", line.found),
                ..line
            }
        }
        Err(failure) => of_failure(&failure),
    });
    notifies
}

/// Names runs that wait because their claim is refused. `serve` says so in its log and figures alone.
pub(super) async fn check_waiting(store: &dyn Store, waited: Duration, lines: &mut Vec<Line>) {
    // The lines that are there stay where the time of the part ends.
    let mut report = |refusal: RefusedClaim| {
        let RefusedClaim { run, tenant, error } = refusal;
        let of = tenant.map_or_else(String::new, |tenant| format!(" of tenant {tenant}"));
        let line = refused(&error, REFUSING_RULE);
        let numbers = lines.iter_mut().find(|line| line.part == RUNS);
        if let Some(remedy) = numbers.and_then(|line| line.remedy.as_mut()) {
            REFUSED_FIRST.clone_into(remedy);
        }
        lines.push(Line {
            part: RUNS,
            state: State::Warning,
            found: format!("run {run}{of} waits: {}", line.found),
            quotes: true,
            ..line
        });
    };
    let tried = store.refused_claims(waited, &mut report).await;
    if let Err(failure) = tried {
        lines.push(Line {
            state: State::Warning,
            ..error(RUNS, &failure)
        });
    }
}

/// A line for a test that has failed.
fn of_failure(failure: &StoreError) -> Line {
    match failure.step() {
        Some(WRITING_INVENTORY) => refused(failure, REFUSING_PERMISSIONS),
        Some(RECORDING) => refused(failure, REFUSING_INSERT),
        _ => refused(failure, REFUSING_RULE),
    }
}

/// Why nothing can be served: what `doctor` shows as failed of the writes, with its remedy.
pub(in crate::cli) struct Refusal {
    pub found: String,
    pub remedy: String,
    /// Whether a rule of the application refuses it, and no missing right or policy, which another role may not lack.
    pub is_of_rule: bool,
    /// Whether it surely refuses every role: a constraint does, and in SQLite there are no roles; a trigger may test its
    /// user.
    pub is_of_every_role: bool,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { found, remedy, .. } = self;
        let stop = if remedy.is_empty() { "" } else { ". " };
        write!(
            f,
            "the database does not take what `serve` writes:\n  {found}{stop}{remedy}"
        )
    }
}

/// Tries the writes. `None`: they are accepted, or could not be tried for a reason that passes, such as a lock or an outage.
pub(in crate::cli) async fn refusal(store: &dyn Store) -> Option<Refusal> {
    let failure = match tokio::time::timeout(TIMEOUT, store.try_writing()).await {
        Ok(Ok(_)) => return None,
        Ok(Err(failure)) => failure,
        Err(_) => {
            let seconds = TIMEOUT.as_secs();
            tracing::warn!(seconds, "what `serve` writes could not be tried in time");
            return None;
        }
    };
    if failure.is_transient() {
        tracing::warn!(error = %failure, "what `serve` writes could not be tried");
        return None;
    }
    let line = of_failure(&failure);
    Some(Refusal {
        found: line.found,
        remedy: line.remedy.unwrap_or_default(),
        is_of_rule: is_refused_by_a_rule(&failure),
        is_of_every_role: store.kind() == "sqlite" || failure.violates_constraint(),
    })
}

/// A line for the next ids of a table.
fn of_ids(ids: &UnusableIds) -> Line {
    let UnusableIds {
        table,
        sequence,
        next,
        taken,
        increment,
        largest,
        last,
    } = ids;
    let is_positive = next.is_none_or(|next| next > 0);
    if *increment < 0 || !is_positive {
        let state = match *table {
            "operation_runs" if !is_positive => State::Failed,
            _ => State::Warning,
        };
        let of_runs = match *table {
            "operation_runs" => "; no worker claims a run whose id is not positive",
            _ => "",
        };
        let found = format!(
            "the next id of {table} is {}, and its sequence counts by {increment}: ids must be positive, and those of \
             later rows larger{of_runs}",
            next.map_or_else(|| "none".to_owned(), |next| next.to_string())
        );
        let remedy = format!(
            "as the table's owner: ALTER SEQUENCE {sequence} INCREMENT BY {} MINVALUE 1 NO MAXVALUE START WITH 1 \
             RESTART WITH {};",
            (*increment).max(1),
            largest.saturating_add(1)
        );
        return bad(PART, state, found, remedy);
    }
    let remedy = match largest >= last {
        true => format!(
            "as the table's owner delete the row of {table} whose id is {largest}, or give it a smaller id, and run \
             `verifyd doctor` again: the sequence gives no id after {last}"
        ),
        false => format!(
            "as the table's owner: SELECT setval('{}', coalesce(max(id), 1), max(id) IS NOT NULL) FROM {table};",
            sequence.replace('\'', "''")
        ),
    };
    let found = match (next, taken.unwrap_or(*largest)) {
        (Some(next), taken) if taken < *largest => format!(
            "the next id of {table} is {next}, {taken} is there already, and others up to {largest}: an INSERT is refused \
             where its id is taken"
        ),
        (Some(next), taken) => format!(
            "the next id of {table} is {next}, and {taken} is there already: an INSERT is refused where its id is taken"
        ),
        (None, _) => format!(
            "the sequence of {table} is at its end, and the largest id is {largest}: an INSERT is refused"
        ),
    };
    bad(PART, State::Warning, found, remedy)
}

/// A line for what was refused, with this remedy where a rule of the application refuses a step with a run. `serve` starts
/// where it may be accepted later: see [`refusal`].
fn refused(failure: &StoreError, of_rule: &str) -> Line {
    let line = error(PART, failure);
    let is_contended = matches!(failure, StoreError::Contended(_));
    let is_of_rule = is_refused_by_a_rule(failure);
    let code = failure.sqlstate().unwrap_or_default();
    // deadlock_detected, lock_not_available, query_canceled
    let waits = matches!(code, "40P01" | "55P03" | "57014");
    // insufficient_resources
    let lacks_resources = code.starts_with("53") && line.remedy.is_some();
    // insufficient_privilege, unless a function of the application raises it by itself
    let lacks_right = code == "42501" && line.remedy.is_some();
    let remedy = match (is_of_rule, is_contended) {
        _ if lacks_resources || lacks_right => line.remedy,
        _ if failure.has(REWRITTEN) => Some(REWRITING_RULE.to_owned()),
        (true, true) if waits => Some(WAITING_RULE.to_owned()),
        (true, _) => Some(of_rule.to_owned()),
        (false, true) => Some(TRY_AGAIN.to_owned()),
        (false, false) => line.remedy,
    };
    let state = match is_contended || is_of_rule && failure.is_transient() {
        true => State::Warning,
        false => line.state,
    };
    Line {
        state,
        remedy,
        ..line
    }
}

/// Whether a rule of the application refuses a step with a run, whatever its code: no right, policy or key, which have
/// other remedies.
fn is_refused_by_a_rule(failure: &StoreError) -> bool {
    let steps = [
        RECORDING,
        CLAIMING,
        RELEASING,
        COMPLETING,
        WRITING_INVENTORY,
        SWEEPING,
    ];
    let others = [
        ("42501", ""),
        ("", "row-level security"),
        ("", "configuration parameter"),
        REPEATED_KEY,
        NO_FURTHER_ID,
    ];
    (matches!(failure, StoreError::Refused(_)) || failure.is_of_function())
        && failure.step().is_some_and(|step| steps.contains(&step))
        && !others.into_iter().any(|other| failure.has(other))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ports::store_error::{Detail, Origin};

    #[test]
    fn a_full_disk_is_told_from_a_function_that_raises_its_code() {
        let remedy = |origin| {
            let full = Detail::said("no space left (SQLSTATE 53100)").at(CLAIMING);
            let full = StoreError::Contended(Detail { origin, ..full });
            refused(&full, REFUSING_RULE).remedy.unwrap_or_default()
        };
        assert!(remedy(None).contains("make room"));
        assert_eq!(remedy(Some(Origin::Function)), REFUSING_RULE);
    }

    #[test]
    fn ids_do_not_go_on_behind_the_last_one() {
        let remedy = |largest, last| {
            let ids = UnusableIds {
                table: "operation_runs",
                sequence: "public.\"it's\"".to_owned(),
                next: Some(1),
                taken: Some(5),
                increment: 1,
                largest,
                last,
            };
            of_ids(&ids).remedy.unwrap_or_default()
        };
        assert!(remedy(5, i64::MAX).contains("setval('public.\"it''s\"', "));
        for (largest, last) in [(i64::MAX, i64::MAX), (i64::from(i32::MAX), 2_147_483_647)] {
            let remedy = remedy(largest, last);
            assert!(!remedy.contains("setval"), "{remedy}");
            let row = format!("delete the row of operation_runs whose id is {largest}");
            assert!(remedy.contains(&row), "{remedy}");
        }
    }
}
