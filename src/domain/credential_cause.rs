//! Why a stored credential cannot be used: a closed list, with the same words in the log and in reports.

use super::client_secret::SecretError;
use super::report::{Evidence, EvidenceKind};
use std::fmt;

macro_rules! causes {
    ($($variant:ident, $text:literal, $step:literal;)+) => {
        /// A cause. No text quotes anything of the credential.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Cause {
            $(#[doc = $text] $variant),+
        }

        impl Cause {
            /// Every cause there is.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// Returns what is wrong, as in the log and in reports.
            pub const fn text(self) -> &'static str {
                match self { $(Self::$variant => $text),+ }
            }

            /// Returns what to do about it.
            pub const fn step(self) -> &'static str {
                match self { $(Self::$variant => $step),+ }
            }
        }
    };
}

causes! {
    // It cannot be decrypted.
    Empty, "the payload is empty",
        "Store a credential for the connection";
    TooLong, "the payload is longer than any credential",
        "Store the credential again";
    Surrounded, "the payload has a space, line end, quotation mark or byte order mark around it",
        "Remove what stands around the payload, or store the credential again";
    PlainText, "the payload is plain text, not encrypted",
        "Replace the secret, which others may have read, and store the new one with verifyd or with Crypt";
    NeitherForm, "the payload is neither an envelope of verifyd nor a Laravel payload",
        "Store the credential again";
    EnvelopeDamaged, "the envelope is damaged or cut off",
        "Store the credential again, in a column that is long enough";
    EnvelopeVersion, "the envelope's version is unknown to this program",
        "Run the version of verifyd that sealed it, or store the credential again";
    EnvelopeCase, "upper and lower case of the envelope were changed",
        "Store the credential again";
    KeyNotConfigured, "the key that it was sealed with is not configured",
        "Add that key to credentials.keys, or store the credential again";
    NotAuthentic, "it was changed, was sealed for another place, or its key is another one",
        "Store the credential again for this connection";
    OtherConnection, "the row belongs to another connection",
        "Store a credential for this connection";
    LaravelDamaged, "the Laravel payload is damaged or cut off",
        "Store the credential again in the Laravel application, in a column that is long enough";
    LaravelNoKey, "it is a Laravel payload, and credentials.laravel_keys holds no key",
        "Add the application's APP_KEY to credentials.laravel_keys, or store the credential again";
    LaravelOtherKey, "it was changed, or none of credentials.laravel_keys is the APP_KEY it was made with",
        "Add the APP_KEY of the application that wrote it to credentials.laravel_keys, or store the credential again";
    LaravelTag, "the Laravel payload has a tag, which its cipher does not know",
        "Store the credential again in the Laravel application";

    // It was decrypted, and cannot be used.
    UnknownContent, "its content is JSON that no kind of credential has",
        "Store the credential again";
    EncryptedTwice, "the credential is itself an encrypted payload",
        "Encrypt the credential only once";
    LaravelContent, "the Laravel payload holds neither a secret, nor a combined PEM text, nor an array with client_secret or with private_key and certificate",
        "Store client_secret, or private_key and certificate, in the Laravel application";
    OtherKind, "it is of another kind than its row says",
        "Correct the kind of the credential, or store it again";
    SecretEmpty, "the client secret is empty",
        "Store the secret's value";
    SecretTooLong, "the client secret is longer than 4096 bytes",
        "Store the secret's value";
    SecretSpace, "the client secret has a space at its beginning or end",
        "Store the secret again without the space";
    SecretCharacter, "the client secret has a character that is not printable ASCII",
        "Store the secret again without that character";
    PathRelative, "the path of the federated token file is not absolute",
        "Store an absolute path, as the workers see it";
    PathNotText, "the path of the federated token file is not UTF-8",
        "Store another path";
    PemTooLong, "the PEM text is too long",
        "Store only the private key and its certificate";
    PemDamaged, "the PEM text is damaged",
        "Store the private key and its certificate again";
    NoPrivateKey, "the PEM text holds no private key; it must hold one RSA private key and its certificate",
        "Store the private key together with its certificate";
    NoCertificate, "the PEM text holds no certificate; it must hold one RSA private key and its certificate",
        "Store the certificate together with its private key";
    SeveralKeys, "the PEM text holds more than one private key",
        "Store only the private key that belongs to the certificate";
    KeyMismatch, "the certificate is not the private key's: their public keys differ",
        "Store the private key that belongs to the certificate";
    KeyProtected, "the private key is protected by a password; store it without one (it is encrypted here)",
        "Store the private key without a password";
    KeyNotRsa, "the private key must be an RSA key of 2048 to 8192 bits, as PKCS#8 or PKCS#1",
        "Use a certificate with an RSA key";
    CertificateUnreadable, "the certificate cannot be parsed",
        "Store the certificate again";
    CertificateNeverValid, "the certificate ends before it begins to be valid",
        "Use another certificate";
    NotWritable, "it cannot be encrypted",
        "Store the credential again";
}

impl Cause {
    /// The cause with this text.
    pub fn of(text: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|cause| cause.text() == text)
    }

    /// Whether the payload was not even decrypted.
    pub const fn before_decryption(self) -> bool {
        (self as usize) < Self::UnknownContent as usize
    }

    /// Whether another key may open it.
    pub const fn is_of_keys(self) -> bool {
        matches!(
            self,
            Self::KeyNotConfigured
                | Self::NotAuthentic
                | Self::LaravelNoKey
                | Self::LaravelOtherKey
        )
    }

    /// Returns the path of the member that is wrong.
    const fn field(self) -> &'static str {
        match self {
            Self::OtherConnection => "provider_credentials.provider_connection_id",
            Self::OtherKind => "provider_credentials.kind",
            Self::SecretEmpty | Self::SecretTooLong | Self::SecretSpace | Self::SecretCharacter => {
                "credential.client_secret"
            }
            Self::PathRelative | Self::PathNotText => "credential.federated_token_file",
            Self::NoPrivateKey
            | Self::SeveralKeys
            | Self::KeyMismatch
            | Self::KeyProtected
            | Self::KeyNotRsa => "credential.private_key",
            Self::NoCertificate | Self::CertificateUnreadable | Self::CertificateNeverValid => {
                "credential.certificate"
            }
            _ => "provider_credentials.payload",
        }
    }
}

/// A cause, with what was found where that is no secret: the id of a key, the position of a character.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flaw {
    pub cause: Cause,
    pub found: Option<String>,
}

impl Flaw {
    /// The facts of a check that fails for it.
    pub fn evidence(&self) -> Vec<Evidence> {
        let mut evidence = vec![
            Evidence::new(EvidenceKind::Cause, self.cause.text()),
            Evidence::new(EvidenceKind::Field, self.cause.field()),
        ];
        if let Some(found) = &self.found {
            evidence.push(Evidence::new(EvidenceKind::Found, found));
        }
        evidence
    }
}

impl fmt::Display for Flaw {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.cause.text())?;
        match &self.found {
            Some(found) => write!(f, " ({found})"),
            None => Ok(()),
        }
    }
}

impl From<Cause> for Flaw {
    fn from(cause: Cause) -> Self {
        Self { cause, found: None }
    }
}

impl From<SecretError> for Flaw {
    fn from(error: SecretError) -> Self {
        let (cause, found) = match error {
            SecretError::Empty => (Cause::SecretEmpty, None),
            SecretError::TooLong => (Cause::SecretTooLong, None),
            SecretError::Space { at } => (Cause::SecretSpace, Some(format!("byte {at}"))),
            SecretError::Character { .. } => (Cause::SecretCharacter, Some(error.to_string())),
        };
        Self { cause, found }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::report::limits;
    use std::collections::BTreeSet;

    #[test]
    fn every_cause_is_told_by_its_text_and_fits_into_a_report() {
        let texts: BTreeSet<&str> = Cause::ALL.iter().map(|cause| cause.text()).collect();
        assert_eq!(texts.len(), Cause::ALL.len());
        for cause in Cause::ALL {
            assert_eq!(Cause::of(cause.text()), Some(*cause));
            assert!(cause.text().chars().count() <= limits::EVIDENCE_CHARS);
            assert!((1..=limits::TITLE_CHARS).contains(&cause.step().chars().count()));
            let evidence = Flaw::from(*cause).evidence();
            assert_eq!(evidence[0].value, cause.text(), "it was cut");
        }
        assert!(Cause::LaravelTag.before_decryption());
        assert!(!Cause::UnknownContent.before_decryption());
    }
}
