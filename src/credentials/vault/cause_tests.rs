//! Tests that every reason why a stored credential cannot be used has its cause.

use super::tests::{CANARY, CBC_STRING, LARAVEL_KEY, PLACE, open, secret, settings, stored};
use super::*;
use crate::credentials::laravel;
use crate::credentials::pem::tests::certificate_of;
use crate::domain::TenantId;
use crate::domain::connection::CredentialKind;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use proptest::prelude::*;

fn vault(key: &str, byte: u8, laravel_keys: &[&str]) -> KeyRingVault {
    open_vault(&settings(&[(key, byte)], laravel_keys), None).unwrap()
}

fn flaw(vault: &KeyRingVault, payload: &str) -> Flaw {
    let error = open(vault, CredentialKind::ClientSecret, payload).unwrap_err();
    let undecryptable = matches!(error, VaultError::Undecryptable(_));
    let flaw = error.flaw().unwrap().clone();
    assert_eq!(undecryptable, flaw.cause.before_decryption(), "{payload}");
    // The log and the report use the same words.
    assert!(error.to_string().contains(flaw.cause.text()), "{error}");
    assert_eq!(flaw.evidence()[0].value, flaw.cause.text());
    flaw
}

fn sealed(vault: &KeyRingVault, plain: &[u8]) -> String {
    envelope::seal(&vault.ring, &PLACE, plain).unwrap()
}

#[test]
fn every_payload_that_cannot_be_decrypted_has_its_cause() {
    let ours = vault("k1", 1, &[LARAVEL_KEY]);
    let secret = secret(CANARY);
    let good = ours.seal(PLACE, &secret, None).unwrap().payload;
    let elsewhere = CredentialBinding {
        tenant_id: TenantId(9),
        ..PLACE
    };
    let copied = ours.seal(elsewhere, &secret, None).unwrap().payload;
    let other_key = vault("k2", 1, &[])
        .seal(PLACE, &secret, None)
        .unwrap()
        .payload;
    let other_bytes = vault("k1", 7, &[])
        .seal(PLACE, &secret, None)
        .unwrap()
        .payload;
    let last_dot = good.rfind('.').unwrap();
    // Cut off where base64 allows it.
    let whole_groups = &good[..last_dot + 1 + (good.len() - last_dot - 2) / 4 * 4];
    let array = STANDARD.encode("[1]");
    let no_payload = STANDARD.encode("{\"iv\": 5}");
    for (payload, cause) in [
        ("", Cause::Empty),
        (" \r\n", Cause::Empty),
        ("\u{feff}", Cause::Empty),
        (&format!("{good}\n"), Cause::Surrounded),
        (&format!("{good}\r\n"), Cause::Surrounded),
        (&format!(" {good}"), Cause::Surrounded),
        (&format!("\u{feff}{good}"), Cause::Surrounded),
        (&good[..last_dot], Cause::EnvelopeDamaged),
        (&good[..last_dot + 9], Cause::EnvelopeDamaged),
        (&good[..good.len() - 1], Cause::EnvelopeDamaged),
        (&format!("{good}.x"), Cause::EnvelopeDamaged),
        (whole_groups, Cause::NotAuthentic),
        (&copied, Cause::NotAuthentic),
        (&other_bytes, Cause::NotAuthentic),
        (&other_key, Cause::KeyNotConfigured),
        (&format!("\"{good}\""), Cause::Surrounded),
        (&format!(" '{good}'\n"), Cause::Surrounded),
        (&good.replace("vfd1.", "vfd2."), Cause::EnvelopeVersion),
        (&good.replace("vfd1.", "VFD1."), Cause::EnvelopeCase),
        (&good.to_uppercase(), Cause::EnvelopeCase),
        (&format!("vfd1.k1.{}", "A".repeat(200_000)), Cause::TooLong),
        (CANARY, Cause::PlainText),
        ("{\"client_secret\": \"x\"}", Cause::PlainText),
        ("-----BEGIN CERTIFICATE-----", Cause::PlainText),
        (&array, Cause::NeitherForm),
        (&no_payload, Cause::LaravelDamaged),
        (&CBC_STRING[..60], Cause::LaravelDamaged),
        (&CBC_STRING[..61], Cause::LaravelDamaged),
        (&CBC_STRING.to_uppercase(), Cause::LaravelDamaged),
        (&CBC_STRING.to_lowercase(), Cause::LaravelDamaged),
        (&format!("\"{CBC_STRING}\""), Cause::Surrounded),
        (&format!("{CBC_STRING}'\n"), Cause::Surrounded),
        (&format!("{CBC_STRING}\u{200b}"), Cause::Surrounded),
        (&format!("\n\u{feff}{CBC_STRING}"), Cause::Surrounded),
    ] {
        assert_eq!(flaw(&ours, payload).cause, cause, "{payload}");
    }
    assert_eq!(flaw(&ours, &other_key).found.as_deref(), Some("the key k2"));

    // White space in or around a Laravel payload changes nothing: PHP's base64 ignores it.
    let (first, rest) = CBC_STRING.split_at(76);
    for payload in [
        format!("{CBC_STRING}\r\n"),
        format!(" \t{CBC_STRING} \n"),
        format!("{first}\n{rest}\n"),
    ] {
        open(&ours, CredentialKind::ClientSecret, &payload).unwrap();
    }
    let of_another = format!("base64:{}", STANDARD.encode([9; 32]));
    let other = vault("k1", 1, &[&of_another]);
    assert_eq!(flaw(&other, CBC_STRING).cause, Cause::LaravelOtherKey);
    assert_eq!(
        flaw(&vault("k1", 1, &[]), CBC_STRING).cause,
        Cause::LaravelNoKey
    );
}

/// The rules may be stricter than those of the version that sealed it.
#[test]
fn a_rotation_refuses_only_what_it_cannot_read() {
    use CredentialKind::{Certificate, ClientSecret};
    let old = vault("k1", 1, &[]);
    let both = open_vault(&settings(&[("k2", 2), ("k1", 1)], &[LARAVEL_KEY]), None).unwrap();
    let new = vault("k2", 2, &[]);
    let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_RSA_SHA256).unwrap();
    let reversed = serde_json::json!({ "certificate": {
        "private_key": key.serialize_pem(),
        "certificate": certificate_of(&key, 2031, 2029),
    }});
    for (kind, plain) in [
        (Certificate, reversed.to_string()),
        (
            ClientSecret,
            r#"{"client_secret": {"client_secret": "ab "}}"#.to_owned(),
        ),
        (ClientSecret, "{}".to_owned()),
    ] {
        let payload = sealed(&old, plain.as_bytes());
        let again = both.reseal(PLACE, &stored(3, kind, &payload)).unwrap();
        let opened = envelope::open(&new.ring, &PLACE, &again).unwrap();
        assert_eq!(*opened, plain.as_bytes());
        let cause = |error: VaultError| error.flaw().unwrap().cause;
        let lost = new.reseal(PLACE, &stored(3, kind, &payload));
        assert_eq!(lost.map_err(cause), Err(Cause::KeyNotConfigured));
        let elsewhere = both.reseal(PLACE, &stored(9, kind, &payload));
        assert_eq!(elsewhere.map_err(cause), Err(Cause::OtherConnection));
    }
    // What Laravel encrypted has to be understood.
    let laravel = |kind| both.reseal(PLACE, &stored(3, kind, CBC_STRING));
    assert!(matches!(
        laravel(Certificate),
        Err(VaultError::Malformed(_))
    ));
    open(&new, ClientSecret, &laravel(ClientSecret).unwrap()).unwrap();
}

#[test]
fn every_content_that_cannot_be_used_has_its_cause() {
    let ours = vault("k1", 1, &[]);
    let secret =
        |text: &str| serde_json::json!({"client_secret": {"client_secret": text}}).to_string();
    for (plain, cause, found) in [
        ("{}".to_owned(), Cause::UnknownContent, None),
        ("\"text\"".to_owned(), Cause::UnknownContent, None),
        (
            r#"{"client_secret": {"secret": "x"}}"#.to_owned(),
            Cause::UnknownContent,
            None,
        ),
        (
            r#"{"api_key": {"client_secret": "x"}}"#.to_owned(),
            Cause::UnknownContent,
            None,
        ),
        (
            r#"{"federated_token_file": {"path": "/token"}}"#.to_owned(),
            Cause::OtherKind,
            None,
        ),
        (secret(""), Cause::SecretEmpty, None),
        (secret(&"x".repeat(5000)), Cause::SecretTooLong, None),
        (secret("ab "), Cause::SecretSpace, Some("byte 3")),
        (
            secret("ab\n"),
            Cause::SecretCharacter,
            Some("byte 3 is U+000A LINE FEED"),
        ),
        (
            secret("\u{feff}ab"),
            Cause::SecretCharacter,
            Some("byte 1 is U+FEFF"),
        ),
        (
            secret("a\u{a0}b"),
            Cause::SecretCharacter,
            Some("byte 2 is U+00A0 NO-BREAK SPACE"),
        ),
    ] {
        let flaw = flaw(&ours, &sealed(&ours, plain.as_bytes()));
        assert_eq!(flaw.cause, cause, "{plain}");
        let described = flaw.found.unwrap_or_default();
        assert!(
            described.contains(found.unwrap_or_default()),
            "{plain}: {described}"
        );
    }

    // Encrypted before it was encrypted here.
    let envelope = sealed(&ours, b"{}");
    for twice in [CBC_STRING, &format!("{CBC_STRING}\n"), &envelope] {
        let flaw = flaw(&ours, &sealed(&ours, secret(twice).as_bytes()));
        assert_eq!(flaw, Flaw::from(Cause::EncryptedTwice), "{twice}");
    }

    use CredentialKind::{Certificate, ClientSecret};
    for (plain, kind, cause) in [
        (CBC_STRING, Certificate, Cause::EncryptedTwice),
        (&envelope, Certificate, Cause::EncryptedTwice),
        (r#"{"secret": "x"}"#, ClientSecret, Cause::LaravelContent),
        (
            r#"{"client_secret": 5}"#,
            ClientSecret,
            Cause::LaravelContent,
        ),
        (
            r#"{"private_key": "x", "certificate": "y"}"#,
            ClientSecret,
            Cause::OtherKind,
        ),
        (
            "-----BEGIN CERTIFICATE-----",
            ClientSecret,
            Cause::OtherKind,
        ),
        (r#"{"client_secret": "x"}"#, Certificate, Cause::OtherKind),
        ("bare secret", Certificate, Cause::NoPrivateKey),
        ("i:5;", ClientSecret, Cause::LaravelContent),
    ] {
        let error = laravel::interpret(plain.as_bytes(), kind, SystemClock.now()).unwrap_err();
        assert_eq!(error.flaw().map(|flaw| flaw.cause), Some(cause), "{plain}");
    }
}

#[test]
fn what_laravel_encrypted_in_place_of_a_credential_is_named() {
    use CredentialKind::{Certificate, ClientSecret};
    for (plain, found) in [
        ("null", "null in JSON"),
        (" null\n", "null in JSON"),
        ("true", "a boolean in JSON"),
        ("[\"canary\"]", "an array without names in JSON"),
        ("-17", "a number in JSON"),
        ("{}", "an array or object without them"),
        ("a:0:{}", "an array or object without them"),
        ("s:4:\"null\";", "null in JSON"),
        ("N;", "null of PHP"),
        ("b:1;", "a boolean of PHP"),
        ("i:5;", "a number of PHP"),
    ] {
        for kind in [ClientSecret, Certificate] {
            let error = laravel::interpret(plain.as_bytes(), kind, SystemClock.now()).unwrap_err();
            let expected = Flaw {
                cause: Cause::LaravelContent,
                found: Some(found.to_owned()),
            };
            assert_eq!(error.flaw(), Some(&expected), "{plain}");
        }
    }
    // Secrets that only begin so.
    for plain in ["null~Q", "17~x", "[x", "true.", "5e"] {
        let opened = laravel::interpret(plain.as_bytes(), ClientSecret, SystemClock.now());
        assert!(opened.is_ok(), "{plain}: {opened:?}");
    }
}

proptest! {
    #[test]
    fn no_cause_quotes_the_payload(secret in "[a-zA-Z0-9~._-]{8,40}", junk in "[ -~\u{a0}-\u{ff}]{0,3}") {
        let ours = vault("k1", 1, &[LARAVEL_KEY]);
        for payload in [
            format!("{secret}{junk}"),
            format!("vfd1.{secret}.{junk}.{secret}"),
            format!("vfd1.k1.{secret}.{secret}"),
            sealed(&ours, format!(r#"{{"client_secret": {{"client_secret": "{secret}\u00a0"}}}}"#).as_bytes()),
        ] {
            if let Err(error) = open(&ours, CredentialKind::ClientSecret, &payload) {
                let evidence = error.flaw().map(Flaw::evidence).unwrap_or_default();
                let described = format!("{error} {evidence:?}");
                // What stands where the id of a key does is an id.
                let is_id = payload.starts_with(&format!("vfd1.{secret}."));
                prop_assert!(is_id || !described.contains(&secret), "{}", described);
            }
        }
    }
}
