//! Names the applications whose requests are held back.

use super::{Line, SHOWN, State, bad, error, more};
use crate::ports::store::Store;

const PART: &str = "throttling";

const REMEDY: &str = "start checks over a longer time, and find out what else uses the application";

pub(super) async fn check(store: &dyn Store, lines: &mut Vec<Line>) {
    let budgets = match store.budgets().await {
        Ok(budgets) => budgets,
        Err(failure) => return lines.push(error(PART, &failure)),
    };
    lines.extend(budgets.iter().take(SHOWN as usize).map(|budget| {
        let found = format!(
            "Microsoft throttles the application {} in {}: all replicas together send {} requests a minute at most",
            budget.key.client_id, budget.key.cloud, budget.per_minute
        );
        bad(PART, State::Warning, found, REMEDY).quoting()
    }));
    lines.extend(more(PART, budgets.len() as u64, REMEDY));
}
