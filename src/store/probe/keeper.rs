//! Says of a step that is tried what refuses it, and whose rule that is.

use super::RunSteps;
use crate::domain::report::redact::clean;
use crate::ports::probe::{
    CLAIMING, COMPLETING, RECORDING, RELEASING, REWRITTEN, WRITING_INVENTORY,
};
use crate::ports::store_error::{Code, Detail, StoreError};

/// What may keep or change a row of `operation_runs` without an error, or rewrite a statement.
pub(in crate::store) struct Keeper {
    is_restricted: bool,
    /// With whether INSERTs and whether UPDATEs fire them.
    triggers: Vec<(String, bool, bool)>,
    /// Table, name, and whether of INSERTs, not of UPDATEs.
    rules: Vec<(String, String, bool)>,
}

impl Keeper {
    pub(in crate::store) async fn of(steps: &mut dyn RunSteps) -> Result<Self, StoreError> {
        Ok(Self {
            is_restricted: steps.is_restricted().await?,
            triggers: steps.triggers().await?,
            rules: steps.rules().await?,
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
    /// that may have called it, and where a rule has rewritten the statement, the rules.
    pub(super) fn refused(&self, step: &'static str, error: StoreError) -> StoreError {
        let error = at_step(step, error);
        let is_of_runs = [RECORDING, CLAIMING, RELEASING, COMPLETING].contains(&step);
        if !error.is_of_function() {
            return match error.sqlstate() == Some(REWRITTEN.0) {
                true => error.with_more(&self.rules(step)),
                false => error,
            };
        }
        if is_of_runs {
            return error.with_more(&self.triggers(step));
        }
        let function = error.detail().and_then(|why| why.rule.as_ref());
        let function = function.map(|function| format!(" ({function})"));
        error.with_more(&function.unwrap_or_default())
    }

    /// The error of a statement that changes no row, and so fires only triggers of statements. What a rule of the application
    /// refuses is that of the step which it stands for.
    pub(in crate::store) fn refused_statement(
        &self,
        step: Option<&'static str>,
        error: StoreError,
    ) -> StoreError {
        let is_rewritten =
            |step| error.sqlstate() == Some(REWRITTEN.0) && !self.rules(step).is_empty();
        match step {
            Some(step) if error.is_of_function() || is_rewritten(step) => self.refused(step, error),
            _ => error,
        }
    }

    /// Names the rules of what the step writes. An INSERT with ON CONFLICT is refused for both kinds.
    fn rules(&self, step: &str) -> String {
        let rules = self
            .rules
            .iter()
            .filter(|(table, _, on_insert)| match step {
                WRITING_INVENTORY => table == "tenant_permissions",
                RECORDING => table == "operation_runs" && *on_insert,
                _ => table == "operation_runs" && !on_insert,
            });
        named(REWRITTEN.1, rules.map(|(_, name, _)| name))
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
        named(" (triggers: ", fired.map(|(name, ..)| name))
    }
}

fn named<'a>(what: &str, names: impl Iterator<Item = &'a String>) -> String {
    let names: Vec<String> = names.map(|name| clean(name, 63)).collect();
    match names.is_empty() {
        true => String::new(),
        false => format!("{what}{})", names.join(", ")),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_names_the_rules_of_its_own_statement() {
        let rule = |table: &str, name: &str, on_insert| (table.into(), name.into(), on_insert);
        let keeper = Keeper {
            is_restricted: false,
            triggers: Vec::new(),
            rules: vec![
                rule("operation_runs", "a", true),
                rule("operation_runs", "b", false),
                rule("tenant_permissions", "c", true),
                rule("tenant_permissions", "d", false),
            ],
        };
        for (step, named) in [
            (RECORDING, " (rules: a)"),
            (CLAIMING, " (rules: b)"),
            (COMPLETING, " (rules: b)"),
            (WRITING_INVENTORY, " (rules: c, d)"),
        ] {
            assert_eq!(keeper.rules(step), named);
        }
    }
}
