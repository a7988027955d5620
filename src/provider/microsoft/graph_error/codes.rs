//! The table of Graph's errors, `codes.toml`, parsed once; and the meaning of statuses.

use super::body::ErrorBody;
use crate::domain::Reason;
use crate::provider::microsoft::embedded;
use crate::provider::microsoft::fault::Retry;
use serde::Deserialize;
use std::sync::LazyLock;

/// The token in a link to the next page is too old: the list has to be read from its beginning.
pub(in super::super) const EXPIRED_PAGE: &str = "Directory_ExpiredPageToken";

/// Words that a text contains, all of them.
type Words = Vec<String>;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct CodeRow {
    names: Vec<String>,
    reason: Reason,
    #[serde(default)]
    retry: Retry,
}

impl CodeRow {
    fn has(&self, code: &str) -> bool {
        self.names
            .iter()
            .any(|name| name.eq_ignore_ascii_case(code))
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct WordsRow {
    any: Vec<Words>,
    reason: Reason,
    #[serde(default)]
    retry: Retry,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Table {
    no_token: Vec<Words>,
    code: Vec<CodeRow>,
    vague: Vec<CodeRow>,
    words: Vec<WordsRow>,
}

static TABLE: LazyLock<Table> = LazyLock::new(|| embedded(include_str!("codes.toml")));

impl Table {
    pub fn get() -> &'static Self {
        &TABLE
    }

    /// Returns the meaning of the specific codes: the innermost known one is the most exact.
    pub fn by_code(&self, body: &ErrorBody) -> Option<(Reason, Retry)> {
        innermost(&self.code, body)
    }

    /// Returns the meaning of the unspecific codes.
    pub fn by_vague_code(&self, body: &ErrorBody) -> Option<(Reason, Retry)> {
        innermost(&self.vague, body)
    }

    /// Returns the meaning of the messages.
    pub fn by_words(&self, body: &ErrorBody) -> Option<(Reason, Retry)> {
        let mut rows = self.words.iter();
        let row = rows.find(|row| row.any.iter().any(|words| body.says(words)))?;
        Some((row.reason, row.retry))
    }

    /// Whether a message is about a request without a token.
    pub fn lacks_token(&self, body: &ErrorBody) -> bool {
        self.no_token.iter().any(|words| body.says(words))
    }

    /// Whether the code is one for this reason.
    pub fn means(&self, code: &str, reason: Reason) -> bool {
        let mut rows = self.code.iter().chain(&self.vague);
        rows.any(|row| row.reason == reason && row.has(code))
    }
}

fn innermost(rows: &[CodeRow], body: &ErrorBody) -> Option<(Reason, Retry)> {
    let mut codes = body.codes.iter().rev();
    let row = codes.find_map(|code| rows.iter().find(|row| row.has(code)))?;
    Some((row.reason, row.retry))
}

/// Returns the meaning of the status, for an answer of Graph or of another server.
pub(super) fn by_status(status: u16, is_graph: bool) -> (Reason, Retry) {
    use Retry::{Backoff, Never};
    match status {
        // That of a proxy is recognised by its challenge or page before this.
        401 => (Reason::TokenRejected, Never),
        429 | 509 => (Reason::Throttled, Backoff),
        // A proxy requires credentials, a network requires a login, or a firewall of Azure denies the call.
        407 | 470 | 511 => (Reason::ProxyRefused, Never),
        501 if is_graph => (Reason::ResourceNotFound, Never),
        408 => (Reason::ProviderTimeout, Backoff),
        425 | 500.. => (Reason::ProviderUnavailable, Backoff),
        // Not Graph's own answer: it always has an error object.
        _ if !is_graph => (Reason::ResponseInvalid, Never),
        402 => (Reason::ServiceNotLicensed, Never),
        403 => (Reason::PermissionDenied, Never),
        404 | 410 => (Reason::ResourceNotFound, Never),
        // Another client is changing the object.
        409 | 423 => (Reason::ProviderUnavailable, Backoff),
        405 | 406 | 411..=416 | 422 | 428 | 431 => (Reason::RequestMalformed, Never),
        451 => (Reason::TenantUnavailable, Never),
        _ => (Reason::GraphUnknown, Never),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use std::collections::BTreeSet;

    fn said(message: &str) -> ErrorBody {
        ErrorBody::of(Some(&json!({"error": {"message": message}}))).unwrap()
    }

    #[test]
    fn the_table_is_read_and_names_no_code_twice() {
        let table = Table::get();
        let mut names = BTreeSet::new();
        let rows = table.code.iter().chain(&table.vague);
        for name in rows.flat_map(|row| &row.names) {
            assert!(names.insert(name.to_ascii_lowercase()), "{name}");
        }
        assert!(table.code.iter().any(|row| row.has(EXPIRED_PAGE)));
    }

    #[test]
    fn every_line_of_words_is_reached() {
        let table = Table::get();
        for row in &table.words {
            for words in &row.any {
                let found = table.by_words(&said(&words.join(" - ")));
                assert_eq!(found, Some((row.reason, row.retry)), "{words:?}");
            }
        }
    }
}
