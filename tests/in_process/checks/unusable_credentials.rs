//! Why a stored credential cannot be used stands in the run's report as it stands in the log.

use crate::checks::assert_sound;
use secrecy::SecretString;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use test_support::world::operator;
use test_support::world::{World, check};
use verifyd::credentials::credential_from_pem;
use verifyd::domain::ConnectionId;
use verifyd::domain::connection::CredentialKind;
use verifyd::domain::credential::Credential;
use verifyd::domain::credential_cause::Cause;
use verifyd::domain::hint::Hint;
use verifyd::domain::reason::Reason;
use verifyd::engine::worker::Worker;
use verifyd::ports::clock::{Clock as _, SystemClock};
use verifyd::ports::vault::SealedCredential;
use verifyd_simulator::Scenario;

const SECRET: &str = "canary-S3cr3t~Q.x_9";

/// With a certificate that is valid from the first day of that year on.
pub fn certificate(from: i32) -> Credential {
    let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_RSA_SHA256).unwrap();
    let mut parameters = rcgen::CertificateParams::new(["checks.invalid".to_owned()]).unwrap();
    parameters.not_before = rcgen::date_time_ymd(from, 1, 1);
    parameters.not_after = rcgen::date_time_ymd(from + 1, 1, 1);
    let certificate = parameters.self_signed(&key).unwrap();
    let pem = format!("{}{}", key.serialize_pem(), certificate.pem());
    credential_from_pem(&pem, SystemClock.now()).unwrap()
}

async fn report_on(world: &World, worker: &Worker, id: ConnectionId, payload: &str) -> Value {
    let stored = SealedCredential {
        kind: CredentialKind::ClientSecret,
        payload: payload.to_owned(),
        expires_at: None,
    };
    world
        .services
        .store
        .set_credential(id, &stored, operator())
        .await
        .unwrap();
    let run = world.record(id, |_| {}).await;
    worker.pipeline.process(&Hint::new(run)).await;
    let run = world.run(run).await;
    assert_sound(&run, payload);
    let report = run.report().unwrap().to_string();
    assert!(!report.contains(SECRET), "{report}");
    let check = check(&run, "preflight.credential").clone();
    let steps = check["next_steps"].as_array().unwrap();
    let places: BTreeSet<_> = steps.iter().map(|step| step["url"].as_str()).collect();
    assert_eq!(places.len(), steps.len(), "two steps are one: {steps:?}");
    check
}

#[tokio::test(flavor = "multi_thread")]
async fn the_report_says_the_cause_and_what_mends_it() {
    let world = World::new().await;
    let worker = world.worker().await;
    let tenant = Scenario::Healthy.tenant_id(1);
    let id = world.connection(1, &tenant, "health_check").await;
    let binding = world.row(id).await.binding();
    let credential = Credential::ClientSecret {
        secret: SecretString::from(SECRET),
        client_id: None,
    };
    let sealed = world
        .services
        .vault
        .seal(binding, &credential, None)
        .unwrap()
        .payload;
    let other = world.connection(2, &tenant, "health_check").await;
    let other = world.row(other).await.binding();
    let copied = world.services.vault.seal(other, &credential, None);
    let (head, body) = sealed.rsplit_once('.').unwrap();
    let mut parts: Vec<&str> = sealed.split('.').collect();
    parts[1] = "another-key";
    let laravel = "eyJpdiI6IlRUaVRTUHBZVSsvS3dRL1Q1dFQvc3c9PSIsInZhbHVlIjoiT0dLRlZzMnVuSU9wMGt0dHVSRDNEZz09IiwibWFjIjoiZWQ3Y2IyYWM5ZmI1OGNkNjM3OGFmYzMzMzM2NGQ2YzI3MmQ3NzJkNDUxODQ0NWMxMTgzMTdkODU3NzgxYmZmYyIsInRhZyI6IiJ9";
    for (payload, cause, found) in [
        (
            parts.join("."),
            Cause::KeyNotConfigured,
            Some("the key another-key"),
        ),
        (copied.unwrap().payload, Cause::NotAuthentic, None),
        (SECRET.to_owned(), Cause::PlainText, None),
        (format!("{sealed}\n"), Cause::Surrounded, None),
        (
            sealed.replace("vfd1.", "vfd7."),
            Cause::EnvelopeVersion,
            None,
        ),
        (
            // Of a length that base64 never has: cut elsewhere, it may still be read.
            format!("{head}.{}", &body[..body.len() / 8 * 4 + 1]),
            Cause::EnvelopeDamaged,
            None,
        ),
        (laravel.to_owned(), Cause::LaravelNoKey, None),
        (String::new(), Cause::Empty, None),
    ] {
        let check = report_on(&world, &worker, id, &payload).await;
        assert_eq!(
            check["reason_code"],
            Reason::CredentialUndecryptable.code(),
            "{payload}"
        );
        assert_eq!(
            check["evidence"][0],
            json!({"kind": "cause", "value": cause.text()}),
            "{payload}"
        );
        assert_eq!(check["next_steps"][0]["label"], cause.step(), "{payload}");
        let told: Vec<&str> = check["evidence"]
            .as_array()
            .unwrap()
            .iter()
            .filter(|evidence| evidence["kind"] == "found")
            .filter_map(|evidence| evidence["value"].as_str())
            .collect();
        assert_eq!(told, Vec::from_iter(found), "{payload}");
    }
}
