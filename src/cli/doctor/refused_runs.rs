//! Names the runs of which the database refuses what verifyd writes.

use super::{LATEST_ROWS, Line, SHOWN, State, bad, error, more};
use crate::ports::store::{RefusedRun, RefusedWrite, Store};
use crate::view::words::counted;
use std::collections::BTreeMap;

const PART: &str = "refused runs";

/// Runs of each rule that are named.
const NAMED: usize = 3;

const REMEDY: &str = "correct this trigger, constraint or policy of operation_runs; the runs are then tried again by themselves";

pub(super) async fn check(store: &dyn Store, lines: &mut Vec<Line>) {
    let refused = match store.refused_runs(LATEST_ROWS).await {
        Ok(refused) => refused,
        Err(failure) => return lines.push(error(PART, &failure)),
    };
    let mut by_rule: BTreeMap<(RefusedWrite, &str), Vec<&RefusedRun>> = BTreeMap::new();
    for run in &refused {
        let of_rule = by_rule.entry((run.write, &run.refusal)).or_default();
        of_rule.push(run);
    }
    let rules = by_rule.len() as u64;
    let shown = by_rule.into_iter().take(SHOWN as usize);
    lines.extend(shown.map(|((write, refusal), runs)| line(write, refusal, &runs)));
    lines.extend(more(PART, rules, REMEDY));
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
    bad(PART, State::Warning, found, REMEDY).quoting()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{RunId, TenantId};

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
