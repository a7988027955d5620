//! Translates errors of the driver into those of the port. Never quotes a value of a row by itself.

mod origin;

use self::origin::{constraint, origin};
use super::migrations;
use crate::domain::report::redact::clean;
use crate::domain::tls_cause::TlsCause;
use crate::ports::connections::AddConnectionError;
use crate::ports::store_error::{Code, Detail, Origin, StoreError};
use crate::ports::webhook_endpoints::EndpointError;
use sqlx::Error;
use sqlx::error::DatabaseError;
use sqlx::migrate::MigrateError;
use sqlx::postgres::{PgDatabaseError, PgSeverity};
use std::io::ErrorKind;

/// Characters of a server's message that are kept.
const MESSAGE_LENGTH: usize = 1_000;
/// What begins the error of arguments that the server does not take.
const WRONG_OPTIONS: &str = "the parameter options holds what the server does not take";
/// Characters of an SQLSTATE.
const SQLSTATE_LENGTH: usize = 5;

impl From<Error> for StoreError {
    fn from(error: Error) -> Self {
        match error {
            Error::Database(e) => from_database(&*e),
            Error::PoolTimedOut => Self::Unavailable("no connection within acquire_timeout".into()),
            Error::PoolClosed => Self::Unavailable("the connections are closed".into()),
            Error::Io(e) if e.kind() == ErrorKind::ConnectionRefused => {
                Self::Unavailable(format!("no server listens there: {e}").into())
            }
            // Files are opened by SQLite itself.
            Error::Io(e) if e.kind() == ErrorKind::NotFound => {
                Self::Unavailable(format!("no server listens at that socket: {e}").into())
            }
            Error::Io(e) => Self::Unavailable(match TlsCause::text_of(&e) {
                Some(text) => format!("TLS: {text}").into(),
                None => e.to_string().into(),
            }),
            Error::Tls(e) => Self::Unavailable(format!("TLS: {e}").into()),
            Error::Protocol(_) => Self::Unavailable("the protocol was violated".into()),
            Error::WorkerCrashed => Self::Unavailable("the database's thread ended".into()),
            Error::BeginFailed => Self::Unavailable("no transaction could be started".into()),
            Error::Configuration(e) => Self::Settings(unusable(&e.to_string()).into()),
            // The source may quote the value; only what names types is passed on.
            Error::ColumnDecode { index, source } => {
                let why = source.to_string();
                let why =
                    if why.starts_with("mismatched types") || why.starts_with("unexpected null") {
                        why
                    } else {
                        "the value cannot be decoded".to_owned()
                    };
                Self::Schema(format!("column {index}: {why}").into())
            }
            Error::ColumnNotFound(name) => Self::Schema(format!("column {name} is missing").into()),
            Error::TypeNotFound { type_name } => {
                Self::Schema(format!("type {type_name} is missing").into())
            }
            Error::RowNotFound => Self::Refused("a row that must be there is missing".into()),
            _ => Self::Refused("the driver refused the statement".into()),
        }
    }
}

macro_rules! prohibited {
    ($what:literal) => {
        concat!(
            "the driver cannot sign in (SCRAM) with ",
            $what,
            ": SASLprep (RFC 4013) prohibits in it control characters, those for private use or newer than Unicode 3.2 \
             (most emoji), U+FFFD, and a mix of right-to-left and left-to-right ones"
        )
    };
}

/// Explains what the driver cannot use for a connection. Its text may quote a character of the password.
fn unusable(said: &str) -> &'static str {
    if said.starts_with("Failed to saslprep password") {
        prohibited!("this password")
    } else if said.starts_with("Failed to saslprep username") {
        prohibited!("the name of this user")
    } else if said.ends_with("must be given together") {
        "sslcert and sslkey must be given together"
    } else {
        "database.url cannot be parsed"
    }
}

/// Translates an error of the first connection. Whatever the server or SQLite does not know then, it is named by the
/// address and not by the schema. No row was read that the message could quote.
pub(super) fn opening(error: Error) -> StoreError {
    match error {
        Error::Database(e) if e.code().is_some_and(|code| code.starts_with("22")) => {
            StoreError::Refused(said(e.message(), &e.code().unwrap_or_default()))
        }
        // syntax_error: no statement was sent, so it is one of the arguments in `options`.
        Error::Database(e) if e.code().is_some_and(|code| code == "42601") => {
            StoreError::Refused(said(e.message(), "42601").at(WRONG_OPTIONS))
        }
        error => match StoreError::from(error) {
            StoreError::Schema(why) => StoreError::Refused(why),
            other => other,
        },
    }
}

/// Translates an error of opening a connection or of beginning a transaction on it. No statement of a call was sent, so
/// whatever the code, the server or a pooler before it serves nobody: the database is closed, was renamed, or refuses
/// the role.
pub(super) fn connecting(error: Error) -> StoreError {
    match StoreError::from(error) {
        StoreError::Refused(why)
        | StoreError::Schema(why)
        | StoreError::Contended(why)
        | StoreError::Settings(why) => StoreError::Unavailable(why),
        other => other,
    }
}

impl From<Error> for AddConnectionError {
    fn from(error: Error) -> Self {
        StoreError::from(error).into()
    }
}

impl From<Error> for EndpointError {
    fn from(error: Error) -> Self {
        StoreError::from(error).into()
    }
}

impl From<MigrateError> for StoreError {
    fn from(error: MigrateError) -> Self {
        match error {
            MigrateError::Execute(e) => e.into(),
            MigrateError::ExecuteMigration(e, version) => match e.into() {
                Self::Refused(why) => Self::Refused(why.at(format!("migration {version}"))),
                Self::Schema(why) => Self::Schema(why.at(format!("migration {version}"))),
                other => other,
            },
            MigrateError::VersionMissing(version) => Self::Schema(
                format!("migration {version} was applied by a newer verifyd than this one").into(),
            ),
            MigrateError::VersionMismatch(version) => Self::Schema(
                format!("migration {version} was applied with another content than this build has")
                    .into(),
            ),
            other => Self::Schema(other.to_string().into()),
        }
    }
}

fn from_database(error: &dyn DatabaseError) -> StoreError {
    let code = error.code().unwrap_or_default();
    if let Some(postgres) = error.try_downcast_ref::<PgDatabaseError>() {
        let ends_session = matches!(postgres.severity(), PgSeverity::Fatal | PgSeverity::Panic);
        let mut error = from_sqlstate(&code, postgres.message(), ends_session);
        if let Some(why) = error.detail_mut() {
            (why.origin, why.rule) = origin(postgres);
        }
        match error {
            // It is about tables of the function's own.
            StoreError::Schema(why) if error.is_of_function() => StoreError::Refused(why),
            other => other,
        }
    } else {
        from_sqlite(code.parse().unwrap_or_default(), error.message())
    }
}

/// What PostgreSQL says. A trigger or a pooler may choose it, and logs and terminals show it.
fn said(message: &str, code: &str) -> Detail {
    let message = clean(message, MESSAGE_LENGTH);
    let code = clean(code, SQLSTATE_LENGTH);
    let text = format!("{message} (SQLSTATE {code})");
    Detail::new(text, Some(Code::Sqlstate(code)))
}

/// <https://www.postgresql.org/docs/current/errcodes-appendix.html>
///
/// What does not end the session is an answer to one statement, and may be a trigger's own, whatever the code.
fn from_sqlstate(code: &str, message: &str, ends_session: bool) -> StoreError {
    let mut why = said(message, code);
    match code {
        // serialization_failure, deadlock_detected, lock_not_available, query_canceled
        "40001" | "40P01" | "55P03" | "57014" => StoreError::Contended(why),
        // read_only_sql_transaction: a former primary after a failover
        "25006" => StoreError::Unavailable(why),
        "25P03" | "25P04" if ends_session => StoreError::Unavailable(why),
        "25P03" | "25P04" => StoreError::Contended(why),
        // not_null_violation: a column that verifyd's statements do not name
        "42P01" | "23502" | "42703" | "42883" | "42804" | "42P10" | "3F000" | "42704" | "42P07"
        | "42701" => StoreError::Schema(why),
        // feature_not_supported: a statement that was prepared before a column changed
        "0A000" if message.starts_with("cached plan") => StoreError::Schema(why),
        // invalid_sql_statement_name, duplicate_prepared_statement
        "26000" | "42P05" => {
            why.text += "; behind a pooler in transaction mode add statement-cache-capacity=0 to the URL's parameters";
            StoreError::Refused(why)
        }
        _ => match code.get(..2).unwrap_or_default() {
            // connection exception, insufficient resources, operator intervention, system error
            "08" | "53" | "57" | "58" if ends_session => StoreError::Unavailable(why),
            "08" | "53" | "57" | "58" => StoreError::Contended(why),
            // Data exceptions quote the value in their message.
            "22" => StoreError::Refused(said("a value does not fit", code)),
            _ => StoreError::Refused(why),
        },
    }
}

/// <https://www.sqlite.org/rescode.html>; the low byte is the primary code.
fn from_sqlite(code: i32, message: &str) -> StoreError {
    let text = format!("{} (SQLite {code})", clean(message, MESSAGE_LENGTH));
    let mut why = Detail::new(text, Some(Code::Sqlite(code)));
    // SQLITE_CONSTRAINT_TRIGGER: RAISE. Whose it is, its text alone says.
    let is_of_application = code == 1811 && !migrations::sqlite_raises(message);
    why.origin = is_of_application.then_some(Origin::Function);
    // SQLITE_CONSTRAINT_CHECK: the text is SQLite's own.
    let check = (code == 275).then(|| message.strip_prefix("CHECK constraint failed: "));
    why.rule = check.flatten().map(constraint);
    match code & 0xff {
        // SQLITE_BUSY, SQLITE_LOCKED
        5 | 6 => StoreError::Contended(why),
        // SQLITE_ERROR also stands for names that do not exist.
        1 if message.starts_with("no such") || message.contains("has no column") => {
            StoreError::Schema(why)
        }
        // SQLITE_IOERR, SQLITE_CORRUPT, SQLITE_FULL, SQLITE_CANTOPEN, SQLITE_NOTADB
        10 | 11 | 13 | 14 | 26 => StoreError::Unavailable(why),
        _ => StoreError::Refused(why),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_that_is_missing_is_told_from_a_file() {
        let missing = std::io::Error::from(ErrorKind::NotFound);
        let error = StoreError::from(Error::Io(missing)).to_string();
        assert!(
            error.contains("no server listens at that socket"),
            "{error}"
        );
    }

    #[test]
    fn an_error_of_tls_has_the_words_of_its_cause() {
        let alert = rustls::AlertDescription::ProtocolVersion;
        let alert = rustls::Error::AlertReceived(alert);
        let error = std::io::Error::new(ErrorKind::InvalidData, alert);
        let error = StoreError::from(Error::Io(error)).to_string();
        let words = TlsCause::ProtocolVersion.text();
        assert!(error.ends_with(&format!("TLS: {words}")), "{error}");
    }

    #[test]
    fn a_data_exception_does_not_quote_the_value() {
        let error = from_sqlstate(
            "22P02",
            "invalid input syntax for type uuid: \"s3cret\"",
            false,
        );
        assert!(!error.to_string().contains("s3cret"), "{error}");
        assert!(matches!(error, StoreError::Refused(_)));
    }

    #[test]
    fn what_a_trigger_says_is_cut_and_has_no_control_characters() {
        let message = format!("x\n✓ y\u{1b}[2J{}", "z".repeat(100_000));
        for error in [
            from_sqlstate("40001", &message, false),
            from_sqlstate("P0001", &message, false),
            from_sqlstate("08\u{1b}[2J", &message, false),
            from_sqlite(1811, &message),
        ] {
            let text = error.to_string();
            assert!(text.chars().count() < 1_100 && !text.contains(char::is_control));
        }
    }

    #[test]
    fn a_constraint_of_sqlite_is_named() {
        let refused = |code, message| from_sqlite(code, message).refusal();
        let check = refused(275, "CHECK constraint failed: small");
        assert_eq!(check, "SQLite 275, constraint small");
        let raised = refused(1811, "CHECK constraint failed: s3cret");
        assert_eq!(raised, "SQLite 1811");
    }

    #[test]
    fn what_a_guard_of_verifyd_raises_is_told_from_what_a_trigger_does() {
        for (said, is_of_function) in [
            (
                "id, type, tenant_id and workspace_id of a run never change",
                false,
            ),
            ("entries of the audit trail never change", false),
            ("never change", true),
            ("", true),
        ] {
            let error = from_sqlite(1811, said);
            assert_eq!(error.is_of_function(), is_of_function, "{said}");
        }
    }

    #[test]
    fn what_may_work_later_is_told_from_what_may_not() {
        for code in ["40001", "40P01", "55P03", "57P01", "08006", "53300"] {
            for ends_session in [true, false] {
                let error = from_sqlstate(code, "", ends_session);
                assert!(error.is_transient(), "{code}");
            }
        }
        for code in ["42P01", "23505", "42501", "28P01"] {
            assert!(!from_sqlstate(code, "", false).is_transient(), "{code}");
        }
        for code in ["08006", "25P03", "53100", "57P01", "58030"] {
            let [answer, end] = [false, true].map(|ends| from_sqlstate(code, "", ends));
            assert!(matches!(answer, StoreError::Contended(_)), "{code}");
            assert!(matches!(end, StoreError::Unavailable(_)), "{code}");
        }
        for (code, lacks) in [
            ("42501", true),
            ("42P01", true),
            ("23505", true),
            ("23514", true),
            ("P0001", true),
            ("42601", false),
            ("40001", false),
        ] {
            assert_eq!(
                from_sqlstate(code, "", false).lacks().is_some(),
                lacks,
                "{code}"
            );
        }
        assert!(from_sqlite(261, "database is locked").is_transient());
        assert!(!from_sqlite(1555, "UNIQUE constraint failed").is_transient());
    }

    #[tokio::test]
    async fn the_code_stays_whatever_becomes_of_the_error() {
        use sqlx::Connection as _;
        let mut memory = sqlx::SqliteConnection::connect("sqlite::memory:")
            .await
            .unwrap();
        let of_migration = |error| StoreError::from(MigrateError::ExecuteMigration(error, 7));
        type Translate = fn(Error) -> StoreError;
        let translations: [(Translate, &str); 3] = [
            (of_migration, "schema does not fit: migration 7: "),
            (opening, "refused: "),
            (connecting, "is not available: "),
        ];
        for (translate, before) in translations {
            let missing = sqlx::query("SELECT 1 FROM missing").execute(&mut memory);
            let error = translate(missing.await.unwrap_err());
            let shown = format!("{before}no such table: missing (SQLite 1)");
            assert!(error.to_string().ends_with(&shown), "{error}");
            assert_eq!(error.detail().unwrap().code, Some(Code::Sqlite(1)));
        }
        let lost = from_sqlstate("26000", "lost", false);
        assert_eq!(lost.sqlstate(), Some("26000"));
        let of_trigger = from_sqlstate("P0001", "no (SQLSTATE 57014)", false);
        assert_eq!(of_trigger.sqlstate(), Some("P0001"));
    }

    #[test]
    fn what_the_driver_cannot_use_is_said_without_its_text() {
        for (said, words) in [
            (
                "Failed to saslprep password: Error(ProhibitedCharacter('\u{1f600}'))",
                "with this password: SASLprep",
            ),
            (
                "Failed to saslprep username: Error(ProhibitedBidirectionalText)",
                "with the name of this user: SASLprep",
            ),
            (
                "user auth key and certs must be given together",
                "sslcert and sslkey must be given together",
            ),
            ("illegal section start: 5ecret", "cannot be parsed"),
        ] {
            let error = StoreError::from(Error::Configuration(said.into())).to_string();
            assert!(error.contains(words), "{error}");
            assert!(!error.contains("the database refused"), "{error}");
            for part in ["\u{1f600}", "5ecret"] {
                assert!(!error.contains(part), "{error}");
            }
        }
    }
}
