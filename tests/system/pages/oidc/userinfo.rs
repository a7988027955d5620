//! Groups that are not at the top of the ID token: in userinfo, and within an object.

use super::place::{Away, Place, place, place_with, signed_in, value_of};
use serde_json::{Value, json};
use verifyd::domain::audit::AuditAction;

const JSON: &str = "application/json";

/// The claims of an ID token without groups.
fn claims_without_groups(place: &Place, away: &Away) -> Value {
    let mut claims = place.fake.claims(away.nonce(), &[]);
    let members = claims.as_object_mut().unwrap();
    members.retain(|name, _| name != "groups" && name != "name");
    claims
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_in_the_id_token_is_read_from_userinfo() {
    let place = place().await;
    let of_kim = json!({ "sub": "4711", "name": "Kim Roe", "groups": ["readers"] });
    place.fake.informs(200, JSON, of_kim.to_string());
    let away = place.begin("/").await;
    let claims = claims_without_groups(&place, &away);
    let answer = place.answer(&away, &place.fake.signed(&claims)).await;
    let person = signed_in(&away, &answer);
    assert!(person.page("/").await.contains("oidc: Kim Roe (4711)"));
    // The access token is that of the code.
    assert_eq!(place.fake.bearers(), ["Bearer a"]);

    // Nobody asks for what the ID token has, or says to be elsewhere.
    let away = place.begin("/").await;
    signed_in(&away, &place.answer_to(&away, &["readers"]).await);
    let away = place.begin("/").await;
    assert_eq!(place.answer_to(&away, &[]).await.status(), 403);
    let away = place.begin("/").await;
    let mut claims = claims_without_groups(&place, &away);
    claims["_claim_names"] = json!({ "groups": "src1" });
    let answer = place.answer(&away, &place.fake.signed(&claims)).await;
    assert_eq!(answer.status(), 403);
    assert_eq!(place.fake.bearers().len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn userinfo_of_nobody_or_of_another_person_signs_nobody_in() {
    let place = place().await;
    let of = |subject: &str| json!({ "sub": subject, "groups": ["readers"] });
    let unnamed = json!({ "groups": ["readers"] });
    let mut long = of("4711");
    long["padding"] = json!("x".repeat(256 * 1024));
    let without_groups = json!({ "sub": "4711" });
    for (status, kind, body, answered) in [
        (200, JSON, of("4712").to_string(), 401),
        (200, JSON, unnamed.to_string(), 401),
        (200, JSON, without_groups.to_string(), 403),
        (200, JSON, "readers".to_owned(), 403),
        (200, JSON, long.to_string(), 403),
        (200, "application/jwt", of("4711").to_string(), 403),
        (401, JSON, of("4711").to_string(), 403),
        (408, JSON, of("4711").to_string(), 503),
        (429, JSON, of("4711").to_string(), 503),
        (500, JSON, of("4711").to_string(), 503),
    ] {
        let shown = format!("{status} {kind} {answered}");
        place.fake.informs(status, kind, body);
        let away = place.begin("/").await;
        let claims = claims_without_groups(&place, &away);
        let answer = place.answer(&away, &place.fake.signed(&claims)).await;
        assert_eq!(answer.status().as_u16(), answered, "{shown}");
        assert_eq!(value_of(&answer, "verifyd_session"), None, "{shown}");
    }
    assert_eq!(place.fake.bearers().len(), 10);
    assert!(place.entries(AuditAction::TokenCreated).await.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_userinfo_refuses_loses_earlier_sessions() {
    let place = place().await;
    let of_kim = json!({ "sub": "4711", "groups": ["readers"] }).to_string();
    place.fake.informs(200, JSON, of_kim.clone());
    let away = place.begin("/").await;
    let claims = claims_without_groups(&place, &away);
    let answer = place.answer(&away, &place.fake.signed(&claims)).await;
    let person = signed_in(&away, &answer);
    // Nobody knows whether the person is refused.
    for (status, answered, session) in [(503, 503, 200), (403, 403, 303)] {
        place.fake.informs(status, JSON, of_kim.clone());
        let away = place.begin("/").await;
        let claims = claims_without_groups(&place, &away);
        let answer = place.answer(&away, &place.fake.signed(&claims)).await;
        assert_eq!(answer.status().as_u16(), answered);
        assert_eq!(person.get("/").await.status().as_u16(), session);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_strange_access_token_matters_only_to_whoever_needs_it() {
    let place = place().await;
    let of_kim = json!({ "sub": "4711", "groups": ["readers"] });
    place.fake.informs(200, JSON, of_kim.to_string());
    for (access_token, has_groups, answered) in [
        (json!(5), true, 200),
        (json!(5), false, 403),
        (json!("a\n"), true, 200),
        (json!("a\n"), false, 403),
    ] {
        let away = place.begin("/").await;
        let claims = match has_groups {
            true => place.fake.claims(away.nonce(), &["readers"]),
            false => claims_without_groups(&place, &away),
        };
        let id_token = place.fake.signed(&claims);
        let tokens = json!({ "access_token": access_token, "id_token": id_token });
        place.fake.answers(200, tokens);
        let answer = away.person.get(&away.callback()).await;
        let shown = format!("{access_token} {has_groups}");
        assert_eq!(answer.status().as_u16(), answered, "{shown}");
    }
    assert!(place.fake.bearers().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_claim_within_an_object_is_read() {
    let name = "realm_access.roles";
    let place = place_with(|settings| settings.http.oidc.claim = name.to_owned()).await;
    let roles = json!({ "roles": ["readers"] });
    let of_kim = json!({ "sub": "4711", "name": "Eve", "realm_access": roles });
    place.fake.informs(200, JSON, of_kim.to_string());
    // The object is in the ID token, with and without the claim. What the ID token says stays.
    for (object, asked) in [(roles, 0), (json!({}), 1)] {
        let away = place.begin("/").await;
        let mut claims = place.fake.claims(away.nonce(), &[]);
        claims["realm_access"] = object;
        let answer = place.answer(&away, &place.fake.signed(&claims)).await;
        let person = signed_in(&away, &answer);
        assert!(person.page("/").await.contains("oidc: Kim Doe (4711)"));
        assert_eq!(place.fake.bearers().len(), asked);
    }
}
