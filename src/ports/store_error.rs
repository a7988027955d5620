//! Errors of the database, for every port that a store implements.

use std::fmt;

/// Why the database could not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Not reachable, or it refused or ended the connection. Nothing is known of what was under way.
    #[error("the database is not available: {0}")]
    Unavailable(Detail),
    /// A deadlock, a serialization failure, a lock that was not granted in time, or another answer to one statement
    /// that says to try again.
    #[error("the database is contended: {0}")]
    Contended(Detail),
    /// The call was not sent: no connection for calls like it got free in time.
    #[error("the database is contended: no connection for calls like this got free in time")]
    TooManyCalls,
    /// Another transaction locks the run of a claim: perhaps an earlier claim that has got no answer.
    #[error("the database is contended: another transaction locks the run")]
    LockedRun,
    /// A row contains an invalid value.
    #[error("{table}.{column} of row {row}: {why}")]
    Corrupt {
        table: &'static str,
        column: &'static str,
        row: String,
        why: String,
    },
    /// A table or column is missing or of another type; `verifyd doctor` names it.
    #[error("the database's schema does not fit: {0}")]
    Schema(Detail),
    /// The database refused the statement.
    #[error("the database refused: {0}")]
    Refused(Detail),
    /// No connection can be opened with the settings, or with what they name. The server has refused nothing.
    #[error("{0}")]
    Settings(Detail),
}

/// The text of an error, and the code that tells it from others: a trigger may choose the text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Detail {
    /// What was being done. It is shown before the text.
    pub step: Option<String>,
    pub text: String,
    pub code: Option<Code>,
    /// `None`: the database does not say, names a function of verifyd, or has met a conflict with another transaction.
    pub origin: Option<Origin>,
    /// The constraint, or the function of a trigger, that refused the row, where the database names it.
    pub rule: Option<String>,
}

/// What the database says an error comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A constraint of the table that the statement writes, and nothing that a trigger does.
    Constraint,
    /// A function of the application, such as that of a trigger or policy, which may choose text and code.
    Function,
    /// The server, which has ended such a function because a lock was not granted, or a statement not done, in time.
    Waiting,
}

/// What caused an error. The text shows it, too.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Code {
    /// PostgreSQL or a pooler before it answered with this. A trigger may choose it.
    Sqlstate(String),
    /// SQLite answered with this; the low byte is the primary code.
    Sqlite(i32),
    /// A trigger kept or filled a row without an error.
    Trigger,
}

/// An SQLSTATE, and words of the text of an error, where its code says too little; an empty one fits any.
pub type Sign = (&'static str, &'static str);

/// read_only_sql_transaction
const READ_ONLY: &str = "25006";

impl fmt::Display for Detail {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.step {
            Some(step) => write!(f, "{step}: {}", self.text),
            None => f.write_str(&self.text),
        }
    }
}

impl<T: Into<String>> From<T> for Detail {
    fn from(text: T) -> Self {
        Self::new(text, None)
    }
}

impl Detail {
    /// Returns what an error says, with its code.
    pub fn new(text: impl Into<String>, code: Option<Code>) -> Self {
        Self {
            step: None,
            text: text.into(),
            code,
            origin: None,
            rule: None,
        }
    }

    /// Returns the same with what was being done.
    pub fn at(self, step: impl Into<String>) -> Self {
        Self {
            step: Some(step.into()),
            text: self.to_string(),
            ..self
        }
    }
}

impl StoreError {
    /// Returns the error of an invalid value.
    pub fn corrupt(
        table: &'static str,
        column: &'static str,
        row: impl ToString,
        why: impl ToString,
    ) -> Self {
        Self::Corrupt {
            table,
            column,
            row: row.to_string(),
            why: why.to_string(),
        }
    }

    /// Returns the error with these words behind its text, where it has one.
    pub fn with_more(mut self, words: &str) -> Self {
        if let Some(why) = self.detail_mut() {
            why.text += words;
        }
        self
    }

    /// Returns the text and code, where the error has them.
    pub fn detail(&self) -> Option<&Detail> {
        match self {
            Self::Unavailable(why)
            | Self::Contended(why)
            | Self::Schema(why)
            | Self::Refused(why)
            | Self::Settings(why) => Some(why),
            Self::TooManyCalls | Self::LockedRun | Self::Corrupt { .. } => None,
        }
    }

    pub(crate) fn detail_mut(&mut self) -> Option<&mut Detail> {
        match self {
            Self::Unavailable(why)
            | Self::Contended(why)
            | Self::Schema(why)
            | Self::Refused(why)
            | Self::Settings(why) => Some(why),
            _ => None,
        }
    }

    /// Returns the code of PostgreSQL, which then chose the text.
    pub fn sqlstate(&self) -> Option<&str> {
        match self.detail()?.code.as_ref()? {
            Code::Sqlstate(code) => Some(code),
            _ => None,
        }
    }

    /// Returns what was being done, where that is known.
    pub fn step(&self) -> Option<&str> {
        self.detail()?.step.as_deref()
    }

    /// Whether it has this sign. The code of a function of the application, which may write tables of its own, says nothing
    /// of verifyd's tables or of the server.
    pub fn has(&self, (sqlstate, words): Sign) -> bool {
        let has_code = || self.sqlstate() == Some(sqlstate) && !self.is_of_function();
        (sqlstate.is_empty() || has_code()) && self.to_string().contains(words)
    }

    /// Whether the database has answered this call. `None`: the error does not tell.
    pub fn is_answer(&self) -> Option<bool> {
        match self {
            Self::TooManyCalls | Self::LockedRun => None,
            // idle_in_transaction_session_timeout: the next statement never arrived.
            Self::Unavailable(_) => Some(self.sqlstate().is_some_and(|code| code != "25P03")),
            Self::Settings(_) => Some(false),
            _ => Some(true),
        }
    }

    /// Returns the class of the error, as metrics name it.
    pub fn class(&self) -> &'static str {
        match self {
            Self::TooManyCalls => "unsent",
            Self::Contended(_) | Self::LockedRun => "contended",
            Self::Unavailable(_) => "unavailable",
            Self::Corrupt { .. } => "corrupt",
            Self::Schema(_) => "schema",
            Self::Refused(_) | Self::Settings(_) => "refused",
        }
    }

    /// Returns what the database refuses a call with: its code, and the rule where that has a name. No text of the error: a
    /// trigger may quote the row.
    pub fn refusal(&self) -> String {
        let detail = self.detail();
        let code = match detail.and_then(|detail| detail.code.as_ref()) {
            Some(Code::Sqlstate(code)) => format!("SQLSTATE {code}"),
            Some(Code::Sqlite(code)) => format!("SQLite {code}"),
            Some(Code::Trigger) => {
                "a trigger or row-level security keeps or changes the row".to_owned()
            }
            None => self.class().to_owned(),
        };
        match detail.and_then(|detail| detail.rule.as_deref()) {
            Some(rule) => format!("{code}, {rule}"),
            None => code,
        }
    }

    /// Whether the same call may work later, with nothing changed by a person.
    pub fn is_transient(&self) -> bool {
        !matches!(
            self,
            Self::Corrupt { .. } | Self::Schema(_) | Self::Refused(_) | Self::Settings(_)
        )
    }

    /// Whether the database refuses what was written, by a rule or for good: no lock, timeout or failure of the server.
    pub fn is_refusal(&self) -> bool {
        !self.is_transient() || self.origin().is_some()
    }

    /// Whether a CHECK refuses the row, whatever a trigger makes of it.
    pub fn violates_check(&self) -> bool {
        let code = self.detail().and_then(|detail| detail.code.as_ref());
        match code {
            Some(Code::Sqlstate(code)) => code == "23514" && self.violates_constraint(),
            Some(Code::Sqlite(code)) => *code == 275,
            Some(Code::Trigger) | None => false,
        }
    }

    /// Whether a constraint of the table, not of a domain, refuses the row, whoever writes it. Errors within a trigger,
    /// which may test its user, do not count, whatever their code; nor do any of SQLite.
    pub fn violates_constraint(&self) -> bool {
        self.origin() == Some(Origin::Constraint)
    }

    /// Whether a function of the application has raised it, was ended by it, or has kept or filled a row: its code says nothing
    /// of the server.
    pub fn is_of_function(&self) -> bool {
        matches!(self.origin(), Some(Origin::Function | Origin::Waiting))
    }

    /// Whether the server or the connection to it has failed, and no function of the application has raised the error.
    pub fn is_of_server(&self) -> bool {
        matches!(self, Self::Unavailable(_)) && !self.is_of_function()
    }

    /// The one place that decides whose error it is.
    fn origin(&self) -> Option<Origin> {
        let detail = self.detail()?;
        // A step is tried in a transaction that has written or locked a row: a trigger has made it read-only since.
        let has_become_read_only = detail.step.is_some() && self.sqlstate() == Some(READ_ONLY);
        match detail.code == Some(Code::Trigger) || has_become_read_only {
            true => Some(Origin::Function),
            false => detail.origin,
        }
    }

    /// What the database lacks for verifyd, in words, where a person has to mend it: nothing is wrong with the call.
    pub fn lacks(&self) -> Option<&'static str> {
        const OF_RULE: Option<&str> = Some("The database refuses this to verifyd");
        match self.detail()?.code.as_ref() {
            // Whatever the code.
            _ if self.origin() == Some(Origin::Function) => OF_RULE,
            _ if self.is_transient() => None,
            _ if matches!(self, Self::Schema(_)) => Some("The database's schema does not fit"),
            // insufficient_privilege
            Some(Code::Sqlstate(code)) if code == "42501" => {
                Some("The database denies verifyd a privilege")
            }
            // integrity_constraint_violation, raise_exception
            Some(Code::Sqlstate(code)) if code.starts_with("23") || code == "P0001" => OF_RULE,
            // CHECK, NOT NULL, PRIMARY KEY, RAISE, UNIQUE
            Some(Code::Sqlite(275 | 1299 | 1555 | 1811 | 2067)) => OF_RULE,
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Detail {
        /// Returns what a database says whose code is shown in this text.
        pub(crate) fn said(text: &str) -> Self {
            let shown = |name: &'static str| Some(text.split_once(name)?.1.split_once(')')?.0);
            let sqlstate = shown("(SQLSTATE ").map(|code| Code::Sqlstate(code.to_owned()));
            let sqlite = shown("(SQLite ").map(|code| Code::Sqlite(code.parse().unwrap()));
            Self::new(text, sqlstate.or(sqlite))
        }
    }

    #[test]
    fn whether_the_database_has_answered_is_known_by_the_code() {
        let unavailable = |text| StoreError::Unavailable(Detail::said(text));
        let of_trigger = unavailable("ended by a trigger (SQLSTATE 57P01)");
        for (error, answered) in [
            (StoreError::TooManyCalls, None),
            (StoreError::LockedRun, None),
            (unavailable("no server listens there"), Some(false)),
            (unavailable("idle (SQLSTATE 25P03)"), Some(false)),
            (of_trigger, Some(true)),
            (StoreError::Contended("a lock".into()), Some(true)),
            (StoreError::Refused("a panic".into()), Some(true)),
            (StoreError::Settings("no URL".into()), Some(false)),
        ] {
            assert_eq!(error.is_answer(), answered, "{error}");
        }
    }

    #[test]
    fn a_text_that_quotes_a_code_has_none() {
        let refused = StoreError::Refused("a trigger says (SQLSTATE 42501)".into());
        assert_eq!((refused.sqlstate(), refused.lacks()), (None, None));
        assert!(!refused.has(("42501", "")) && refused.has(("", "a trigger")));
        let kept = Detail::new("a trigger keeps it", Some(Code::Trigger));
        assert!(StoreError::Refused(kept).lacks().is_some());
        let away = StoreError::Unavailable("(SQLSTATE 57P01)".into());
        assert_eq!(away.is_answer(), Some(false));
    }

    #[test]
    fn a_constraint_is_told_from_a_trigger_that_has_its_code() {
        for (origin, text, is_check) in [
            (Origin::Constraint, "a CHECK (SQLSTATE 23514)", true),
            (Origin::Constraint, "NOT NULL (SQLSTATE 23502)", false),
            (Origin::Function, "a CHECK (SQLSTATE 23514)", false),
        ] {
            let said = Detail {
                origin: Some(origin),
                ..Detail::said(text)
            };
            let refused = StoreError::Refused(said.at("a step"));
            let is_of_constraint = origin == Origin::Constraint;
            assert_eq!(refused.violates_constraint(), is_of_constraint, "{text}");
            assert_eq!(refused.is_of_function(), !is_of_constraint, "{text}");
            assert_eq!(refused.violates_check(), is_check, "{text}");
        }
    }

    #[test]
    fn a_lock_is_a_refusal_only_where_a_function_raises_its_code() {
        let lock = |origin| {
            let lock = Detail::said("a lock (SQLSTATE 55P03)");
            let lock = StoreError::Contended(Detail { origin, ..lock });
            (lock.is_refusal(), lock.lacks().is_some())
        };
        assert_eq!(lock(None), (false, false));
        assert_eq!(lock(Some(Origin::Function)), (true, true));
        // It may be granted the next time.
        assert_eq!(lock(Some(Origin::Waiting)), (true, false));
        assert!(StoreError::Refused("a rule".into()).is_refusal());
    }

    #[test]
    fn a_refusal_is_named_without_the_text_of_the_error() {
        let refused = |text| StoreError::Refused(Detail::said(text)).refusal();
        assert_eq!(refused("s3cret (SQLSTATE P0001)"), "SQLSTATE P0001");
        assert_eq!(refused("s3cret (SQLite 1811)"), "SQLite 1811");
        assert_eq!(refused("s3cret"), "refused");
        let by_rule = Detail {
            rule: Some("constraint small".into()),
            ..Detail::said("s3cret (SQLSTATE 23514)")
        };
        let refused = StoreError::Contended(by_rule.at("a step"));
        assert_eq!(refused.refusal(), "SQLSTATE 23514, constraint small");
    }

    #[test]
    fn what_a_function_of_the_application_says_is_no_sign_of_the_server() {
        let read_only = Detail::said("read-only (SQLSTATE 25006)");
        let of_function = Detail {
            origin: Some(Origin::Function),
            ..read_only.clone()
        };
        let after_a_write = read_only.clone().at("claiming a run");
        for (detail, is_of_server) in [
            (read_only, true),
            (of_function, false),
            (after_a_write, false),
        ] {
            let error = StoreError::Unavailable(detail);
            assert_eq!(error.is_of_server(), is_of_server, "{error}");
            assert_eq!(error.has(("25006", "")), is_of_server, "{error}");
        }
        let ended = StoreError::Unavailable(Detail::said("ended (SQLSTATE 57P01)").at("a step"));
        assert!(ended.is_of_server());
        let kept = Detail::new("a trigger keeps it", Some(Code::Trigger));
        assert!(StoreError::Refused(kept).is_of_function());
    }

    #[test]
    fn a_step_is_shown_before_the_text() {
        let refused = Detail::said("not today (SQLSTATE P0001)").at("b").at("a");
        let refused = StoreError::Refused(refused);
        let shown = "the database refused: a: b: not today (SQLSTATE P0001)";
        assert_eq!(refused.to_string(), shown);
        assert_eq!(refused.step(), Some("a"));
        assert_eq!(refused.sqlstate(), Some("P0001"));
    }
}
