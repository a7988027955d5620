//! Names the rows of runs that a producer got wrong.

use super::{LATEST_ROWS, Line, RUNS, SHOWN, State, bad, error, more};
use crate::domain::RunId;
use crate::ports::invalid_runs::InvalidRun;
use crate::ports::store::Store;

const PART: &str = "invalid runs";

const REMEDY: &str = "correct whoever wrote it (docs/guides/enqueue.md says what a row must hold)";

pub async fn check(store: &dyn Store, lines: &mut Vec<Line>) {
    let invalid = match store.invalid_runs(LATEST_ROWS, LATEST_ROWS).await {
        Ok(invalid) => invalid,
        Err(failure) => return lines.push(error(RUNS, &failure)),
    };
    lines.extend(invalid.iter().take(SHOWN as usize).map(|run| {
        let (found, remedy) = described(run);
        bad(PART, State::Warning, found, remedy).quoting()
    }));
    lines.extend(more(PART, invalid.len() as u64, REMEDY));
}

/// Returns what is invalid about the row of this id, and what mends it.
pub(in crate::cli) async fn of(store: &dyn Store, id: RunId) -> Option<String> {
    // Whoever asks has read that there is no such run, which is true all the same.
    let run = store.invalid_run(id).await.ok()??;
    let (found, remedy) = described(&run);
    Some(format!("{found}; {remedy}"))
}

fn described(run: &InvalidRun) -> (String, &str) {
    let (column, id) = (run.column, run.operation_run_id);
    let found = format!("operation_runs.{column} of run {id}: {}", run.problem);
    (found, run.remedy.as_deref().unwrap_or(REMEDY))
}
