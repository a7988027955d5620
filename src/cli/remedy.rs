//! Finds the remedy for a failure, where its text is specific. A wrong remedy is worse than none.

use crate::operations::OperationError;
use crate::ports::store::{SchemaFinding, StoreError};

/// Returns the remedy by the server's code, which is part of the text.
pub(super) fn of_store(error: &StoreError) -> Option<&'static str> {
    let text = error.to_string();
    let has = |code: &str| text.contains(&format!("SQLSTATE {code}"));
    if has("25006") {
        Some("connect to the primary (database.url), or let the server write again")
    } else if has("42501") {
        Some("apply deploy/postgres-grants.sql again, as the owner of the tables")
    } else if has("23502") {
        Some(
            "give the column a default, or let it be NULL: verifyd's own INSERT does not name it \
             (docs/guides/enqueue.md says which columns it does)",
        )
    } else if has("53100") {
        Some("make room on the server's disk")
    } else if has("53300") {
        Some("allow more connections (max_connections), or lower database.max_connections")
    } else if text.contains("readonly database") {
        Some("let this user write the database's file and its folder")
    } else {
        None
    }
}

/// Of a command that failed.
pub(super) fn of(error: &anyhow::Error) -> Option<&'static str> {
    let mut causes = error.chain();
    causes.find_map(|cause| match cause.downcast_ref() {
        Some(OperationError::Store(error)) => of_store(error),
        _ => of_store(cause.downcast_ref()?),
    })
}

/// Returns the remedy by the error of Redis or of the network. No run is lost meanwhile.
pub(super) fn of_queue(said: &str) -> &'static str {
    let has = |words: &[&str]| words.iter().any(|word| said.contains(word));
    if has(&["OOM"]) {
        "raise maxmemory, or let Redis remove something else; until then workers poll the database"
    } else if has(&["READONLY", "read only replica"]) {
        "let redis.url (REDIS_URL) name the primary; until then workers poll the database"
    } else if has(&["'select'"]) {
        "let redis.url (REDIS_URL) name no database (`/2`), or give the user +select; until then workers \
         poll the database"
    } else if has(&["NOPERM", "ACL failure", "No permissions"]) {
        "give the user the rights of deploy/redis.acl; until then workers poll the database"
    } else if has(&["WRONGPASS", "NOAUTH", "uthentication"]) {
        "correct user and password of redis.url (REDIS_URL); until then workers poll the database"
    } else if has(&["MISCONF"]) {
        "mend what keeps Redis from saving (its log names it); until then workers poll the database"
    } else {
        "check redis.url (REDIS_URL) and that Redis runs; until then workers poll the database"
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

    #[test]
    fn a_right_that_a_number_in_the_address_needs_is_named() {
        let said = "NOPERM: User verifyd_serve has no permissions to run the 'select' command";
        assert!(of_queue(said).contains("+select"));
        assert!(of_queue("NOPERM: the 'hset' command").contains("deploy/redis.acl"));
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
