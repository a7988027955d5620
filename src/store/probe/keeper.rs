//! Says of a step that is tried what refuses it, and whose rule that is.

use super::RunSteps;
use crate::domain::report::redact::clean;
use crate::ports::probe::{CLAIMING, COMPLETING, RECORDING, RELEASING};
use crate::ports::store_error::{Code, Detail, StoreError};

/// What may keep or change a row of `operation_runs` without an error.
pub(super) struct Keeper {
    is_restricted: bool,
    /// With whether INSERTs and whether UPDATEs fire them.
    triggers: Vec<(String, bool, bool)>,
}

impl Keeper {
    pub(super) async fn of(steps: &mut dyn RunSteps) -> Result<Self, StoreError> {
        Ok(Self {
            is_restricted: steps.is_restricted().await?,
            triggers: steps.triggers().await?,
        })
    }

    /// The error of a row that stays as it is.
    pub(super) fn keeps_row(&self) -> StoreError {
        let keeper = match self.is_restricted {
            true => "row-level security or a trigger",
            false => "a trigger",
        };
        refused_by_trigger(format!("{keeper} keeps the row of operation_runs as it is"))
    }

    /// The error of a row of which these columns are not as they were written.
    pub(super) fn changes_row(&self, columns: &[&str]) -> StoreError {
        let is_changed = |column: &&str| columns.contains(column);
        match ["status", "outcome", "completed_at"].iter().all(is_changed) {
            true => self.keeps_row(),
            false => refused_by_trigger(changed(columns)),
        }
    }

    /// Says that these columns are not as a completion wrote them, though it is accepted.
    pub(super) fn changes(&self, columns: &[&str]) -> String {
        changed(columns) + &self.triggers(COMPLETING)
    }

    /// The error of a step that was refused. Where a function of the application has raised it, it names the triggers
    /// that may have called it.
    pub(super) fn refused(&self, step: &'static str, error: StoreError) -> StoreError {
        let error = at_step(step, error);
        let is_of_runs = [RECORDING, CLAIMING, RELEASING, COMPLETING].contains(&step);
        match is_of_runs && error.is_of_function() {
            true => error.with_more(&self.triggers(step)),
            false => error,
        }
    }

    /// Names the triggers that the step fires.
    fn triggers(&self, step: &str) -> String {
        let fired = self
            .triggers
            .iter()
            .filter(|(_, on_insert, on_update)| match step {
                RECORDING => *on_insert,
                _ => *on_update,
            });
        let names: Vec<String> = fired.map(|(name, ..)| clean(name, 63)).collect();
        match names.is_empty() {
            true => String::new(),
            false => format!(" (triggers: {})", names.join(", ")),
        }
    }
}

fn changed(columns: &[&str]) -> String {
    let columns = columns.join(", ");
    format!("a trigger changes what is written to operation_runs: {columns}")
}

fn refused_by_trigger(text: String) -> StoreError {
    StoreError::Refused(Detail::new(text, Some(Code::Trigger)))
}

/// Names the step that was refused. What a trigger does besides, in other tables, is not about verifyd's schema.
pub(super) fn at_step(step: &str, error: StoreError) -> StoreError {
    let mut error = match error {
        StoreError::Schema(why) if step != RECORDING => StoreError::Refused(why),
        other => other,
    };
    if let Some(why) = error.detail_mut() {
        *why = why.clone().at(step);
    }
    error
}
