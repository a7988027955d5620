//! Errors of the database, for every port that a store implements.

/// Why the database could not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Not reachable, or it refused or ended the connection. Nothing is known of what was under way.
    #[error("the database is not available: {0}")]
    Unavailable(String),
    /// A deadlock, a serialization failure, a lock that was not granted in time, or another answer to one statement
    /// that says to try again.
    #[error("the database is contended: {0}")]
    Contended(String),
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
    Schema(String),
    /// The database refused the statement.
    #[error("the database refused: {0}")]
    Refused(String),
}

/// How the databases say that a constraint or a trigger refuses a row (SQLite: CHECK, NOT NULL, PRIMARY KEY, RAISE,
/// UNIQUE), and what verifyd says of a trigger that does so without an error.
const RULES: [&str; 8] = [
    "(SQLSTATE 23",
    "(SQLSTATE P0001)",
    "(SQLite 275)",
    "(SQLite 1299)",
    "(SQLite 1555)",
    "(SQLite 1811)",
    "(SQLite 2067)",
    "a trigger ",
];

/// What is said of a call that was not sent, because others that got no answer have all connections for its kind.
const TOO_MANY_CALLS: &str = "too many calls of this kind wait for an answer";

/// What is said of a claim whose run another transaction locks.
const LOCKED_RUN: &str = "another transaction locks the run";

impl StoreError {
    /// Returns the error of a claim whose run another transaction locks.
    pub fn locked_run() -> Self {
        Self::Contended(LOCKED_RUN.into())
    }

    /// Whether the run was locked: perhaps by an earlier claim that has got no answer.
    pub fn is_of_locked_run(&self) -> bool {
        matches!(self, Self::Contended(why) if why == LOCKED_RUN)
    }

    /// Returns the error of a call that was not sent.
    pub fn too_many_calls() -> Self {
        Self::Contended(TOO_MANY_CALLS.into())
    }

    /// Whether the call was not sent, so that the error says nothing of the database.
    pub fn is_of_too_many_calls(&self) -> bool {
        matches!(self, Self::Contended(why) if why == TOO_MANY_CALLS)
    }

    /// Whether the server has cancelled the statement, most likely because it took too long.
    pub fn is_of_cancelled_statement(&self) -> bool {
        matches!(self, Self::Contended(why) if why.ends_with("(SQLSTATE 57014)"))
    }

    /// Returns the class of the error, as metrics name it.
    pub fn class(&self) -> &'static str {
        match self {
            Self::Contended(_) if self.is_of_too_many_calls() => "unsent",
            Self::Contended(_) => "contended",
            Self::Unavailable(_) => "unavailable",
            Self::Corrupt { .. } => "corrupt",
            Self::Schema(_) => "schema",
            Self::Refused(_) => "refused",
        }
    }

    /// Whether the server has ended the session because it waited for the next statement, which never arrived.
    pub fn is_of_idle_transaction(&self) -> bool {
        self.to_string().contains("(SQLSTATE 25P03)")
    }

    /// Whether PostgreSQL chose the text.
    pub fn is_of_postgres(&self) -> bool {
        self.to_string().contains("(SQLSTATE ")
    }

    /// Whether the same call may work later, with nothing changed by a person.
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Unavailable(_) | Self::Contended(_))
    }

    /// What the database lacks for verifyd, in words, where a person has to mend it: nothing is wrong with the call.
    pub fn lacks(&self) -> Option<&'static str> {
        match self {
            Self::Schema(_) => Some("The database's schema does not fit"),
            // insufficient_privilege
            Self::Refused(why) if why.contains("(SQLSTATE 42501)") => {
                Some("The database denies verifyd a privilege")
            }
            // A rule of the application.
            Self::Refused(why) if RULES.iter().any(|said| why.contains(said)) => {
                Some("The database refuses this to verifyd")
            }
            _ => None,
        }
    }
}
