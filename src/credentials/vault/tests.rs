use super::*;
use crate::credentials::pem::tests::PAIR;
use crate::credentials::{KeyEntry, credential_from_pem};
use crate::domain::connection::CredentialKind;
use crate::domain::connection_facts::RecordedExpiry;
use crate::domain::{ConnectionId, TenantId, WorkspaceId};
use aws_lc_rs::aead::{AES_256_GCM, Aad, RandomizedNonceKey};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use proptest::prelude::*;
use secrecy::SecretString;
use serde_json::{Value, json};
use std::path::PathBuf;

pub(super) const CANARY: &str = "canary-S3cr3t~Q.x_9";
pub(super) const LARAVEL_KEY: &str = "base64:mOSMz11V5Jhy6/9tYTREYrZWt66SWyDm0AoQlPkg5AU=";
pub(super) const CBC_STRING: &str = "eyJpdiI6IlRUaVRTUHBZVSsvS3dRL1Q1dFQvc3c9PSIsInZhbHVlIjoiT0dLRlZzMnVuSU9wMGt0dHVSRDNEZz09IiwibWFjIjoiZWQ3Y2IyYWM5ZmI1OGNkNjM3OGFmYzMzMzM2NGQ2YzI3MmQ3NzJkNDUxODQ0NWMxMTgzMTdkODU3NzgxYmZmYyIsInRhZyI6IiJ9";
const CBC_ARRAY: &str = "eyJpdiI6IkJMdkJYd2hZeXg3YWN6am5vckluK1E9PSIsInZhbHVlIjoiN29OYlJ1OVFnczFiOE5UUUdjOGJoTUVTSFhMSGx2VG5TUzNEWUhKU0RuSk9vYnFsTnFpZzlKYVorbFI2TE1qUzRHVldQVjdvem5HbGREVjJWMFdrY1E9PSIsIm1hYyI6IjhmYjE5ZmYwN2U1M2QyYmE0Zjc4Yjk1NTQwMGFhM2I5NjJmOGJkOWQ0M2UzYjliOTkyYzU4Y2E4Nzk2MmE0NGQiLCJ0YWciOiIifQ==";

pub(super) fn settings(keys: &[(&str, u8)], laravel_keys: &[&str]) -> CredentialsSettings {
    CredentialsSettings {
        keys: keys
            .iter()
            .map(|(id, byte)| KeyEntry::parse(&format!("{id}:{}", STANDARD.encode([*byte; 32]))))
            .collect(),
        laravel_keys: laravel_keys.iter().map(|k| (*k).into()).collect(),
        ..CredentialsSettings::default()
    }
}

fn vault(keys: &[(&str, u8)]) -> KeyRingVault {
    open_vault(&settings(keys, &[]), None).unwrap()
}

fn laravel_vault() -> KeyRingVault {
    let previous = format!("base64:{}", STANDARD.encode([9; 32]));
    open_vault(&settings(&[("k1", 1)], &[&previous, LARAVEL_KEY]), None).unwrap()
}

pub(super) const PLACE: CredentialBinding = CredentialBinding {
    workspace_id: WorkspaceId(1),
    tenant_id: TenantId(2),
    connection_id: ConnectionId(3),
};

fn place(workspace: i64, tenant: i64, connection: i64) -> CredentialBinding {
    CredentialBinding {
        workspace_id: WorkspaceId(workspace),
        tenant_id: TenantId(tenant),
        connection_id: ConnectionId(connection),
    }
}

pub(super) fn stored(connection: i64, kind: CredentialKind, payload: &str) -> StoredCredential {
    StoredCredential {
        connection_id: ConnectionId(connection),
        kind,
        payload: payload.to_owned(),
        expiry: RecordedExpiry::Absent,
        updated_at: None,
    }
}

/// Opens the payload in the row of [`PLACE`].
pub(super) fn open(
    vault: &KeyRingVault,
    kind: CredentialKind,
    payload: &str,
) -> Result<Credential, VaultError> {
    vault.open(PLACE, &stored(3, kind, payload))
}

pub(super) fn secret(text: &str) -> Credential {
    Credential::ClientSecret {
        secret: text.into(),
        client_id: None,
    }
}

fn secret_of(credential: &Credential) -> (&str, Option<&str>) {
    match credential {
        Credential::ClientSecret { secret, client_id } => {
            (secret.expose_secret(), client_id.as_deref())
        }
        other => panic!("{other:?} is no client secret"),
    }
}

fn open_laravel(payload: &str) -> Result<Credential, VaultError> {
    open(&laravel_vault(), CredentialKind::ClientSecret, payload)
}

#[test]
fn every_kind_comes_back_as_it_was() {
    let vault = vault(&[("k1", 1)]);
    let (key, certificate) = &*PAIR;
    let with_id = Credential::ClientSecret {
        secret: CANARY.into(),
        client_id: Some("app".to_owned()),
    };
    let pem = credential_from_pem(&format!("{key}{certificate}"), SystemClock.now()).unwrap();
    let file = Credential::FederatedTokenFile {
        path: "/var/run/secrets/token".into(),
    };
    for credential in [secret(CANARY), with_id, pem, file] {
        let sealed = vault.seal(PLACE, &credential, None).unwrap();
        assert!(sealed.payload.starts_with("vfd1.k1."));
        assert!(sealed.payload.bytes().all(|b| b.is_ascii_graphic()));
        let opened = open(&vault, sealed.kind, &sealed.payload).unwrap();
        assert_eq!(
            *plaintext::write(&opened).unwrap(),
            *plaintext::write(&credential).unwrap()
        );
    }
}

#[test]
fn the_same_credential_never_gives_the_same_envelope() {
    let vault = vault(&[("k1", 1)]);
    let seal = || vault.seal(PLACE, &secret(CANARY), None).unwrap();
    assert_ne!(seal().payload, seal().payload);
}

#[test]
fn it_opens_in_no_other_place() {
    let vault = vault(&[("k1", 1)]);
    let sealed = vault.seal(PLACE, &secret(CANARY), None).unwrap();
    // 12 and 3 against 1 and 23: the numbers must not run into each other.
    for other in [
        place(9, 2, 3),
        place(1, 9, 3),
        place(1, 2, 9),
        place(2, 1, 3),
        place(1, 23, 3),
    ] {
        let row = stored(other.connection_id.0, sealed.kind, &sealed.payload);
        assert!(
            matches!(vault.open(other, &row), Err(VaultError::Undecryptable(_))),
            "{other:?}"
        );
    }
    let row = stored(4, sealed.kind, &sealed.payload);
    assert!(matches!(
        vault.open(PLACE, &row),
        Err(VaultError::Undecryptable(_))
    ));
}

#[test]
fn a_change_of_any_byte_of_the_envelope_is_noticed() {
    let vault = vault(&[("k1", 1), ("k2", 2)]);
    let sealed = vault.seal(PLACE, &secret(CANARY), None).unwrap();
    for index in 0..sealed.payload.len() {
        for replacement in [b'A', b'z', b'.', b'2'] {
            let mut bytes = sealed.payload.clone().into_bytes();
            if bytes[index] == replacement {
                continue;
            }
            bytes[index] = replacement;
            let changed = String::from_utf8(bytes).unwrap();
            let opened = open(&vault, sealed.kind, &changed);
            assert!(
                matches!(opened, Err(VaultError::Undecryptable(_))),
                "{index}: {changed}"
            );
        }
        assert!(open(&vault, sealed.kind, &sealed.payload[..index]).is_err());
    }
}

#[test]
fn a_key_of_the_same_bytes_under_another_name_does_not_open_it() {
    let sealed = vault(&[("k1", 1)]).seal(PLACE, &secret(CANARY), None);
    let sealed = sealed.unwrap();
    let renamed = sealed.payload.replace("vfd1.k1.", "vfd1.other.");
    let opened = open(&vault(&[("other", 1)]), sealed.kind, &renamed);
    assert!(matches!(opened, Err(VaultError::Undecryptable(_))));
}

#[test]
fn a_rotation_writes_with_the_first_key_and_reads_with_all() {
    let old = vault(&[("k1", 1)]);
    let both = vault(&[("k2", 2), ("k1", 1)]);
    let new = vault(&[("k2", 2)]);
    let first = old.seal(PLACE, &secret(CANARY), None).unwrap();
    assert!(!old.needs_rotation(&first.payload));
    assert!(both.needs_rotation(&first.payload));
    assert_eq!(both.key_ids(), ["k2", "k1"]);

    let opened = open(&both, first.kind, &first.payload).unwrap();
    let second = both.seal(PLACE, &opened, None).unwrap();
    assert!(!both.needs_rotation(&second.payload));
    let opened = open(&new, second.kind, &second.payload).unwrap();
    assert_eq!(secret_of(&opened).0, CANARY);
    assert!(open(&new, first.kind, &first.payload).is_err());

    assert!(both.needs_rotation(CBC_STRING));
    assert!(both.needs_rotation("vfd2.k2.a.b"));
}

#[test]
fn without_a_key_nothing_is_sealed_and_laravel_is_still_read() {
    let vault = open_vault(&settings(&[], &[LARAVEL_KEY]), None).unwrap();
    assert_eq!(
        vault.seal(PLACE, &secret(CANARY), None),
        Err(VaultError::NoKey)
    );
    let opened = open(&vault, CredentialKind::ClientSecret, CBC_STRING).unwrap();
    assert_eq!(secret_of(&opened).0, "s3cr3t~Q");
    assert!(vault.key_ids().is_empty());
    assert_eq!(vault.laravel_keys(), 1);
}

#[test]
fn the_expiry_of_a_certificate_is_read_from_it_unless_one_is_given() {
    let vault = vault(&[("k1", 1)]);
    let (key, certificate) = &*PAIR;
    let pem = credential_from_pem(&format!("{key}{certificate}"), SystemClock.now()).unwrap();
    let end = |credential: &Credential, given: Option<DateTime<Utc>>| {
        let sealed = vault.seal(PLACE, credential, given);
        sealed.unwrap().expires_at
    };
    let own = end(&pem, None).unwrap().to_rfc3339();
    assert_eq!(own, "2031-12-31T00:00:00+00:00");
    let given = DateTime::from_timestamp(1_800_000_000, 0);
    assert_eq!(end(&pem, given), given);
    assert_eq!(end(&secret(CANARY), None), None);
}

#[test]
fn what_cannot_work_is_not_sealed() {
    let vault = vault(&[("k1", 1)]);
    let (key, _) = &*PAIR;
    let refused = [
        secret(""),
        secret("with-line-end\n"),
        secret("a\u{0}b"),
        secret(&"x".repeat(5000)),
        Credential::Certificate {
            private_key_pem: key.as_str().into(),
            certificate_pem: "no certificate".to_owned(),
        },
        Credential::FederatedTokenFile {
            path: "relative/token".into(),
        },
    ];
    for credential in refused {
        assert!(
            matches!(
                vault.seal(PLACE, &credential, None),
                Err(VaultError::Malformed(_))
            ),
            "{credential:?}"
        );
    }
}

#[test]
fn nothing_shows_a_key_or_a_secret() {
    let settings = settings(&[("k1", 1)], &[LARAVEL_KEY]);
    let vault = open_vault(&settings, None).unwrap();
    let shown = format!("{settings:?} {vault:?} {:?}", secret(CANARY));
    assert!(!shown.contains(&STANDARD.encode([1; 32])), "{shown}");
    assert!(
        !shown.contains("mOSMz11V5Jhy6") && !shown.contains(CANARY),
        "{shown}"
    );
    assert!(shown.contains("k1"));
}

#[test]
fn wrong_keys_are_named_by_their_setting_and_never_shown() {
    let good = STANDARD.encode([1; 32]);
    let short = STANDARD.encode([7; 31]);
    for (text, expected) in [
        (good.clone(), "must be an id"),
        (format!("k2:{short}"), "\"k2\" must be"),
        (format!("k.2:{good}"), "must be an id"),
        (format!(":{good}"), "must be an id"),
        (format!("{}:{good}", "k".repeat(41)), "must be an id"),
        (format!("base64:{good}"), "credentials.laravel_keys"),
        (format!("k1:{good}"), "used twice"),
        ("k2:not base64, surely".to_owned(), "\"k2\" must be"),
    ] {
        let mut wrong = settings(&[("k1", 1)], &[]);
        wrong.keys.push(KeyEntry::parse(&text));
        let error = KeyRing::from_settings(&wrong).unwrap_err().to_string();
        assert!(error.starts_with("credentials.keys[1]: "), "{error}");
        assert!(error.contains(expected), "{expected}: {error}");
        assert!(!error.contains(&good) && !error.contains(&short), "{error}");
        assert!(!error.contains("surely"), "{error}");
    }
    let wrong = settings(&[], &[LARAVEL_KEY, "mOSMz11V5Jhy6"]);
    let error = KeyRing::from_settings(&wrong).unwrap_err().to_string();
    assert!(
        error.starts_with("credentials.laravel_keys[1]: must be \"base64:\""),
        "{error}"
    );
    assert!(!error.contains("mOSMz"), "{error}");
}

#[test]
fn keys_come_from_the_list_then_the_file_then_the_embedded_key_file() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("keys");
    let embedded = folder.path().join("verifyd.key");
    std::fs::write(
        &file,
        format!("# ours\n\nf1:{}\n", STANDARD.encode([3; 32])),
    )
    .unwrap();
    let mut settings = settings(&[("k1", 1)], &[]);
    settings.keys_file = file;
    let vault = open_vault(&settings, Some(&embedded)).unwrap();
    assert_eq!(vault.key_ids(), ["k1", "f1"]);
    settings.keys.clear();
    assert_eq!(
        open_vault(&settings, Some(&embedded)).unwrap().key_ids(),
        ["f1"]
    );
    assert!(!embedded.exists());
    settings.keys_file = PathBuf::new();
    let looked_for = open_existing_vault(&settings, Some(&embedded)).unwrap();
    assert!(looked_for.key_ids().is_empty() && !embedded.exists());
    let made = open_vault(&settings, Some(&embedded)).unwrap().key_ids();
    assert!(embedded.exists() && made[0].starts_with("local-"));
    let found = open_existing_vault(&settings, Some(&embedded)).unwrap();
    assert_eq!(found.key_ids(), made);
    settings.key_file = embedded;
    assert_eq!(open_vault(&settings, None).unwrap().key_ids(), made);
    settings.key_file = folder.path().join("missing.key");
    assert!(open_vault(&settings, None).is_err());
    assert!(!settings.key_file.exists());
}

#[test]
fn laravel_vectors_of_the_real_framework_open() {
    assert_eq!(
        secret_of(&open_laravel(CBC_STRING).unwrap()),
        ("s3cr3t~Q", None)
    );
    assert_eq!(
        secret_of(&open_laravel(CBC_ARRAY).unwrap()),
        ("b", Some("a"))
    );
}

#[test]
fn a_changed_laravel_payload_does_not_open() {
    let json: Value = serde_json::from_slice(&STANDARD.decode(CBC_STRING).unwrap()).unwrap();
    let with = |member: &str, value: Value| {
        let mut changed = json.clone();
        changed[member] = value;
        STANDARD.encode(changed.to_string())
    };
    let flip = |member: &str| {
        let text = json[member].as_str().unwrap();
        let first = if text.starts_with('A') { "B" } else { "A" };
        with(member, json!(format!("{first}{}", &text[1..])))
    };
    let mac = json["mac"].as_str().unwrap().to_uppercase();
    let mut no_mac = json.clone();
    no_mac.as_object_mut().unwrap().remove("mac");
    for payload in [
        flip("iv"),
        flip("value"),
        flip("mac"),
        with("mac", json!("")),
        with("mac", json!(mac)),
        with("mac", json!(["x"])),
        with("tag", json!("AAAAAAAAAAAAAAAAAAAAAA==")),
        with("iv", json!("AAAAAAAAAAAAAAAA")),
        with("value", json!({})),
        STANDARD.encode(no_mac.to_string()),
        STANDARD.encode("[]"),
        "not base64".to_owned(),
        String::new(),
    ] {
        assert!(
            matches!(open_laravel(&payload), Err(VaultError::Undecryptable(_))),
            "{payload}"
        );
    }
}

/// A payload as the framework writes it with the cipher AES-256-GCM.
fn laravel_gcm(plain: &[u8]) -> Value {
    let key = STANDARD.decode(&LARAVEL_KEY["base64:".len()..]).unwrap();
    let key = RandomizedNonceKey::new(&AES_256_GCM, &key).unwrap();
    let mut in_out = plain.to_vec();
    let nonce = key
        .seal_in_place_append_tag(Aad::empty(), &mut in_out)
        .unwrap();
    let (value, tag) = in_out.split_at(plain.len());
    json!({
        "iv": STANDARD.encode(nonce.as_ref()),
        "value": STANDARD.encode(value),
        "mac": "",
        "tag": STANDARD.encode(tag),
    })
}

fn open_gcm(plain: &str, kind: CredentialKind) -> Result<Credential, VaultError> {
    let payload = STANDARD.encode(laravel_gcm(plain.as_bytes()).to_string());
    open(&laravel_vault(), kind, &payload)
}

#[test]
fn laravel_gcm_opens_and_a_shortened_or_changed_tag_does_not() {
    let payload = laravel_gcm(b"s3cr3t");
    let encode = |value: &Value| STANDARD.encode(value.to_string());
    assert_eq!(
        secret_of(&open_laravel(&encode(&payload)).unwrap()).0,
        "s3cr3t"
    );
    let tag = STANDARD.decode(payload["tag"].as_str().unwrap()).unwrap();
    let mut other = tag.clone();
    other[0] ^= 1;
    for tag in [&tag[..12], &[], &other[..]] {
        let mut changed = payload.clone();
        changed["tag"] = json!(STANDARD.encode(tag));
        assert!(matches!(
            open_laravel(&encode(&changed)),
            Err(VaultError::Undecryptable(_))
        ));
    }
    // The same bytes, but with the tag at the end of the value: not how the framework writes it.
    let value = STANDARD.decode(payload["value"].as_str().unwrap()).unwrap();
    let mut moved = payload.clone();
    moved["value"] = json!(STANDARD.encode([value, tag].concat()));
    moved["tag"] = json!("");
    assert!(open_laravel(&encode(&moved)).is_err());
    let mut changed = payload.clone();
    changed["mac"] = json!("00");
    assert!(open_laravel(&encode(&changed)).is_err());
}

#[test]
fn all_the_forms_that_laravel_stores_are_understood() {
    use CredentialKind::{Certificate, ClientSecret, FederatedTokenFile};
    for (plain, secret, client_id) in [
        ("bare~secret", "bare~secret", None),
        (
            r#"{"client_id":"a","client_secret":"b","tenant":{"x":1}}"#,
            "b",
            Some("a"),
        ),
        (r#"{"client_secret":"b","client_id":null}"#, "b", None),
        (r#""quoted""#, "quoted", None),
        (r#"s:4:"s~.Q";"#, "s~.Q", None),
        (r#"s:21:"{"client_secret":"b"}";"#, "b", None),
        (
            r#"a:3:{s:4:"port";i:5;s:4:"näm";s:2:"ö";s:13:"client_secret";s:2:"b~";}"#,
            "b~",
            None,
        ),
    ] {
        let opened = open_gcm(plain, ClientSecret).unwrap();
        assert_eq!(secret_of(&opened), (secret, client_id), "{plain}");
    }
    for plain in [
        "",
        "N;",
        "i:5;",
        "{}",
        "{",
        "a:0:{}",
        r#"s:9:"cut";"#,
        r#"O:8:"stdClass":0:{}"#,
        r#"{"client_secret":5}"#,
        r#"{"client_secret":""}"#,
        r#"{"client_id":"a"}"#,
        "line\nend",
    ] {
        let opened = open_gcm(plain, ClientSecret);
        assert!(
            matches!(opened, Err(VaultError::Malformed(_))),
            "{plain}: {opened:?}"
        );
    }
    let (key, certificate) = &*PAIR;
    let array = json!({ "private_key": key, "certificate": certificate }).to_string();
    for plain in [format!("{certificate}{key}"), array] {
        assert_eq!(open_gcm(&plain, Certificate).unwrap().kind(), Certificate);
    }
    assert!(open_gcm("/etc/passwd", FederatedTokenFile).is_err());
    assert!(open_gcm("no pem", Certificate).is_err());
}

proptest! {
    #[test]
    fn any_secret_comes_back_in_its_own_place_only(
        text in "[!-~]{1,200}",
        at in any::<(i64, i64, i64)>(),
        other in any::<(i64, i64, i64)>(),
    ) {
        let vault = vault(&[("k1", 1)]);
        let here = place(at.0, at.1, at.2);
        let sealed = vault.seal(here, &secret(&text), None).unwrap();
        prop_assert!(!sealed.payload.contains(&text) || text.len() < 8);
        let row = stored(at.2, sealed.kind, &sealed.payload);
        let opened = vault.open(here, &row).unwrap();
        prop_assert_eq!(secret_of(&opened), (text.as_str(), None));
        prop_assume!(at != other);
        let there = place(other.0, other.1, other.2);
        prop_assert!(vault.open(there, &stored(other.2, sealed.kind, &sealed.payload)).is_err());
    }

    #[test]
    fn no_payload_makes_it_panic(payload in ".{0,200}", parts in "vfd1\\.k1\\.[A-Za-z0-9_-]{0,20}\\.[A-Za-z0-9_-]{0,60}") {
        let vault = laravel_vault();
        for payload in [payload.clone(), parts, STANDARD.encode(payload)] {
            let opened = open(&vault, CredentialKind::ClientSecret, &payload);
            prop_assert!(opened.is_err());
            let _ = vault.needs_rotation(&payload);
        }
    }

    #[test]
    fn no_plain_text_of_laravel_makes_it_panic(plain in proptest::collection::vec(any::<u8>(), 0..100)) {
        let payload = STANDARD.encode(laravel_gcm(&plain).to_string());
        let _ = open_laravel(&payload);
    }

    #[test]
    fn no_key_text_makes_it_panic_or_is_shown(text in "[a-z0-9:+/=]{8,60}") {
        let mut settings = settings(&[], &[]);
        settings.keys.push(KeyEntry::parse(&text));
        settings.laravel_keys.push(SecretString::from(text.as_str()));
        if let Err(error) = KeyRing::from_settings(&settings) {
            prop_assert!(!error.to_string().contains(&text));
        }
    }
}
