//! Decoding what others wrote: a hint, a row's context, a credential.

use super::Suite;
use aws_lc_rs::cipher::{AES_256, EncryptionContext, PaddedBlockEncryptingKey, UnboundCipherKey};
use aws_lc_rs::hmac;
use aws_lc_rs::iv::FixedLength;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use std::hint::black_box;
use std::path::PathBuf;
use verifyd::credentials::{CredentialsSettings, KeyEntry, open_vault};
use verifyd::domain::connection::{CredentialBinding, CredentialKind, StoredCredential};
use verifyd::domain::connection_facts::RecordedExpiry;
use verifyd::domain::credential::Credential;
use verifyd::domain::hint::Hint;
use verifyd::domain::run::RunRequest;
use verifyd::domain::{ConnectionId, TenantId, WorkspaceId};
use verifyd::ports::vault::Vault as _;

const HINT: &[u8] = br#"{"v":1,"operation_run_id":123456,
"traceparent":"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"}"#;

const CONTEXT: &str = r#"{"provider":"microsoft","module":"intune","provider_connection_id":7,
"target_scope":{"entra_tenant_id":"5c000000-0000-4000-8000-000000000001",
"entra_tenant_name":"Forest Paper"}}"#;

const LARAVEL_KEY: [u8; 32] = [7; 32];

pub fn measure(suite: &mut Suite) {
    Hint::decode(HINT).unwrap();
    suite.measure("payload/hint", |b| b.iter(|| Hint::decode(black_box(HINT))));

    let request = |text: &str| -> RunRequest {
        RunRequest::from_context(&serde_json::from_str::<Value>(text).unwrap())
    };
    assert_eq!(request(CONTEXT).module.as_deref(), Some("intune"));
    suite.measure("payload/context", |b| {
        b.iter(|| request(black_box(CONTEXT)))
    });

    credentials(suite);
}

fn credentials(suite: &mut Suite) {
    let settings = CredentialsSettings {
        keys: vec![KeyEntry::parse(&format!("k1:{}", STANDARD.encode([1; 32])))],
        keys_file: PathBuf::new(),
        key_file: PathBuf::new(),
        laravel_keys: vec![format!("base64:{}", STANDARD.encode(LARAVEL_KEY)).into()],
    };
    let vault = open_vault(&settings, None).unwrap();
    let binding = CredentialBinding {
        workspace_id: WorkspaceId(1),
        tenant_id: TenantId(1),
        connection_id: ConnectionId(1),
    };
    let secret = Credential::ClientSecret {
        secret: "a-client-secret-of-usual-length-0123456".to_owned().into(),
        client_id: None,
    };
    let envelope = vault.seal(binding, &secret, None).unwrap().payload;
    let laravel = encrypt(br#"{"client_secret":"a-client-secret-of-usual-length-0123456"}"#);
    for (name, payload) in [
        ("payload/credential", envelope),
        ("payload/laravel_credential", laravel),
    ] {
        let stored = StoredCredential {
            connection_id: ConnectionId(1),
            kind: CredentialKind::ClientSecret,
            payload,
            expiry: RecordedExpiry::Absent,
            updated_at: None,
        };
        vault.open(binding, &stored).unwrap();
        suite.measure(name, |b| b.iter(|| vault.open(binding, black_box(&stored))));
    }
}

/// As Laravel's `Crypt` does it, with a constant initialisation vector.
fn encrypt(plain: &[u8]) -> String {
    let iv = [3_u8; 16];
    let mut in_out = plain.to_vec();
    UnboundCipherKey::new(&AES_256, &LARAVEL_KEY)
        .and_then(PaddedBlockEncryptingKey::cbc_pkcs7)
        .and_then(|key| {
            key.less_safe_encrypt(&mut in_out, EncryptionContext::Iv128(FixedLength::from(iv)))
        })
        .unwrap();
    let (iv, value) = (STANDARD.encode(iv), STANDARD.encode(&in_out));
    let mac = hmac::sign(
        &hmac::Key::new(hmac::HMAC_SHA256, &LARAVEL_KEY),
        format!("{iv}{value}").as_bytes(),
    );
    let payload = json!({"iv": iv, "value": value, "mac": hex::encode(mac), "tag": ""});
    STANDARD.encode(payload.to_string())
}
