//! Names the runs of which the database refuses what verifyd writes.

use super::{LATEST_ROWS, Line, SHOWN, State, bad, error, more};
use crate::ports::store::{RefusedRun, RefusedRuns, RefusedWrite, Store};
use crate::view::words::counted;
use std::collections::BTreeMap;

const PART: &str = "refused runs";

/// Runs of each rule that are named.
const NAMED: usize = 3;

/// What no code names, as of a value that verifyd cannot read or make. What the server refuses has one.
const WITHOUT_CODE: &str = "look at the log of `verifyd serve` (`cannot write the result of the run`): correct the row that it \
     names; anything else is a defect of verifyd";
const LACKS_RIGHT: &str = "apply deploy/postgres-grants.sql again as its first lines say, or let a policy of operation_runs, \
     tenant_permissions or verification_check_acknowledgements admit what verifyd writes";
const DAMAGED: &str = "the server found damaged data: look at its log, and rebuild the index (REINDEX) or restore a backup";

/// A remedy, and what becomes of the runs.
macro_rules! and_go_on {
    ($remedy:literal) => {
        concat!(
            $remedy,
            "; the runs then go on by themselves, and those whose attempts are used up end failed: check them again"
        )
    };
}

const OF_NAMED: &str = and_go_on!("correct the rule that is named");
const OF_RUNS: &str =
    and_go_on!("correct the trigger, constraint or policy of operation_runs that refuses it");
const OF_ANY_TABLE: &str = and_go_on!(
    "correct the trigger, constraint or policy that refuses it, of operation_runs, tenant_permissions, \
     verification_check_acknowledgements or a table of verifyd's"
);
const OTHERS: &str = "correct the first ones, and run `verifyd doctor` again";

pub(super) async fn check(store: &dyn Store, lines: &mut Vec<Line>) {
    match store.refused_runs(LATEST_ROWS).await {
        Ok(refused) => lines.extend(of_found(&refused)),
        Err(failure) => lines.push(error(PART, &failure)),
    }
}

fn of_found(refused: &RefusedRuns) -> Vec<Line> {
    let mut by_rule: BTreeMap<(RefusedWrite, &str), Vec<&RefusedRun>> = BTreeMap::new();
    for run in &refused.runs {
        let of_rule = by_rule.entry((run.write, &run.refusal)).or_default();
        of_rule.push(run);
    }
    let rules = by_rule.len() as u64;
    let shown = by_rule.into_iter().take(SHOWN as usize);
    let shown = shown.map(|((write, refusal), runs)| line(write, refusal, &runs));
    let mut lines: Vec<Line> = shown.chain(more(PART, rules, OTHERS)).collect();
    if !refused.are_all {
        let found = format!(
            "not all runs were looked at: those of the {LATEST_ROWS} latest refusals, and the oldest {LATEST_ROWS} \
             that are queued or running"
        );
        let remedy = "run `verifyd doctor` again once fewer runs wait";
        lines.push(bad(PART, State::Warning, found, remedy));
    }
    lines
}

/// Chooses the remedy by what [`StoreError::refusal`](crate::ports::store::StoreError::refusal) says: the class, and the
/// rule where it has a name.
fn remedy(write: RefusedWrite, refusal: &str) -> &'static str {
    let (class, rule) = match refusal.split_once(", ") {
        Some((class, rule)) => (class, Some(rule)),
        None => (refusal, None),
    };
    match (class, rule, write) {
        (_, Some(_), _) => OF_NAMED,
        ("corrupt" | "schema" | "refused", ..) => WITHOUT_CODE,
        ("SQLSTATE 42501", ..) => LACKS_RIGHT,
        // data_corrupted, index_corrupted
        ("SQLSTATE XX001" | "SQLSTATE XX002", ..) => DAMAGED,
        (.., RefusedWrite::Requeue) => OF_RUNS,
        (.., RefusedWrite::Result) => OF_ANY_TABLE,
    }
}

/// `runs`: those that one rule refuses.
fn line(write: RefusedWrite, refusal: &str, runs: &[&RefusedRun]) -> Line {
    let refused = match write {
        RefusedWrite::Result => "to store the result of",
        RefusedWrite::Requeue => "to queue again, once its attempt has ended,",
    };
    let named = runs.iter().take(NAMED).map(|run| {
        let id = run.operation_run_id;
        match run.tenant_id {
            Some(tenant) => format!("{id} of tenant {tenant}"),
            None => format!("{id} of no tenant"),
        }
    });
    let mut named: Vec<String> = named.collect();
    if runs.len() > named.len() {
        named.push("…".to_owned());
    }
    let found = format!(
        "the database refused {refused} {}, last with {refusal}: {}",
        counted(runs.len() as u64, "run"),
        named.join(", ")
    );
    bad(PART, State::Warning, found, remedy(write, refusal)).quoting()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{RunId, TenantId};
    use crate::ports::store::StoreError;

    #[test]
    fn the_remedy_follows_from_the_class() {
        let (result, requeue) = (RefusedWrite::Result, RefusedWrite::Requeue);
        let without_code = StoreError::Refused("not valid JSON".into()).refusal();
        for (write, refusal, wanted) in [
            (result, "SQLSTATE P0001, function public.refuse", OF_NAMED),
            (result, "SQLSTATE 42501, function public.refuse", OF_NAMED),
            (result, "SQLSTATE 42501", LACKS_RIGHT),
            (result, "SQLSTATE XX002", DAMAGED),
            (result, "SQLite 1811", OF_ANY_TABLE),
            (requeue, "SQLite 1811", OF_RUNS),
            (result, without_code.as_str(), WITHOUT_CODE),
        ] {
            assert_eq!(remedy(write, refusal), wanted, "{refusal}");
        }
    }

    #[test]
    fn runs_that_were_not_looked_at_are_warned_of() {
        let found = |are_all| {
            let runs = Vec::new();
            let lines = of_found(&RefusedRuns { runs, are_all });
            lines.into_iter().map(|line| line.state).collect::<Vec<_>>()
        };
        assert_eq!(found(true), []);
        assert_eq!(found(false), [State::Warning]);
    }

    #[test]
    fn some_runs_of_a_rule_are_named() {
        let runs: Vec<RefusedRun> = (1..=5)
            .map(|id| RefusedRun {
                operation_run_id: RunId(id),
                tenant_id: (id > 1).then_some(TenantId(7)),
                write: RefusedWrite::Result,
                refusal: "SQLSTATE P0001".into(),
            })
            .collect();
        let runs: Vec<&RefusedRun> = runs.iter().collect();
        let line = line(RefusedWrite::Result, "SQLSTATE P0001", &runs);
        assert!(
            line.found
                .contains("5 runs, last with SQLSTATE P0001: 1 of no tenant, 2 of tenant 7,"),
            "{}",
            line.found
        );
        assert!(line.found.ends_with(", …") && !line.found.contains("5 of"));
    }
}
