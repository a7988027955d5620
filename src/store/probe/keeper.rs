//! Says of a step that is tried what refuses it, and whose rule that is.

use super::RunSteps;
use crate::domain::report::redact::clean;
use crate::ports::probe::{CLAIMING, COMPLETING, RECORDING, RELEASING};
use crate::ports::store_error::{Code, Detail, Origin, StoreError};

/// What may keep or change a row of `operation_runs` without an error.
pub(super) struct Keeper {
    is_restricted: bool,
    triggers: Vec<String>,
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
        refused_by_trigger(
            self.with_triggers(format!("{keeper} keeps the row of operation_runs as it is")),
        )
    }

    /// The error of a row of which these columns are not as they were written.
    pub(super) fn changes_row(&self, columns: &[&str]) -> StoreError {
        let is_changed = |column: &&str| columns.contains(column);
        match ["status", "outcome", "completed_at"].iter().all(is_changed) {
            true => self.keeps_row(),
            false => refused_by_trigger(self.changes(columns)),
        }
    }

    /// Says that these columns are not as they were written.
    pub(super) fn changes(&self, columns: &[&str]) -> String {
        let columns = columns.join(", ");
        self.with_triggers(format!(
            "a trigger changes what is written to operation_runs: {columns}"
        ))
    }

    /// The error of a step that was refused. Where a function of the application has raised it, it names the triggers
    /// that may have called it. A transaction that has written, and then may only read, is read-only by a trigger, and not
    /// by the server.
    pub(super) fn refused(&self, step: &'static str, error: StoreError) -> StoreError {
        let mut error = at_step(step, error);
        let is_read_only = error.sqlstate() == Some("25006");
        let is_of_function = error.is_of_function() || is_read_only;
        let is_of_runs = [RECORDING, CLAIMING, RELEASING, COMPLETING].contains(&step);
        if let Some(why) = error.detail_mut().filter(|_| is_of_function) {
            why.origin = Some(Origin::Function);
            if is_of_runs {
                why.text = self.with_triggers(std::mem::take(&mut why.text));
            }
        }
        error
    }

    fn with_triggers(&self, mut text: String) -> String {
        if !self.triggers.is_empty() {
            let names = self.triggers.iter().map(|name| clean(name, 63));
            let names: Vec<String> = names.collect();
            text.push_str(&format!(" (triggers: {})", names.join(", ")));
        }
        text
    }
}

fn refused_by_trigger(text: String) -> StoreError {
    StoreError::Refused(Detail::new(text, Some(Code::Trigger)))
}

/// Names the step that was refused. What a trigger does besides, in other tables, is not about verifyd's schema.
pub(super) fn at_step(step: &str, error: StoreError) -> StoreError {
    match error {
        StoreError::Schema(why) if step == RECORDING => StoreError::Schema(why.at(step)),
        StoreError::Refused(why) | StoreError::Schema(why) => StoreError::Refused(why.at(step)),
        StoreError::Contended(why) => StoreError::Contended(why.at(step)),
        StoreError::Unavailable(why) => StoreError::Unavailable(why.at(step)),
        other => other,
    }
}
