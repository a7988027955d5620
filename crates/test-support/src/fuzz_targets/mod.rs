//! One function for each kind of input that comes from outside. Each says whether the input was
//! accepted, and panics where verifyd does or where a promise is broken.

use aws_lc_rs::cipher::{AES_256, EncryptionContext, PaddedBlockEncryptingKey, UnboundCipherKey};
use aws_lc_rs::hmac;
use aws_lc_rs::iv::FixedLength;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use std::path::PathBuf;
use verifyd::credentials::{CredentialsSettings, KeyEntry, open_vault};
use verifyd::domain::connection::{CredentialBinding, CredentialKind, StoredCredential};
use verifyd::domain::connection_facts::RecordedExpiry;
use verifyd::domain::hint::Hint;
use verifyd::domain::report::{Report, diff, schema};
use verifyd::domain::{ConnectionId, TenantId, WorkspaceId};
use verifyd::ports::vault::Vault as _;
use verifyd::view::report::ReportView;

mod provider;

pub use provider::{graph_pages, token_response};

const KEY: [u8; 32] = [7; 32];

/// A hint as anyone may write it to Redis. What is accepted survives the round trip.
pub fn job_payload(data: &[u8]) -> bool {
    let Ok(hint) = Hint::decode(data) else {
        return false;
    };
    assert_eq!(Hint::decode(&hint.encode()).as_ref(), Ok(&hint));
    assert!(hint.operation_run_id.0 > 0);
    true
}

/// A row of `provider_credentials` as another application wrote it: the payload itself, or, behind
/// `plain:`, what is inside of one that was encrypted with the right key.
pub fn laravel_payload(data: &[u8]) -> bool {
    let payload = match data.strip_prefix(b"plain:") {
        Some(plain) => encrypt(plain),
        None => match std::str::from_utf8(data) {
            Ok(text) => text.to_owned(),
            Err(_) => return false,
        },
    };
    let settings = CredentialsSettings {
        keys: vec![KeyEntry::parse(&format!("k1:{}", STANDARD.encode([1; 32])))],
        keys_file: PathBuf::new(),
        key_file: PathBuf::new(),
        laravel_keys: vec![format!("base64:{}", STANDARD.encode(KEY)).into()],
    };
    let Ok(vault) = open_vault(&settings, None) else {
        unreachable!("the keys are keys");
    };
    let binding = CredentialBinding {
        workspace_id: WorkspaceId(1),
        tenant_id: TenantId(1),
        connection_id: ConnectionId(1),
    };
    let kinds = [
        CredentialKind::ClientSecret,
        CredentialKind::Certificate,
        CredentialKind::FederatedTokenFile,
    ];
    kinds
        .into_iter()
        .filter(|kind| {
            let stored = StoredCredential {
                connection_id: ConnectionId(1),
                kind: *kind,
                payload: payload.clone(),
                expiry: RecordedExpiry::Absent,
                updated_at: None,
            };
            match vault.open(binding, &stored) {
                Ok(credential) => {
                    assert_eq!(credential.kind(), *kind);
                    true
                }
                Err(error) => {
                    let said = format!("{error} {error:?}");
                    assert!(payload.len() < 16 || !said.contains(&payload));
                    false
                }
            }
        })
        .count()
        > 0
}

/// As Laravel's `Crypt` does it, with a constant initialisation vector.
fn encrypt(plain: &[u8]) -> String {
    let iv = [3_u8; 16];
    let mut in_out = plain.to_vec();
    let sealed = UnboundCipherKey::new(&AES_256, &KEY)
        .and_then(PaddedBlockEncryptingKey::cbc_pkcs7)
        .and_then(|key| {
            key.less_safe_encrypt(&mut in_out, EncryptionContext::Iv128(FixedLength::from(iv)))
        });
    assert!(sealed.is_ok(), "the key is a key");
    let (iv, value) = (STANDARD.encode(iv), STANDARD.encode(&in_out));
    let mac = hmac::sign(
        &hmac::Key::new(hmac::HMAC_SHA256, &KEY),
        format!("{iv}{value}").as_bytes(),
    );
    let payload = json!({"iv": iv, "value": value, "mac": hex::encode(mac), "tag": ""});
    STANDARD.encode(payload.to_string())
}

/// A report as `verifyd report validate` reads it. What is valid can be shown, and does not differ
/// from itself.
pub fn report_input(data: &[u8]) -> bool {
    let Ok(document) = serde_json::from_slice::<Value>(data) else {
        return false;
    };
    let report = document
        .pointer("/context/verification_report")
        .unwrap_or(&document);
    if schema::validate(report).is_err() {
        return false;
    }
    let Ok(matches) = schema::fingerprint_matches(report) else {
        return false;
    };
    let Ok(report) = serde_json::from_value::<Report>(report.clone()) else {
        return false;
    };
    let changes = diff::diff(&report, &report);
    assert!(changes.iter().all(|c| c.change == diff::Change::Unchanged));
    let _ = ReportView::of(report);
    matches
}
