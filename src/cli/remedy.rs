//! Finds the remedy for a failure, where its text is specific. A wrong remedy is worse than none.

mod postgres;

pub(super) use self::postgres::{
    GAVE_NO, MORE_CONNECTIONS, NO_FURTHER_ID, NO_SESSION, REPEATED_KEY,
};
pub(super) use crate::queue::redis::{remedy as of_queue, sentinel_remedy as of_sentinel};

use self::postgres::{CORRECT_OPTIONS, POSTGRES, UNKNOWN_SETTING};
use crate::files::trusted_authorities;
use crate::operations::OperationError;
use crate::outbound::OutboundError;
use crate::ports::store::{SchemaFinding, StoreError};
use crate::ports::store_error::Code;
use crate::store::APPLICATION_TABLES;
use std::io::ErrorKind;

const MAKE_ROOM: &str =
    "make room on the disk of the database's file, or move the file (database.url)";
const LET_WRITE: &str = "let database.url (DATABASE_URL) name a file that this user may write, in a folder that it may write";

/// What mends an error of SQLite, by its code, or by verifyd's and the system's words.
fn of_sqlite(error: &StoreError) -> Option<&'static str> {
    let text = error.to_string();
    if text.contains("the file holds tables, and none of verifyd's") {
        return Some(
            "correct database.url (DATABASE_URL), or run `verifyd migrate` if that file is to hold verifyd's tables, too",
        );
    }
    if text.contains("the file holds tables of another application") {
        return Some("let database.url (DATABASE_URL) name a file of verifyd's own");
    }
    if let Some((_, why)) = text.split_once("cannot be created: ") {
        let has = |words: &str| why.contains(words);
        return Some(if has("No such file") || has("Not a directory") {
            "create the folder of the file, or correct the path in database.url (DATABASE_URL)"
        } else if has("No space") || has("quota") {
            MAKE_ROOM
        } else {
            LET_WRITE
        });
    }
    let Some(Code::Sqlite(code)) = error.detail()?.code else {
        return None;
    };
    Some(match code & 0xff {
        // SQLITE_PERM, SQLITE_READONLY, SQLITE_CANTOPEN
        3 | 8 | 14 => LET_WRITE,
        // SQLITE_FULL
        13 => MAKE_ROOM,
        // SQLITE_IOERR
        10 => "check the disk of the database's file: its room, and its faults in the system's log",
        // SQLITE_CORRUPT
        11 => "restore the database's file from a backup",
        // SQLITE_NOTADB
        26 => "let database.url (DATABASE_URL) name a file of SQLite, or one that is not there yet",
        _ => return None,
    })
}

/// What makes a table that is missing, where it is one of verifyd's.
fn of_missing_table(error: &StoreError) -> Option<&'static str> {
    let detail = error.detail()?;
    let (before, behind, remedy) = match detail.code.as_ref()? {
        // undefined_table
        Code::Sqlstate(code) if code == "42P01" => (
            "relation \"",
            "\" does not exist (",
            "run `verifyd migrate`; if the tables are there, let the search_path of the role and of database.url \
             (DATABASE_URL) lead to them",
        ),
        Code::Sqlite(1) => ("no such table: ", " (", "run `verifyd migrate`"),
        _ => return None,
    };
    let (name, _) = detail.text.split_once(before)?.1.split_once(behind)?;
    let is_ours = APPLICATION_TABLES.contains(&name)
        || name.starts_with("verifyd.")
        || name.starts_with("verifyd_");
    is_ours.then_some(remedy)
}

/// The remedy where a function of the application lacks a right. With it verifyd's role could do what the function does.
const RIGHTS_OF_FUNCTION: &str = "let the function that a trigger or policy calls have the rights of its owner (ALTER FUNCTION … \
     SECURITY DEFINER SET search_path = …), or drop what calls it: verifyd itself needs no further right";

/// Returns the remedy by the database's code, and by words where the code says too little.
pub(super) fn of_store(error: &StoreError) -> Option<&'static str> {
    if error.sqlstate() == Some("42501") && error.is_of_function() {
        let said = error.to_string();
        // Others are raised by the function itself.
        let lacks_right = [
            "permission denied for",
            "violates row-level security policy",
        ];
        let lacks_right = lacks_right.iter().any(|words| said.contains(words));
        return lacks_right.then_some(RIGHTS_OF_FUNCTION);
    }
    if error.has(("", "was applied by a newer verifyd")) {
        return Some(
            "use that version of verifyd or a newer one, or restore the backup from before the upgrade \
             (docs/guides/upgrade.md#go-back)",
        );
    }
    let is_of_statement =
        error.step().is_some() || error.is_of_function() || matches!(error, StoreError::Schema(_));
    if error.has(UNKNOWN_SETTING) && !is_of_statement {
        return Some(CORRECT_OPTIONS);
    }
    let of_postgres = POSTGRES.iter().find(|(sign, _)| error.has(*sign));
    of_postgres
        .map(|(_, remedy)| *remedy)
        .or_else(|| of_missing_table(error))
        .or_else(|| of_sqlite(error))
}

/// What `migrate --enforce` says where it fails.
pub(super) const NOT_ALL_GUARDS: &str = "the schema is up to date, but not all guards could be added; they need the rights \
     of the owner of operation_runs, and `verifyd migrate --enforce` may be repeated";

/// Of the connection that listens, which may have a URL of its own.
pub(super) fn of_listening(error: &StoreError, has_url: bool) -> String {
    let remedy = of_store(error)
        .unwrap_or("check database.url (DATABASE_URL) and that the user may connect once more");
    if has_url {
        let url = "database.listen_url";
        remedy
            .replace("database.url (DATABASE_URL)", url)
            .replace("database.url", url)
    } else {
        remedy.to_owned()
    }
}

/// How the error begins of an address that `serve` cannot bind.
pub(super) const LISTEN: &str = "http.listen ";

/// Of an address that `serve` cannot bind.
pub(super) fn of_binding(kind: ErrorKind) -> &'static str {
    match kind {
        ErrorKind::AddrInUse => {
            "end the program that listens there, or set http.listen to another port"
        }
        ErrorKind::AddrNotAvailable => {
            "set http.listen to an address of this machine, or to 0.0.0.0 or [::] for all of them"
        }
        ErrorKind::PermissionDenied => {
            "set http.listen to a port from 1024 on, or give this user CAP_NET_BIND_SERVICE"
        }
        _ => "set http.listen to an address of this machine with a free port",
    }
}

/// Of a command that failed.
pub(super) fn of(error: &anyhow::Error) -> Option<&'static str> {
    let is_denied = |error: &StoreError| error.sqlstate() == Some("42501");
    if error.to_string() == NOT_ALL_GUARDS && error.downcast_ref().is_some_and(is_denied) {
        return Some(
            "run the command as the owner of operation_runs, or make its role a member of the owner's for as long as \
             it takes (GRANT owner TO verifyd_migrate); where it is the other way round, first REVOKE verifyd_migrate FROM \
             owner",
        );
    }
    if error.to_string().starts_with(LISTEN)
        && let Some(cause) = error.downcast_ref::<std::io::Error>()
    {
        return Some(of_binding(cause.kind()));
    }
    if let Some(OutboundError::Authorities(_)) = error.downcast_ref() {
        return Some(trusted_authorities::REMEDY);
    }
    error
        .chain()
        .find_map(|cause| of_store(store_error(cause)?))
}

/// Of a command whose statement the tables do not fit, where the error has no remedy of its own.
pub(super) fn of_schema(error: &anyhow::Error) -> Option<&'static str> {
    let is_of_statement = |error: &StoreError| match error {
        StoreError::Schema(detail) => detail.code.is_some() && detail.step.is_none(),
        _ => false,
    };
    let mut causes = error.chain().filter_map(store_error);
    causes
        .any(is_of_statement)
        .then_some("run `verifyd doctor`: it names what does not fit, and what mends it")
}

/// The error of the database that this cause of an error is.
fn store_error<'a>(cause: &'a (dyn std::error::Error + 'static)) -> Option<&'a StoreError> {
    match cause.downcast_ref() {
        Some(OperationError::Store(error)) => Some(error),
        _ => cause.downcast_ref(),
    }
}

/// Of a database that cannot be opened, where its error has none of its own.
pub(super) fn of_opening(is_embedded: bool) -> &'static str {
    if is_embedded {
        "check database.url (DATABASE_URL), and that no other program keeps the file locked"
    } else {
        "check database.url (DATABASE_URL), that the server runs, that the user may connect, and that a pooler has \
         two connections to the server free (PgBouncer: default_pool_size, or pool_size of the database)"
    }
}

/// Returns the remedy by the error of the keys for credentials, which says what a value must be.
pub(super) fn of_keys(said: &str) -> &'static str {
    if said.contains(": cannot be read: ") {
        "let credentials.keys_file name a file of keys that this user can read"
    } else {
        "correct what is named"
    }
}

/// Why nothing is served: what `doctor` calls fatal, each with what mends it. None: nothing is.
pub(super) fn unfit<'a>(findings: impl Iterator<Item = &'a SchemaFinding>) -> Option<String> {
    let fatal: Vec<String> = findings
        .filter(|finding| finding.fatal)
        .map(|f| format!("{}: {}. {}", f.subject, f.problem, f.remedy))
        .collect();
    (!fatal.is_empty()).then(|| {
        format!(
            "the database's schema does not fit:\n  {}",
            fatal.join("\n  ")
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ports::store_error::{Detail, Origin};

    #[test]
    fn a_statement_that_the_tables_do_not_fit_leads_to_doctor() {
        let said = "function jsonb_typeof(json) does not exist (SQLSTATE 42883)";
        let detail = || Detail::new(said, Some(Code::Sqlstate("42883".to_owned())));
        let of = |detail| of_schema(&OperationError::Store(StoreError::Schema(detail)).into());
        assert!(of(detail()).is_some_and(|remedy| remedy.contains("`verifyd doctor`")));
        // doctor would lead back to `migrate`.
        assert_eq!(of(detail().at("migration 7")), None);
    }

    #[test]
    fn each_database_has_remedies_of_its_own() {
        for (error, advice) in [
            (
                "sorry, too many clients already (SQLSTATE 53300)",
                "max_connections",
            ),
            (
                "permission denied for table payroll (SQLSTATE 42501)",
                "by hand",
            ),
            (
                "must be owner of table operation_runs (SQLSTATE 42501)",
                "as the owner",
            ),
            (
                "unsupported startup parameter: options (SQLSTATE 08P01)",
                "ignore_startup_parameters",
            ),
            (
                "duplicate key value violates unique constraint \"operation_runs_pkey\" (SQLSTATE 23505)",
                "verifyd doctor",
            ),
            (
                "duplicate key value violates unique constraint \"provider_connections_pkey\" (SQLSTATE 23505)",
                "verifyd doctor",
            ),
            (
                "row-level security hides every row of verifyd.schema_migrations from this role",
                "ALTER TABLE verifyd.schema_migrations DISABLE",
            ),
            ("a value does not fit (SQLSTATE 22001)", "the type text"),
            (
                "row-level security or a trigger keeps the row of operation_runs as it is",
                "the trigger that keeps the row",
            ),
            (
                "transaction blocks not allowed in statement pooling mode (SQLSTATE 08P01)",
                "pool_mode",
            ),
            ("query_wait_timeout (SQLSTATE 08P01)", "default_pool_size"),
            (
                "no more connections allowed (max_client_conn) (SQLSTATE 08P01)",
                "limit of PgBouncer",
            ),
            (
                "the parameter options holds what the server does not take: invalid command-line argument for server \
                 process: -x (SQLSTATE 42601)",
                "settings only",
            ),
            (
                "unrecognized configuration parameter \"nonsense\" (SQLSTATE 42704)",
                "`options`",
            ),
            (
                "database.url cannot be used: the TLS file \"/a\" of the parameter sslcert cannot be read: No such file \
                 or directory (os error 2)",
                "a file of PEM",
            ),
            (
                "database.url cannot be used: the variable PGSSLMODE has another value, allowed: disable",
                "correct or unset the variable",
            ),
            (
                "password authentication failed (SQLSTATE 28P01); database.url leaves the password to the variable PGPASSWORD",
                "correct or unset the variable",
            ),
            (
                "no pg_hba.conf entry (SQLSTATE 28000); database.url leaves the user to the variable PGUSER",
                "LOGIN of the role",
            ),
            (
                "role \"root\" does not exist (SQLSTATE 28000); database.url leaves the user to the variable PGUSER",
                "create the role",
            ),
            (
                "role \"root\" does not exist (SQLSTATE 28000)",
                "create the role",
            ),
            (
                "no pg_hba.conf entry for user \"root\" (SQLSTATE 28000)",
                "write another one into database.url",
            ),
            (
                "database \"a\" does not exist (SQLSTATE 3D000); database.url leaves the database to the variable PGDATABASE",
                "create the database",
            ),
            (
                "TLS: server does not support TLS; database.url leaves sslmode to the variable PGSSLMODE",
                "ssl = on",
            ),
            (
                "unsupported startup parameter: options (SQLSTATE 08P01); database.url leaves options to the variable PGOPTIONS",
                "ignore_startup_parameters",
            ),
            (
                "the driver cannot sign in (SCRAM) with this password: SASLprep (RFC 4013) prohibits in it",
                "another password",
            ),
            ("invalid peer certificate: UnknownIssuer", "sslrootcert"),
            (
                "TLS: the peer speaks neither TLS 1.2 nor TLS 1.3",
                "enable TLS 1.2",
            ),
            (
                "TLS: the peer refused the handshake with the alert handshake_failure (40)",
                "the log of the server",
            ),
            (
                "invalid peer certificate: certificate not valid for name \"a\"; certificate is only valid for",
                "as its certificate does",
            ),
            ("TLS: server does not support TLS", "ssl = on"),
            (
                "no pg_hba.conf entry for host \"::1\", user \"u\", database \"d\", no encryption (SQLSTATE 28000)",
                "sslmode=require",
            ),
            (
                "TLS: keys may not be consistent: KeyMismatch",
                "the certificate that sslcert names",
            ),
            (
                "connection requires a valid client certificate (SQLSTATE 28000)",
                "sslcert and sslkey",
            ),
            (
                "TLS: the peer refused the handshake with the alert unknown_ca (48)",
                "sslcert and sslkey",
            ),
            (
                "attempt to write a readonly database (SQLite 1032)",
                "may write",
            ),
            ("unable to open database file (SQLite 14)", "may write"),
            ("database or disk is full (SQLite 13)", "make room"),
            ("disk I/O error (SQLite 4874)", "check the disk"),
            (
                "no server listens there: Connection refused (os error 111)",
                "check database.url (DATABASE_URL), and that PostgreSQL runs",
            ),
            (
                "no server listens at that socket: No such file or directory (os error 2)",
                "that PostgreSQL runs",
            ),
            (
                "failed to lookup address information: Name or service not known",
                "that PostgreSQL runs",
            ),
            (
                "relation \"operation_runs\" does not exist (SQLSTATE 42P01)",
                "run `verifyd migrate`; if",
            ),
            (
                "relation \"verifyd.api_tokens\" does not exist (SQLSTATE 42P01)",
                "run `verifyd migrate`; if",
            ),
            (
                "no such table: provider_connections (SQLite 1)",
                "run `verifyd migrate`",
            ),
            (
                "migration 99 was applied by a newer verifyd than this one",
                "restore the backup",
            ),
            (
                "the file holds tables of another application: tenants",
                "a file of verifyd's own",
            ),
            (
                "the file /a/b cannot be created: No such file or directory (os error 2)",
                "the folder",
            ),
            (
                "the file /a/b cannot be created: Permission denied (os error 13)",
                "may write",
            ),
            (
                "the file /a/b cannot be created: Read-only file system (os error 30)",
                "may write",
            ),
            (
                "the file /a/b cannot be created: No space left on device (os error 28)",
                "make room",
            ),
        ] {
            let remedy = of_store(&StoreError::Unavailable(Detail::said(error)));
            let remedy = remedy.unwrap_or_else(|| panic!("{error}"));
            assert!(remedy.contains(advice), "{error}: {remedy}");
            // Less than what was asked of TLS is no remedy.
            if error.contains("does not support TLS") {
                assert!(!remedy.contains("prefer"), "{error}: {remedy}");
            }
        }
        let of_policy = "unrecognized configuration parameter \"app.tenant\" (SQLSTATE 42704)";
        let of_policy = StoreError::Refused(Detail::said(of_policy).at("claiming a run"));
        assert!(of_store(&of_policy).unwrap().contains("ALTER POLICY"));
        // Of tables of the function's own, too.
        for said in [
            "not today (SQLSTATE 25006)",
            "null value in column \"note\" of relation \"audit\" (SQLSTATE 23502)",
            "a value does not fit (SQLSTATE 22001)",
            "duplicate key value violates unique constraint \"audit_pkey\" (SQLSTATE 23505)",
            "not today (SQLSTATE 53100)",
        ] {
            let of_function = Detail {
                origin: Some(Origin::Function),
                ..Detail::said(said)
            };
            assert_eq!(of_store(&StoreError::Refused(of_function)), None, "{said}");
        }
        let setting = Detail {
            origin: Some(Origin::Function),
            ..Detail::said("unrecognized configuration parameter \"app.tenant\" (SQLSTATE 42704)")
        };
        let setting = of_store(&StoreError::Refused(setting));
        assert!(setting.unwrap().contains("ALTER POLICY"));
        let denied = Detail {
            origin: Some(Origin::Function),
            ..Detail::said("permission denied for table audit (SQLSTATE 42501)")
        };
        let denied = StoreError::Refused(denied);
        assert_eq!(of_store(&denied), Some(RIGHTS_OF_FUNCTION));
        let raised = Detail {
            origin: Some(Origin::Function),
            ..Detail::said("not today (SQLSTATE 42501)")
        };
        assert_eq!(of_store(&StoreError::Refused(raised)), None);
        let of_rule = Some("The database refuses this to verifyd");
        assert_eq!(denied.lacks(), of_rule);
        assert!(of_opening(false).contains("pooler"));
        for error in [
            "out of memory (SQLSTATE 53200)",
            // Of a trigger or a view of the application.
            "relation \"audit\" does not exist (SQLSTATE 42P01)",
            "no such table: main.audit (SQLite 1)",
            "No such file or directory (os error 2)",
        ] {
            let error = StoreError::Unavailable(Detail::said(error));
            assert_eq!(of_store(&error), None);
        }
    }

    #[test]
    fn every_flaw_of_a_servers_certificate_has_a_remedy() {
        use crate::domain::tls_cause::TlsCause;
        use rustls::{CertificateError as Flaw, ExtendedKeyPurpose, OtherError};
        let other = |said: &str| {
            let said = std::io::Error::other(said.to_owned());
            Flaw::Other(OtherError(std::sync::Arc::new(said)))
        };
        for (flaw, advice) in [
            (Flaw::UnknownIssuer, "sslrootcert"),
            // Of an authority that was made again under its name.
            (Flaw::BadSignature, "sslrootcert"),
            (Flaw::Expired, "renew"),
            (Flaw::NotValidYet, "wait until"),
            (Flaw::BadEncoding, "certificate replaced"),
            (Flaw::UnhandledCriticalExtension, "certificate replaced"),
            (
                Flaw::UnsupportedSignatureAlgorithmForPublicKeyContext {
                    signature_algorithm_id: Vec::new(),
                    public_key_algorithm_id: Vec::new(),
                },
                "certificate replaced",
            ),
            (
                Flaw::InvalidPurposeContext {
                    required: ExtendedKeyPurpose::ServerAuth,
                    presented: vec![ExtendedKeyPurpose::ClientAuth],
                },
                "certificate replaced",
            ),
            (other("CaUsedAsEndEntity"), "CA:FALSE"),
            (other("UnsupportedVersion"), "certificate replaced"),
        ] {
            let flaw = rustls::Error::InvalidCertificate(flaw);
            let said = format!("TLS: {}", TlsCause::text_of(&flaw).unwrap());
            let remedy = of_store(&StoreError::Unavailable(Detail::said(&said)));
            let remedy = remedy.unwrap_or_else(|| panic!("{said}"));
            assert!(remedy.contains(advice), "{said}: {remedy}");
        }
    }

    #[test]
    fn a_connection_that_cannot_listen_has_the_remedy_of_its_cause_and_its_url() {
        for (error, of_url, of_listen_url) in [
            (
                "cannot execute LISTEN during recovery (SQLSTATE 25006)",
                "the primary (database.url)",
                "the primary (database.listen_url)",
            ),
            (
                "password authentication failed (SQLSTATE 28P01)",
                "password of database.url (DATABASE_URL)",
                "password of database.listen_url",
            ),
            (
                "the connection was closed",
                "check database.url (DATABASE_URL) and",
                "check database.listen_url and",
            ),
            (
                "too many connections for role \"app\" (SQLSTATE 53300)",
                "CONNECTION LIMIT",
                "lower database.max_connections",
            ),
        ] {
            let error = StoreError::Unavailable(Detail::said(error));
            for (has_url, words) in [(false, of_url), (true, of_listen_url)] {
                let remedy = of_listening(&error, has_url);
                assert!(remedy.contains(words), "{words}: {remedy}");
            }
        }
    }

    #[test]
    fn a_file_of_keys_that_is_not_there_is_not_called_a_wrong_key() {
        let said = "credentials.keys_file: /nope: cannot be read: No such file or directory";
        assert!(of_keys(said).contains("credentials.keys_file"));
        for said in [
            "credentials.laravel_keys[0]: must be \"base64:\" and 32 bytes in base64",
            "credentials.key_file: k: cannot be used: its mode is 0644; allow only the owner",
        ] {
            assert_eq!(of_keys(said), "correct what is named");
        }
    }
}
