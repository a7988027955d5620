//! Errors of the database, for every port that a store implements.

/// Why the database could not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Not reachable, or it refused or ended the connection. Nothing is known of what was under way.
    #[error("the database is not available: {0}")]
    Unavailable(String),
    /// A deadlock, a serialization failure or a lock that was not granted in time: try again.
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

/// How PostgreSQL says that a right is missing (insufficient_privilege), or that a constraint or a trigger refuses a
/// row; and what verifyd says of a trigger that does so without an error.
const FORBIDDEN: [&str; 4] = [
    "SQLSTATE 42501",
    "SQLSTATE 23",
    "SQLSTATE P0001",
    "a trigger ",
];

impl StoreError {
    /// Whether a right is missing, or a rule of the application refuses a row. Neither is a defect of verifyd.
    pub fn is_forbidden(&self) -> bool {
        matches!(self, Self::Refused(why) if FORBIDDEN.iter().any(|said| why.contains(said)))
    }

    /// Whether the same call may work later, with nothing changed by a person.
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Unavailable(_) | Self::Contended(_))
    }
}
