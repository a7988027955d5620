//! The table of sign-in errors: `codes.toml`, parsed once.

use super::advice::AdviceKind;
use crate::domain::Reason;
use crate::domain::connection::CredentialKind;
use crate::provider::microsoft::embedded;
use crate::provider::microsoft::fault::Retry;
use serde::Deserialize;
use std::sync::LazyLock;

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
    retry: Retry,
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

    /// The reasons that a client secret, a certificate and a federated token have of their own.
    fn kinds(&self) -> [Option<Reason>; 3] {
        [self.secret, self.certificate, self.federated]
    }

    /// Whether both lead to the same, so that one line is enough for people.
    fn is_alike(&self, other: &Self) -> bool {
        (self.class, self.reason, self.retry) == (other.class, other.reason, other.retry)
            && self.kinds() == other.kinds()
    }

    /// A token of a file is the same again.
    pub fn retry(&self, kind: CredentialKind) -> Retry {
        match (self.retry, kind) {
            (Retry::Once, CredentialKind::FederatedTokenFile) => Retry::Never,
            (retry, _) => retry,
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
    retry: Retry,
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

static TABLE: LazyLock<Table> = LazyLock::new(|| embedded(include_str!("codes.toml")));

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
    Some((own.unwrap_or(row.reason), row.retry))
}

/// The table for people: the part of docs/reference/reasons.md that is about codes.
pub(in super::super) fn document() -> String {
    use std::fmt::Write as _;
    let table = Table::get();
    let mut text = String::new();
    let mut class = None;
    let mut rows: Vec<&CodeRow> = table.code.iter().collect();
    rows.sort_by_key(|row| row.class);
    for rows in rows.chunk_by(|one, next| one.is_alike(next)) {
        let first = rows[0];
        if class != Some(first.class) {
            class = Some(first.class);
            let name = format!("{:?}", first.class).to_lowercase();
            let _ = write!(text, "\n**{name}**\n\n");
        }
        let meanings: Vec<String> = rows
            .chunk_by(|one, next| one.means == next.means)
            .map(|rows| format!("{} ({})", rows[0].means, numbers(rows)))
            .collect();
        let again = match first.retry {
            Retry::Never => "",
            Retry::Once => ", sent once more",
            Retry::Backoff => ", retried",
        };
        let reasons = by_kind(Some(first.reason), first.kinds());
        let _ = writeln!(text, "- {reasons}{again}: {}", meanings.join("; "));
    }
    text.push_str("\nWhere a code has several causes, its description tells them apart:\n\n");
    for row in &table.phrase {
        let numbers: Vec<String> = row.numbers.iter().map(u64::to_string).collect();
        let kinds = [row.secret, row.certificate, row.federated];
        let _ = writeln!(
            text,
            "- “{}” ({}): {}",
            row.text,
            numbers.join(", "),
            by_kind(None, kinds)
        );
    }
    for row in &table.family {
        let begins: Vec<String> = row.begins.iter().map(|begin| format!("{begin}…")).collect();
        let _ = writeln!(
            text,
            "\nAn unknown code of six or more digits that begins with {} is `{}` for a federated credential.",
            begins.join(" or "),
            row.federated
        );
    }
    text.push_str("\nOtherwise the error of OAuth 2.0 decides, whatever the status:\n\n");
    for (prefix, rows) in [("", &table.oauth), ("suberror ", &table.suberror)] {
        for row in rows {
            let reasons = by_kind(Some(row.reason), [None, None, row.federated]);
            let _ = writeln!(text, "- {prefix}{}: {reasons}", row.errors.join(", "));
        }
    }
    let common: Vec<String> = table
        .oauth
        .iter()
        .filter(|row| row.elsewhere && row.retry == Retry::Never)
        .flat_map(|row| row.errors.iter().map(|error| format!("`{error}`")))
        .collect();
    let _ = writeln!(
        text,
        "\nUnder status 401 or 403, {} and every error outside this list is `proxy_refused`, unless the answer has a \
         member of the login service (`error_description`, `error_uri`, `trace_id`, `correlation_id`, `suberror`, \
         `claims`).\n\nThe reference lists {} more codes, which only sign-ins of people, devices or other protocols produce.",
        common.join(", "),
        table.elsewhere.numbers.len()
    );
    text
}

/// The codes of these rows, with a mark behind those that the reference does not list.
fn numbers(rows: &[&CodeRow]) -> String {
    let all = rows.iter().flat_map(|row| {
        let mark = if row.seen { "\\*" } else { "" };
        row.numbers.iter().map(move |number| (*number, mark))
    });
    let mut all: Vec<(u64, &str)> = all.collect();
    all.sort_unstable();
    let all = all.iter().map(|(number, mark)| format!("{number}{mark}"));
    all.collect::<Vec<_>>().join(", ")
}

/// A reason, and those of the kinds of credential that have another one.
fn by_kind(reason: Option<Reason>, kinds: [Option<Reason>; 3]) -> String {
    let names = ["secret", "certificate", "federated"].into_iter();
    let others: Vec<String> = names
        .zip(kinds)
        .filter_map(|(kind, own)| Some((kind, own.filter(|own| Some(*own) != reason)?)))
        .map(|(kind, own)| format!("{kind} `{own}`"))
        .collect();
    match (reason, others.join(", ")) {
        (None, others) => others,
        (Some(reason), others) if others.is_empty() => format!("`{reason}`"),
        (Some(reason), others) => format!("`{reason}` ({others})"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::reason::Stage;
    use std::collections::HashSet;

    #[test]
    fn the_table_is_read_and_names_no_code_twice() {
        let table = Table::get();
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
