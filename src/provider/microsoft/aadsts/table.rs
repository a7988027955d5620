//! The table of sign-in errors: `codes.toml`, parsed once.

use super::advice::AdviceKind;
use crate::domain::Reason;
use crate::domain::connection::CredentialKind;
use crate::provider::microsoft::fault::Retry;
use serde::Deserialize;
use std::sync::LazyLock;

const TEXT: &str = include_str!("codes.toml");

/// Which code decides where an answer names several: the first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Class {
    Tenant,
    Application,
    Credential,
    Policy,
    Resource,
    Temporary,
    /// Says only that something about the credential is wrong.
    Generic,
    Request,
}

/// The claim of a federated token that a code is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Claim {
    Issuer,
    Subject,
    /// Its upper and lower case.
    SubjectCase,
    Audience,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Again {
    #[default]
    Never,
    Once,
    Backoff,
}

impl Again {
    fn retry(self) -> Retry {
        match self {
            Self::Never => Retry::Never,
            Self::Once => Retry::Once,
            Self::Backoff => Retry::Backoff(None),
        }
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct CodeRow {
    pub numbers: Vec<u64>,
    pub means: String,
    reason: Reason,
    secret: Option<Reason>,
    certificate: Option<Reason>,
    federated: Option<Reason>,
    pub class: Class,
    #[serde(default)]
    retry: Again,
    pub claim: Option<Claim>,
    #[serde(default)]
    pub seen: bool,
    pub advice: Option<AdviceKind>,
}

impl CodeRow {
    /// The reason for a connection with this kind of credential.
    pub fn reason(&self, kind: CredentialKind) -> Reason {
        let own = match kind {
            CredentialKind::ClientSecret => self.secret,
            CredentialKind::Certificate => self.certificate,
            CredentialKind::FederatedTokenFile => self.federated,
        };
        own.unwrap_or(self.reason)
    }

    /// A token of a file is the same again.
    pub fn retry(&self, kind: CredentialKind) -> Retry {
        match (self.retry, kind) {
            (Again::Once, CredentialKind::FederatedTokenFile) => Retry::Never,
            (again, _) => again.retry(),
        }
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct PhraseRow {
    numbers: Vec<u64>,
    text: String,
    secret: Option<Reason>,
    certificate: Option<Reason>,
    federated: Option<Reason>,
}

/// Codes that begin with the same digits.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct FamilyRow {
    begins: Vec<u64>,
    federated: Reason,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ErrorRow {
    errors: Vec<String>,
    reason: Reason,
    federated: Option<Reason>,
    #[serde(default)]
    retry: Again,
    /// Gateways use the word, too.
    #[serde(default)]
    elsewhere: bool,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Elsewhere {
    numbers: Vec<u64>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Table {
    pub code: Vec<CodeRow>,
    phrase: Vec<PhraseRow>,
    family: Vec<FamilyRow>,
    oauth: Vec<ErrorRow>,
    suberror: Vec<ErrorRow>,
    elsewhere: Elsewhere,
}

static TABLE: LazyLock<Table> = LazyLock::new(|| match toml::from_str(TEXT) {
    Ok(table) => table,
    Err(error) => unreachable!("the embedded table is read by a test: {error}"),
});

impl Table {
    pub fn get() -> &'static Self {
        &TABLE
    }

    /// The row of a code.
    pub fn row(&self, code: u64) -> Option<&CodeRow> {
        self.code.iter().find(|row| row.numbers.contains(&code))
    }

    /// Returns the priority of a code among several: by its class, then by its row.
    pub fn rank(&self, code: u64) -> Option<(Class, usize)> {
        let at = self
            .code
            .iter()
            .position(|row| row.numbers.contains(&code))?;
        Some((self.code[at].class, at))
    }

    /// Returns what the description adds to the code. `text` is in lower case.
    pub fn by_phrase(&self, code: u64, kind: CredentialKind, text: &str) -> Option<Reason> {
        self.phrase
            .iter()
            .filter(|row| row.numbers.contains(&code) && text.contains(&row.text))
            .find_map(|row| match kind {
                CredentialKind::ClientSecret => row.secret,
                CredentialKind::Certificate => row.certificate,
                CredentialKind::FederatedTokenFile => row.federated,
            })
    }

    /// Returns the meaning of an unknown code by its first digits.
    pub fn by_family(&self, code: u64, kind: CredentialKind) -> Option<Reason> {
        let digits = code.to_string();
        let is_of = |begin: &u64| digits.len() >= 6 && digits.starts_with(&begin.to_string());
        let row = self
            .family
            .iter()
            .find(|row| row.begins.iter().any(is_of))?;
        (kind == CredentialKind::FederatedTokenFile).then_some(row.federated)
    }

    /// Returns whether only a login service writes this error.
    pub fn is_of_a_login(&self, error: &str) -> bool {
        let mut rows = self.oauth.iter().filter(|row| !row.elsewhere);
        rows.any(|row| row.errors.iter().any(|known| known == error))
    }

    /// Returns the meaning of an OAuth error.
    pub fn by_error(&self, error: &str, kind: CredentialKind) -> Option<(Reason, Retry)> {
        find(&self.oauth, error, kind)
    }

    /// Returns the meaning of Microsoft's `suberror`.
    pub fn by_suberror(&self, suberror: &str, kind: CredentialKind) -> Option<(Reason, Retry)> {
        find(&self.suberror, suberror, kind)
    }
}

fn find(rows: &[ErrorRow], error: &str, kind: CredentialKind) -> Option<(Reason, Retry)> {
    let row = rows
        .iter()
        .find(|row| row.errors.iter().any(|e| e == error))?;
    let own = match kind {
        CredentialKind::FederatedTokenFile => row.federated,
        _ => None,
    };
    Some((own.unwrap_or(row.reason), row.retry.retry()))
}

/// The table for people: the part of docs/reference/reasons.md that is about codes.
pub(in super::super) fn document() -> String {
    use std::fmt::Write as _;
    const KINDS: [CredentialKind; 3] = [
        CredentialKind::ClientSecret,
        CredentialKind::Certificate,
        CredentialKind::FederatedTokenFile,
    ];
    let table = Table::get();
    let mut rows: Vec<(u64, &CodeRow)> = table
        .code
        .iter()
        .flat_map(|row| row.numbers.iter().map(move |number| (*number, row)))
        .collect();
    rows.sort_by_key(|(number, _)| *number);
    let mut text =
        String::from("| code | means | secret | certificate | federated | class | again |\n");
    text.push_str("|---|---|---|---|---|---|---|\n");
    for (number, row) in rows {
        let seen = if row.seen { " (seen)" } else { "" };
        let [secret, certificate, federated] = KINDS.map(|kind| row.reason(kind));
        let class = format!("{:?}", row.class).to_lowercase();
        let again = match row.retry {
            Again::Never => "",
            Again::Once => "once",
            Again::Backoff => "with backoff",
        };
        let _ = writeln!(
            text,
            "| {number}{seen} | {} | `{secret}` | `{certificate}` | `{federated}` | {class} | {again} |",
            row.means
        );
    }
    text.push_str("\nWhere a code has several causes, its description tells them apart:\n\n");
    text.push_str("| code | description | reason |\n|---|---|---|\n");
    for row in &table.phrase {
        let numbers: Vec<String> = row.numbers.iter().map(u64::to_string).collect();
        let reasons = [
            ("secret", row.secret),
            ("certificate", row.certificate),
            ("federated", row.federated),
        ];
        let reasons: Vec<String> = reasons
            .iter()
            .filter_map(|(kind, reason)| reason.map(|reason| format!("{kind}: `{reason}`")))
            .collect();
        let _ = writeln!(
            text,
            "| {} | “{}” | {} |",
            numbers.join(", "),
            row.text,
            reasons.join(", ")
        );
    }
    text.push_str(
        "\nA code that is not known is judged by its first digits, where it has six or more:\n\n",
    );
    text.push_str("| code | federated |\n|---|---|\n");
    for row in &table.family {
        let begins: Vec<String> = row.begins.iter().map(|begin| format!("{begin}…")).collect();
        let _ = writeln!(text, "| {} | `{}` |", begins.join(", "), row.federated);
    }
    text.push_str("\nWhere that says nothing either, the error of OAuth 2.0 decides, whatever the status:\n\n");
    text.push_str("| error | reason | federated |\n|---|---|---|\n");
    for (prefix, rows) in [("", &table.oauth), ("suberror ", &table.suberror)] {
        for row in rows {
            let (errors, federated) = (row.errors.join(", "), row.federated.unwrap_or(row.reason));
            let _ = writeln!(
                text,
                "| {prefix}{errors} | `{}` | `{federated}` |",
                row.reason
            );
        }
    }
    let common: Vec<String> = table
        .oauth
        .iter()
        .filter(|row| row.elsewhere && row.retry == Again::Never)
        .flat_map(|row| row.errors.iter().map(|error| format!("`{error}`")))
        .collect();
    let _ = writeln!(
        text,
        "\nGateways write {} too: under status 401 or 403, and with nothing else of the login service beside it, \
         it is `proxy_refused`. So is every other error with these statuses that is not in this list, unless the \
         login service's own members (`error_description`, `error_uri`, `trace_id`, `correlation_id`, `suberror`, \
         `claims`) stand beside it.",
        common.join(", ")
    );
    let _ = write!(
        text,
        "\nThe reference lists {} more codes, which only sign-ins of people, devices or other protocols produce.\n",
        table.elsewhere.numbers.len()
    );
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::reason::Stage;
    use std::collections::HashSet;

    #[test]
    fn the_table_is_read_and_names_no_code_twice() {
        let table: Table = toml::from_str(TEXT).unwrap();
        let mut seen = HashSet::new();
        let rows = table.code.iter().flat_map(|row| &row.numbers);
        for number in rows.chain(&table.elsewhere.numbers) {
            assert!(seen.insert(number), "{number} stands there twice");
        }
        assert!(seen.len() > 300, "only {}", seen.len());
        for row in &table.code {
            for kind in [
                CredentialKind::ClientSecret,
                CredentialKind::Certificate,
                CredentialKind::FederatedTokenFile,
            ] {
                assert_eq!(row.reason(kind).stage(), Stage::Provider, "{row:?}");
            }
            assert!(!row.means.is_empty() && !row.means.contains('|'));
        }
        for row in &table.phrase {
            assert_eq!(row.text, row.text.to_lowercase());
            assert!(
                row.numbers.iter().all(|n| table.row(*n).is_some()),
                "{row:?}"
            );
        }
    }

    /// A reason about a secret is never given for a certificate or a federated token, and so on. Only a code
    /// that is about an assertion by itself gives it for a secret, too, which sends none.
    #[test]
    fn no_kind_of_credential_is_told_what_is_about_another() {
        use CredentialKind::*;
        use Reason::*;
        let secret: &[Reason] = &[SecretInvalid, SecretExpired];
        let certificate: &[Reason] = &[
            CertificateNotRegistered,
            CertificateExpired,
            CertificateSubjectRejected,
            CertificateOutsideValidity,
        ];
        for row in &Table::get().code {
            let judged = |kind, reasons: &[Reason]| reasons.contains(&row.reason(kind));
            assert!(!judged(Certificate, secret), "{row:?}");
            assert!(!judged(FederatedTokenFile, secret), "{row:?}");
            assert!(!judged(FederatedTokenFile, certificate), "{row:?}");
            // The code alone does not show what was sent.
            if judged(ClientSecret, secret) {
                assert!(!judged(ClientSecret, certificate), "{row:?}");
            }
            assert_ne!(row.reason(Certificate), FederatedTokenExpired, "{row:?}");
            assert_ne!(row.reason(ClientSecret), FederatedTokenExpired, "{row:?}");
        }
        let row = |code| Table::get().row(code).unwrap();
        assert_eq!(row(50_012).reason(ClientSecret), SecretInvalid);
        assert_eq!(row(50_012).reason(Certificate), CertificateNotRegistered);
    }
}
