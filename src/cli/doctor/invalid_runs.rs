//! Names the rows of runs that a producer got wrong.

use super::{LATEST_ROWS, Line, SHOWN, State, bad, error, more};
use crate::ports::store::Store;

const PART: &str = "invalid runs";

const REMEDY: &str = "correct whoever wrote it (docs/guides/enqueue.md says what a row must hold)";

pub async fn check(store: &dyn Store, lines: &mut Vec<Line>) {
    let invalid = match store.invalid_runs(LATEST_ROWS, LATEST_ROWS).await {
        Ok(invalid) => invalid,
        Err(failure) => return lines.push(error("runs", &failure)),
    };
    lines.extend(invalid.iter().take(SHOWN as usize).map(|run| {
        let (column, id) = (run.column, run.operation_run_id);
        let found = format!("operation_runs.{column} of run {id}: {}", run.problem);
        let remedy = run.remedy.as_deref().unwrap_or(REMEDY);
        bad(PART, State::Warning, found, remedy).quoting()
    }));
    lines.extend(more(PART, invalid.len() as u64, REMEDY));
}
